"""Quadratic programs."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(11)


def problem(n, equalities, inequalities, tight):
    """A strictly convex QP whose solution x and multipliers are known, `tight` of the inequalities active."""
    L, x = RNG.standard_normal((n, n)), RNG.standard_normal(n)
    Q, A, G = L @ L.T + np.eye(n), RNG.standard_normal((equalities, n)), RNG.standard_normal((inequalities, n))
    lam, slack = RNG.uniform(0.5, 1.5, inequalities), RNG.uniform(0.5, 1.5, inequalities)
    lam[tight:], slack[:tight] = 0, 0
    p = -Q @ x - A.T @ RNG.standard_normal(equalities) - G.T @ lam
    return Q, p, A, A @ x, G, G @ x + slack


def case(n, equalities, inequalities, tight, only=None, **options):
    keep = slice(only)
    items = tuple(problem(n, equalities, inequalities, tight)[keep] for _ in range(3))
    return Case("qp", items, options, second=True)


CASES = {
    "qp": case(4, 1, 3, 2),
    "qp with multipliers": case(4, 1, 3, 2, return_duals=True),
    "qp with equalities": case(3, 2, 0, 0, only=4),
    "qp without rows": case(3, 0, 0, 0, only=2),
    "qp by arrays": case(2, 1, 2, 1, return_duals=True, solver="arrays")._replace(single=2e-3),  # of multipliers
}
