"""One call of a dense QP layer, n = m = 10, float64: milliseconds of forward and backward, next to the errors.

    minimize 1/2 |L z|^2 + p'z   subject to  G z <= h          all four are parameters, batch sizes 1 and 128

Peers that are installed run in the same process, in turn with ours (A B A B ...); the best of the rounds counts. Errors are
largest entries relative to a reference: the solution of the active-set KKT system and its derivative, in longdouble-refined
NumPy. Run: python benchmarks/single_call.py
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings

import cvxpy as cp
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer


def problem(n=10, m=10):
    """The parametrized problem, its parameters and its variable."""
    L, p, G, h, z = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ z) + p @ z), [G @ z <= h]), [L, p, G, h], [z]


def data(B, n=10, m=10, seed=0):
    """Values for a batch of B random feasible problems; B = 1 has no batch dimension."""
    rng = np.random.default_rng(seed)
    U = rng.random((B, n, n))
    Q = U @ U.transpose(0, 2, 1) + 1e-3 * np.eye(n)
    G, z, s = rng.standard_normal((B, m, n)), rng.standard_normal((B, n)), rng.random((B, m))
    values = [np.linalg.cholesky(Q).transpose(0, 2, 1), rng.standard_normal((B, n)), G, (G @ z[..., None])[..., 0] + s]
    return [torch.tensor(v[0] if B == 1 else v, requires_grad=True) for v in values]


def reference(values, weights):
    """Solution and gradient of <weights, z> in p, from the KKT system of the active set that our solution has."""
    L, p, G, h = (v.detach().numpy() for v in values)
    solution = layers()["cvxlayers"](*values)[0].detach().numpy()
    z, g = np.empty(p.shape), np.empty(p.shape)
    for i in np.ndindex(p.shape[:-1]):
        active = G[i] @ solution[i] > h[i] - 1e-7
        k, n = int(active.sum()), p.shape[-1]
        K = np.block([[L[i].T @ L[i], G[i][active].T], [G[i][active], np.zeros((k, k))]])
        rhs = np.stack([np.r_[-p[i], h[i][active]], np.r_[-weights[i], np.zeros(k)]], 1)
        x = np.linalg.solve(K, rhs)
        for _ in range(3):
            residual = rhs.astype(np.longdouble) - K.astype(np.longdouble) @ x.astype(np.longdouble)
            x = x + np.linalg.solve(K, residual.astype(np.float64))
        z[i], g[i] = x[:n, 0], x[:n, 1]
    return z, g


def layers():
    """name -> layer, ours and the peers that are installed."""
    found = {"cvxlayers": CvxpyLayer(*problem())}
    if importlib.util.find_spec("cvxpylayers"):
        from cvxpylayers.torch import CvxpyLayer as Peer

        found["cvxpylayers, diffcp"] = Peer(*problem(), solver="DIFFCP")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found["cvxpylayers, Moreau"] = Peer(*problem(), solver="MOREAU")
    else:
        print("cvxpylayers is not installed (pip install cvxpylayers): no peer to compare with")
    return found


def measure(layer, values, weights, repeat):
    """(forward ms, backward ms, z, gradient in p), medians over `repeat` calls."""
    forward, backward = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        (z,) = layer(*values)
        middle = time.perf_counter()
        grads = torch.autograd.grad((z * weights).sum(), values)
        backward.append(time.perf_counter() - middle)
        forward.append(middle - start)
    return 1e3 * np.median(forward), 1e3 * np.median(backward), z.detach().numpy(), grads[1].numpy()


def main(rounds, repeat):
    warnings.simplefilter("ignore")
    print(
        f"{'dense QP n = m = 10':26s} {'B':>4s} {'forward ms':>11s} {'backward ms':>12s} {'error of z':>11s} {'of dL/dp':>9s}"
    )
    for B in (1, 128):
        values = data(B)
        weights = torch.tensor(np.random.default_rng(1).standard_normal(values[1].shape))
        exact = reference(values, weights.numpy())
        best, compiled = {}, layers()
        for _ in range(rounds):
            for name, layer in compiled.items():
                result = measure(layer, values, weights, max(3, repeat // B if B > 1 else repeat))
                best[name] = min(best.get(name, result), result, key=lambda r: r[0] + r[1])
        for name, (forward, backward, z, g) in best.items():
            errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip((z, g), exact, strict=True)]
            print(f"{name:26s} {B:4d} {forward:11.3f} {backward:12.3f} {errors[0]:11.1e} {errors[1]:9.1e}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=200)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.repeat)
