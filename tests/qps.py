"""Random QPs for the native engine: every kind of problem on every kind of pattern.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b,  s = 0 in the first `zero` rows,  s >= 0 in the others

A family is a sparsity pattern; a kind is what is done to the values. Kinds keep to the pattern, by entries that are zero,
so that a batch of one family holds all of its kinds side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import clarabel
import numpy as np
import scipy.sparse as sp

from cvxlayers import native
from cvxlayers.program import Status

EITHER = "infeasible or unbounded"  # both certificates exist: P is 0, no point is feasible
EVERY = ("normal", "weak", "scaled", "lp", "deficient", "free")  # kinds for every pattern with rows
PAIRS = ("infeasible", "lp infeasible", "tight", "redundant", "zero rows")  # kinds that need two equal inequality rows


@dataclass(frozen=True)
class Family:
    """A pattern: P (n, n) and A (m, n) as masks, and how many problems of it are tested."""

    name: str
    P: np.ndarray
    A: np.ndarray
    zero: int
    count: int

    @property
    def n(self):
        return len(self.P)

    @property
    def m(self):
        return len(self.A)

    @cached_property
    def pairs(self):
        """Inequality rows with the pattern of the row after them."""
        return [i for i in range(self.zero, self.m - 1) if (self.A[i] == self.A[i + 1]).all()]

    @cached_property
    def kinds(self):
        """Names of what `problem` can make on this pattern."""
        if self.m == 0:
            return ("normal", "deficient", "free")
        twins = self.zero >= 2 and (self.A[0] == self.A[1]).all()
        dense = self.A.all() and self.m > self.zero
        equality = (("redundant equalities", "inconsistent") if twins else ()) + ("unbounded",) * bool(dense)
        return EVERY + PAIRS * bool(self.pairs) + equality

    @cached_property
    def upper(self):
        """Rows and columns of the stored entries of P."""
        return np.nonzero(np.triu(self.P))

    def plan(self):
        """A new plan of the engine."""
        A = sp.csr_array(self.A.astype(float))
        return native.Plan(self.n, self.m, self.zero, *self.upper, A.indptr, A.indices)

    def batch(self, seed=0, count=None):
        """(kinds, problems, values): problems (P, q, A, b) as dense arrays, values as arguments of `Plan.solve`."""
        rng = np.random.default_rng([seed, self.n, self.m])
        kinds = [self.kinds[k % len(self.kinds)] for k in range(count or self.count)]
        problems = [problem(self, kind, rng) for kind in kinds]
        P, q, A, b = (np.stack(a) for a in zip(*problems, strict=True))
        return kinds, problems, (P[:, *self.upper], q, A[:, self.A], b)


def problem(family, kind, rng):
    """(P, q, A, b) with a known solution, which most kinds then take away."""
    n, m, zero = family.n, family.m, family.zero
    L = np.where(family.P, rng.standard_normal((n, n)), 0)
    P = L @ L.T / n if family.P.all() else np.diag(np.diag(L) ** 2)
    P, A = P + 0.01 * np.diag(np.diag(family.P)), np.where(family.A, rng.standard_normal((m, n)), 0)
    if not family.P.all():
        part = np.where(family.P, 0.1 * (L + L.T), 0)
        P = P + part + np.diag(np.abs(part).sum(1)) * np.diag(family.P)  # diagonally dominant
    x = rng.standard_normal(n)
    s = np.r_[np.zeros(zero), rng.random(m - zero) * (rng.random(m - zero) < 0.6)]
    for i in family.pairs[::2]:  # one of two at most: two bounds of a variable
        s[i + 1] += (s[i] == 0) * rng.random()
    y = np.r_[rng.standard_normal(zero), rng.random(m - zero) * (s[zero:] == 0)]
    if kind in ("lp", "lp infeasible"):
        P = 0 * P
    if kind == "weak":  # rows that just touch the solution
        y[zero:] *= rng.random(m - zero) < 0.7
    if kind == "deficient":
        keep = rng.random(n) < 0.5
        P = P * keep * keep[:, None]
    if kind == "redundant equalities":
        A[1] = -2 * A[0]
    if kind == "zero rows":  # a row that says nothing
        i = rng.choice(family.pairs)
        A[i], s[i] = 0, rng.random() * (rng.random() < 0.5)
        y[i] = 0
    if kind == "redundant":
        for i in family.pairs:
            if rng.random() < 0.3:
                A[i + 1], s[i + 1], y[i + 1] = A[i], s[i], (s[i] == 0) * rng.random()
    if kind == "tight":  # a thin slab, or an equality in two parts
        for i in family.pairs[:: 2 + n // 4]:
            A[i + 1], s[i], s[i + 1], y[i], y[i + 1] = -A[i], 0, 0, rng.random(), 0
            if rng.random() < 0.5:
                s[i + 1] = 10 ** rng.uniform(-8, -4)
    if kind == "unbounded":
        d = rng.standard_normal(n)
        d /= np.linalg.norm(d)
        A = A - np.outer(A @ d, d)
        A[zero:] -= np.outer(0.1 * rng.random(m - zero), d)
        project = np.eye(n) - np.outer(d, d)
        P = project @ P @ project
    q, b = -P @ x - A.T @ y, A @ x + s
    if kind == "unbounded":
        q = q - d * (q @ d + 0.5 + rng.random())
    if kind == "free":  # a variable that nothing holds
        j = rng.integers(n)
        P[j] = P[:, j] = A[:zero, j] = 0
        A[zero:, j] = -np.abs(A[zero:, j])
        q, b = -P @ x - A.T @ y, A @ x + s
        q[j] = -1 - rng.random()
    if kind in ("infeasible", "lp infeasible"):
        i = rng.choice(family.pairs)
        A[i + 1], b[i + 1] = -A[i], -b[i] - 1 - rng.random()
    if kind == "inconsistent":
        A[1], b[1] = 2 * A[0], 2 * b[0] + 1 + rng.random()
    if kind == "scaled":
        D = 10 ** rng.uniform(-3, 3, n) if rng.random() < 0.5 else 10 ** rng.uniform(-2, 2, n)
        E = 10 ** rng.uniform(-3, 3, m)
        P, q, A, b = P * D[:, None] * D, q * D, A * D * E[:, None], b * E
    return (P + P.T) / 2, q, A, b


def reference(problem, zero, kind):
    """What Clarabel says: a Status, or EITHER for the kind that is both."""
    P, q, A, b = problem
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    cones = [clarabel.ZeroConeT(zero)] * bool(zero) + [clarabel.NonnegativeConeT(len(b) - zero)] * (len(b) > zero)
    solver = clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(A), b, cones, settings)
    found = str(solver.solve().status)
    status = next((s for name, s in NAMES.items() if name in found), Status.FAILED)
    return EITHER if kind == "lp infeasible" and status in (Status.INFEASIBLE, Status.UNBOUNDED) else status


NAMES = {"PrimalInfeasible": Status.INFEASIBLE, "DualInfeasible": Status.UNBOUNDED, "Solved": Status.SOLVED}


def violation(problem, zero, x, y, s):
    """The largest violation of the conditions of optimality, relative to the terms of the sums, at least 1."""
    P, q, A, b = problem
    terms = (P @ x, q, A.T @ y), (A @ x, s, -b)
    dual, primal = (max(1.0, *(np.abs(a).max(initial=0) for a in side)) for side in terms)
    slack, multiplier = s[zero:] / primal, y[zero:] / dual
    least = np.minimum(slack, multiplier)  # 0 where both are 0 or more, and one is 0
    return np.abs(np.concatenate([sum(terms[0]) / dual, sum(terms[1]) / primal, least, s[:zero]])).max()


def kkt_matrix(problem, active):
    """[P A_a'; A_a 0] for the active rows."""
    P, _, A, _ = problem
    A = A[active]
    return np.block([[P, A.T], [A, np.zeros((len(A), len(A)))]])


def condition(K):
    """The condition number of K, equilibrated."""
    scale = np.ones(len(K))
    for _ in range(20):
        size = np.abs(K * scale * scale[:, None]).max(1)
        if not size.all():
            return np.inf
        scale /= np.sqrt(size)
    return np.linalg.cond(K * scale * scale[:, None])


def _families():
    rng = np.random.default_rng(3)

    def full(n, zero, m, count, name):
        return Family(name, np.ones((n, n), bool), np.ones((m, n), bool), zero, count)

    yield full(12, 4, 24, 400, "dense")
    yield full(12, 0, 24, 300, "inequalities")
    yield full(12, 5, 5, 100, "equalities")
    yield full(10, 6, 12, 100, "few rows")
    yield full(40, 10, 60, 150, "larger")
    yield full(1, 0, 2, 100, "n = 1")
    yield full(5, 1, 3, 100, "small")
    yield full(6, 0, 0, 50, "no rows")
    box = np.repeat(np.eye(8, dtype=bool), 2, axis=0)  # pairs of bounds
    yield Family("bounds", np.ones((8, 8), bool), box, 0, 150)
    yield Family("diagonal, bounds", np.eye(8, dtype=bool), box, 0, 100)
    yield Family("simplex", np.eye(8, dtype=bool), np.r_[np.ones((2, 8), bool), box], 1, 100)
    A = np.repeat(rng.random((20, 30)) < 0.15, 2, axis=0)
    P = rng.random((30, 30)) < 0.05
    yield Family("sparse", P | P.T | np.eye(30, dtype=bool), A, 6, 150)
    # As CVXPY writes |Lx - c|^2: auxiliary variables z = Lx, with P = I for z alone.
    top = np.c_[np.ones((8, 6), bool), np.eye(8, dtype=bool)]
    below = np.c_[np.ones((10, 6), bool), np.zeros((10, 8), bool)]
    yield Family("canonical", np.diag(np.r_[np.zeros(6, bool), np.ones(8, bool)]), np.r_[top, below], 8, 200)


FAMILIES = {family.name: family for family in _families()}
