"""What a warm start brings in a training loop: milliseconds per step, forward and backward, cold and warm.

The parameters move by a small random step in each iteration, as under a learning rate, and each call starts from the info of
the one before. Cold and warm run in turn (A B A B ...), on the same values; the errors are the largest difference between
their solutions. Run: python benchmarks/warm_start.py
"""

from __future__ import annotations

import time

import cvxpy as cp
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer

STEPS = 12


def qp(n, m):
    """min 1/2 |L z|^2 + p'z, G z <= h; p moves."""
    rng = np.random.default_rng(0)
    L, G = rng.standard_normal((n, n)) / np.sqrt(n) + np.eye(n), rng.standard_normal((m, n))
    p, z = cp.Parameter(n), cp.Variable(n)
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ z) + p @ z), [G @ z <= 1]), [p], [z], rng.standard_normal(n)


def socp(n):
    """A portfolio: max r'w - |S w|, sum(w) = 1, w >= 0; r moves."""
    rng = np.random.default_rng(0)
    S, r, w = rng.standard_normal((10, n)) / 3, cp.Parameter(n), cp.Variable(n)
    rows = [cp.sum(w) == 1, w >= 0]
    return cp.Problem(cp.Minimize(cp.norm(S @ w) + 0.1 * cp.sum_squares(w) - r @ w), rows), [r], [w], rng.standard_normal(n)


def logistic(n):
    """Entropy-regularized choice: max c'x + sum entr(x), sum(x) = 1, x <= 0.3; c moves."""
    c, x = cp.Parameter(n), cp.Variable(n)
    rows = [cp.sum(x) == 1, x <= 0.3]
    return cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), rows), [c], [x], np.random.default_rng(0).standard_normal(n)


CASES = {
    "QP, n = m = 10": lambda: qp(10, 10),
    "QP, n = m = 60": lambda: qp(60, 60),
    "SOCP, portfolio n = 40": lambda: socp(40),
    "entropy, n = 20": lambda: logistic(20),
}


def measure(build, batch, rate, solver):
    """(cold ms, warm ms, share of items answered by the warm start, largest difference)."""
    problem, parameters, variables, center = build()
    layer = CvxpyLayer(problem, parameters, variables, solver=solver)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(STEPS + 1, batch, center.size, dtype=torch.float64, generator=generator)
    values = torch.tensor(center) + torch.cat([noise[:1], rate * noise[1:]]).cumsum(0)
    _, info = layer(values[0], return_info=True)
    times, warm_items, error = {"cold": [], "warm": []}, 0, 0.0
    for step in range(1, STEPS + 1):
        outputs = {}
        for kind in ("cold", "warm"):
            leaf = values[step].clone().requires_grad_()
            start = time.perf_counter()
            (x,), found = layer(leaf, return_info=True, warm_start=info if kind == "warm" else None)
            (x**2).sum().backward()
            times[kind].append(time.perf_counter() - start)
            outputs[kind] = x.detach()
        info = found
        warm_items += int((info.solver == 0).sum())
        error = max(error, float((outputs["cold"] - outputs["warm"]).abs().max()))
    cold, warm = (1e3 * float(np.median(times[kind])) for kind in ("cold", "warm"))
    return cold, warm, warm_items / (STEPS * batch), error


def main():
    """Print the table."""
    torch.set_num_threads(1)
    print("| problem | solver | batch | step | cold, ms | warm, ms | ratio | answered by the warm start | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, build in CASES.items():
        for solver in (None, "scs"):
            for batch, rate in ((1, 1e-2), (32, 1e-2), (32, 1e-1)):
                cold, warm, share, error = measure(build, batch, rate, solver)
                times = f"{cold:.2f} | {warm:.2f} | {cold / warm:.1f}"
                print(f"| {name} | {solver or 'default'} | {batch} | {rate:g} | {times} | {share:.0%} | {error:.0e} |")


if __name__ == "__main__":
    main()
