"""A quadratic objective for solvers without one: P moves into a second-order cone.

    1/2 x'Px <= t,  P = F'F    <=>    |(Fx, t - 1/2)| <= t + 1/2

    minimize 1/2 x'Px + q'x   becomes   minimize q'x + t   subject to   (t + 1/2, t - 1/2, Fx) in soc,  and the rows of A

x, and y and s of the rows of A, are the same in both. F is dense, from the eigenvalues of P: this is for small problems
that were compiled with P. A layer whose constructor names the solver is compiled without P, which keeps sparsity.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..program import ConeData, ConeProgram, Pattern, Solution, Structure
from .base import Solver


class Epigraph(Solver):
    """The solver `kind`, which takes no P, or none without rows, for a structure that has it."""

    def __init__(self, kind, structure, args=None):
        self.structure = structure
        n, cones = structure.n, structure.cones
        self._start = cones.zero + cones.nonneg + sum(cones.soc)  # the new rows come after the other soc rows
        rows = structure.A.rows + (n + 2) * (structure.A.rows >= self._start)
        i, j = np.indices((n, n))
        all_rows = np.concatenate([rows, self._start + np.r_[0, 1], self._start + 2 + i.ravel()])
        all_cols = np.concatenate([structure.A.cols, [n, n], j.ravel()])
        self._order = np.lexsort((all_cols, all_rows))
        cones = dataclasses.replace(cones, soc=(*cones.soc, n + 2))
        A = Pattern(all_rows[self._order], all_cols[self._order], (cones.rows, n + 1))
        self._inner = kind(Structure(n + 1, cones, Pattern([], [], (n + 1, n + 1)), A), args)
        self.name, self.args, self.settings = kind.name, self._inner.args, self._inner.settings

    def solve(self, program, warm=None):
        n, (P, q, A, b) = self.structure.n, program.data
        if not program.data.batch:
            return Solution(*(np.zeros((0, k)) for k in (n, self.structure.m, self.structure.m)), *np.zeros((2, 0), np.int64))
        good = np.isfinite(P).all(-1)
        l, Q = np.linalg.eigh(self.structure.P.dense(np.where(good[:, None], P, 0.0)))
        F = np.sqrt(np.maximum(l, 0))[:, :, None] * np.swapaxes(Q, 1, 2)
        F[~good] = np.nan  # the solver below refuses this item
        lead = max(len(F), len(A))
        parts = (A, np.full((1, 2), -1.0), -F.reshape(len(F), -1))
        values = np.concatenate([np.broadcast_to(a, (lead, a.shape[1])) for a in parts], axis=1)[:, self._order]
        cone = np.broadcast_to(np.r_[0.5, -0.5, np.zeros(n)], (len(b), n + 2))
        rows = np.concatenate([b[:, : self._start], cone, b[:, self._start :]], axis=1)
        price = np.concatenate([q, np.ones((len(q), 1))], axis=1)
        lifted = ConeProgram(self._inner.structure, ConeData(np.zeros((1, 0)), price, values, rows))
        x, y, s, status, iterations = self._inner.solve(lifted)
        new = slice(self._start, self._start + n + 2)
        return Solution(x[:, :n], np.delete(y, new, axis=1), np.delete(s, new, axis=1), status, iterations)

    def tighter(self):
        tight = self._inner.tighter()
        return None if tight is None else Epigraph(type(tight), self.structure, tight.args)
