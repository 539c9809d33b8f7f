"""The derivative of the solution, by the implicit function theorem on the residual map (the default).

    jvp:  r1 = dP x + dq + dA'y,  r2 = dA x - db;     K [dx; w] = -[r1; B'r2];    dy = Bw
    vjp:                                              K [wx; w] = -[gx; B'gy];    wy = Bw
          gq = wx    gb = -wy    gP = 1/2 (wx x' + x wx')    gA = y wx' + wy x'       only on the sparsity pattern

One symmetric K (see `linsolve`) serves both, so <c, jvp(t)> = <vjp(c), t> to rounding. Source: implicit differentiation
of the normalized residual map, Agrawal, Barratt, Boyd, Busseti, Moursi, "Differentiating through a cone program" (2019),
here without the homogeneous embedding and with P.
"""

from __future__ import annotations

from ..linsolve import DENSE, ItemFactors, System, apply_dense
from ..program import Structure
from ..residual import Refined
from ..threads import blas_for


class Implicit:
    """Derivatives of (x, y) with respect to (P, q, A, b). The arrays may have any leading dimensions that broadcast.

    saved = (P, A, x, v, y, F): F, flat, is the inverse of K that refinement has left, and is empty for large systems,
    which are factorized again.
    """

    quadratic = True
    needs = ("P", "A")

    def __init__(self, structure: Structure):
        self.structure = structure
        self.N = structure.n + structure.m
        self.extra = (self.N**2 if self.N <= DENSE else 0,)

    def extras(self, point: Refined):
        """The arrays that `saved` has beside the data and the solution, (B, extra[i])."""
        return (point.x[:, :0] if point.inverse is None else point.inverse.reshape(len(point.x), -1),)

    def _solve(self, saved, r1, r2):
        P, A, _, v, _, F = saved
        with blas_for(self.N):
            if self.N <= DENSE:
                inverse = apply_dense(F.reshape(*F.shape[:-1], self.N, self.N))
            else:
                inverse = ItemFactors(self.structure, P, A, v).inverse
            return System(self.structure, P, A, v).solve(inverse, r1, r2)

    def jvp(self, saved, dP, dq, dA, db):
        """(dx, dy)."""
        S, (_, _, x, _, y, _) = self.structure, saved
        r1 = S.P.matvec(dP, x) + dq + S.A.rmatvec(dA, y)
        r2 = S.A.matvec(dA, x) - db
        return self._solve(saved, r1, r2)

    def vjp(self, saved, gx, gy):
        """(gP, gq, gA, gb); gy None is zero."""
        S, (_, _, x, v, y, _) = self.structure, saved
        wx, wy = self._solve(saved, gx, 0 * v if gy is None else gy)
        gP = 0.5 * (S.P.outer(wx, x) + S.P.outer(x, wx))
        gA = S.A.outer(y, wx) + S.A.outer(wy, x)
        return gP, wx, gA, -wy
