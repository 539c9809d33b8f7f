"""Sinkhorn's map at low temperature against its peers: forward alone, and forward and backward, in ms for a batch of float64.

Scores are uniform in [0, 1], the temperature is 0.01 of their range, and every solver is asked for the marginals to 1e-9,
which peers may miss after `MOST` iterations. All that runs on one problem runs in turn (A B A B ...); the best call counts.
Beside the times are the largest relative error of a sum of a row or column, the largest violation of the optimality condition
X - tau log P = u 1' + 1 v', and the difference between the gradient and ours, relative to its largest entry.

Peers are POT (a loop over the batch, and its solver for batches; both differentiate by unrolling, which is left out where it
would take more than `MEMORY`) and OTT-JAX (compiled before; implicit differentiation). Those that are not installed are
skipped. Run: python benchmarks/transport.py [--quick]
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from cases import Entry, difference, in_turn, installed, limits, machine, parser

from cvxlayers.torch import sinkhorn

OURS, TAU, GOAL = "cvxlayers", 0.01, 1e-9
SIZES = tuple((n, B) for n in (10, 50, 200) for B in (1, 16))
MOST = 5000  # iterations of the peers; with some scores 100,000 are not enough
MEMORY = 2e9  # bytes of what an unrolled loop keeps


def ours(X, G):
    """(name, forward, forward and backward)."""
    yield OURS, *_torch(lambda X: sinkhorn(X, TAU), X, G)


def pot(X, G):
    """POT's two."""
    import ot

    n = X.shape[-1]
    a = torch.full((n,), 1 / n, dtype=torch.float64)
    options = {"reg": TAU, "numItermax": MOST, "stopThr": GOAL / n, "warn": False}

    def loop(X):
        return torch.stack([n * ot.bregman.sinkhorn_log(a, a, -x, **options) for x in X])

    def batch(X):
        options = {"method": "log_sinkhorn", "max_iter": MOST, "tol": GOAL / n, "grad": "autodiff"}
        return n * ot.solve_batch(-X, TAU, **options).plan

    steps = ot.bregman.sinkhorn_log(a, a, -torch.tensor(X[0]), log=True, **options)[1]["niter"]
    unrolled = 8 * 6 * X.size * steps < MEMORY
    for name, function in (("POT", loop), ("POT, batch", batch)):
        forward, both = _torch(function, X, G)
        yield name, forward, both if unrolled else None


def ott(X, G):
    """OTT-JAX."""
    import jax
    import jax.numpy as jnp
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    jax.config.update("jax_enable_x64", True)
    solver, n = Sinkhorn(threshold=GOAL, max_iterations=MOST), X.shape[-1]

    def plan(x):
        return n * solver(LinearProblem(Geometry(cost_matrix=-x, epsilon=TAU))).matrix

    X, G = jnp.asarray(X), jnp.asarray(G)
    forward = jax.jit(jax.vmap(plan))
    both = jax.jit(jax.grad(lambda X: jnp.sum(G * jax.vmap(plan)(X))))
    forward(X), both(X)  # compile
    yield "OTT-JAX", lambda: np.asarray(forward(X)), lambda: np.asarray(both(X))


def _torch(function, X, G):
    fixed, moving, G = torch.tensor(X), torch.tensor(X, requires_grad=True), torch.tensor(G)
    return lambda: function(fixed).numpy(), lambda: torch.autograd.grad(function(moving), moving, G)[0].numpy()


def errors(X, P):
    """Those of the sums, and of the condition."""
    sums = max(np.abs(P.sum(axis) - 1).max() for axis in (-1, -2))
    R = X - TAU * np.log(P)
    crossed = R - R[:, :1] - R[:, :, :1] + R[:, :1, :1]
    return sums, np.abs(crossed).max()


def measured(n, B, rounds, seconds):
    """A line for each solver: forward, forward and backward in ms, and the three errors."""
    rng = np.random.default_rng(0)
    X, G = rng.random((B, n, n)), rng.standard_normal((B, n, n))
    plugins = [ours, *(p for p, package in ((pot, "ot"), (ott, "ott")) if installed(package))]
    solvers = [solver for plugin in plugins for solver in plugin(X, G)]
    forward = {name: Entry(name, 1, f) for name, f, _ in solvers}
    both = {name: Entry(name, 1, g) for name, _, g in solvers if g}
    first, second = (in_turn(list(entries.values()), None, rounds, seconds) for entries in (forward, both))
    own = second[both[OURS]][2]
    for name, entry in forward.items():
        times, _, P, _ = first[entry]
        sums, condition = errors(X, P)
        line = f"{name:12} {min(times):9.2f}"
        if name in both:
            times, _, gradient, _ = second[both[name]]
            line += f" {min(times):9.2f}   {sums:.0e} {condition:.0e} {difference(gradient, own):.0e}"
        else:
            line += f" {'':9}   {sums:.0e} {condition:.0e}"
        yield line


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    options = parser(__doc__).parse_args()
    print(machine(), flush=True)
    for n, B in SIZES[: 2 if options.quick else None]:
        print(f"\nN = {n}, B = {B}: forward, forward and backward [ms]; errors of sums, condition, gradient")
        for line in measured(n, B, *limits(options)):
            print(line, flush=True)
