"""Sinkhorn's map at low temperature against its peers, forward and backward, in ms for a batch of float64.

Scores are uniform in [0, 1], the temperature is 0.01 of their range, and every solver is asked for the marginals to 1e-9,
which peers may miss after `MOST` iterations. All that runs on one problem runs in turn (A B A B ...); the best call counts.
The errors are the largest one of the sums of rows and columns or of the optimality condition X - tau log P = u 1' + 1 v', and
that of the gradient, relative to its largest entry, to its formula at our plan by least squares.

Peers are POT (a loop over the batch, and its solver for batches; both differentiate by unrolling, which is left out where it
would take more than `MEMORY`) and OTT-JAX (compiled before; implicit differentiation). Those that are not installed are
skipped. Run: python benchmarks/transport.py [--quick]
"""

from __future__ import annotations

import numpy as np
import torch
from cases import Entry, difference, in_turn, installed
from report import OURS, Row, run

from cvxlayers.torch import sinkhorn

TAU, GOAL = 0.01, 1e-9
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


def wrong(X, P):
    """The largest error of a sum, or violation of the optimality condition."""
    R = X - TAU * np.log(P)
    crossed = R - R[:, :1] - R[:, :, :1] + R[:, :1, :1]
    return float(max(np.abs(crossed).max(), *(np.abs(P.sum(axis) - 1).max() for axis in (-1, -2))))


def gradient(P, G):
    """That of <G, P> in X: P (G - u 1' - 1 v')/tau, whose rows and columns sum to zero."""
    out = np.empty_like(P)
    for k, (p, g) in enumerate(zip(P, G, strict=True)):
        sums = np.concatenate([(p * g).sum(1), (p * g).sum(0)])
        M = np.block([[np.diag(p.sum(1)), p], [p.T, np.diag(p.sum(0))]])
        u, v = np.split(np.linalg.lstsq(M, sums)[0], 2)
        out[k] = p * (g - u[:, None] - v) / TAU
    return out


def rows(options):
    """A row for each size. Backward is forward and backward less forward: JAX has no other."""
    for n, B in SIZES[: 2 if options.quick else None]:
        rng = np.random.default_rng(0)
        X, G = rng.random((B, n, n)), rng.standard_normal((B, n, n))
        plugins = [ours, *(p for p, package in ((pot, "ot"), (ott, "ott")) if installed(package))]
        solvers = [solver for plugin in plugins for solver in plugin(X, G)]
        forward = {name: Entry(name, 1, f) for name, f, _ in solvers}
        both = {name: Entry(name, 1, g) for name, _, g in solvers if g}
        limits = options.rounds, options.seconds
        first, second = (in_turn(list(entries.values()), None, *limits) for entries in (forward, both))
        right = gradient(first[forward[OURS]][2], G)
        records = []
        for name, entry in forward.items():
            times, _, P, _ = first[entry]
            record = {"name": name, "times": (min(times), None), "errors": (wrong(X, P), None)}
            if name in both:
                total, _, found, _ = second[both[name]]
                record["times"] = min(times), max(0.0, min(total) - min(times))
                record["errors"] = wrong(X, P), difference(found, right)
            records.append(record)
        yield Row(f"sinkhorn N={n}", B, records)


if __name__ == "__main__":
    run(__doc__, rows)
