"""The derivative of the solution, by the implicit function theorem on the residual map (the default).

    jvp:  r1 = dP x + dq + dA'y,  r2 = dA x - db;     K [dx; w] = -[r1; B'r2];    dy = Bw
    vjp:                                              K [wx; w] = -[gx; B'gy];    wy = Bw
          gq = wx    gb = -wy    gP = 1/2 (wx x' + x wx')    gA = y wx' + wy x'       only on the sparsity pattern

Second derivatives are one more solve with the same K. With the tangents (dx, dv, dy) along s and t, dv = A dx + dy + r2,
and the derivative T of D = d proj_K* / dv:

    jvp2:  r1 = Ps xt + Pt xs + As'yt + At'ys,    r2 = As xt + At xs,    T = T(v)[vs, vt]
           (x'', y'') = solution for (r1 + A'T, r2 + T), plus (0, T)
    vjp2:  with (wx, wy) as in vjp and wv = A wx + wy + gy, the gradient of <wx, r1> + <wy, r2> + <wv, T[vs, vt]> in s:
           with T = T(v)[vt, wv], the first-order formulas with (xt, yt) in place of (x, y), plus vjp of
           gx = Pt wx + At'wy + A'T,    gy = At wx + T,    with T added to wy

One symmetric K (see `linsolve`) serves both, so <c, jvp(t)> = <vjp(c), t> to rounding. Source: implicit differentiation
of the normalized residual map, Agrawal, Barratt, Boyd, Busseti, Moursi, "Differentiating through a cone program" (2019),
here without the homogeneous embedding and with P.
"""

from __future__ import annotations

from contextlib import nullcontext

from .. import kkt
from ..linsolve import ItemFactors, System, apply_dense, keeps_inverse
from ..program import Outer, Structure
from ..threads import blas_for
from .base import Derivative


class Implicit(Derivative):
    """saved = (P, A, x, v, y, F): F, flat, is the inverse of K that refinement has left. There is none for large systems and
    with the native engine: then K is factorized again.
    """

    name = "implicit"
    second_order = True

    def __init__(self, structure: Structure, solvers=(), **options):
        super().__init__(structure, solvers, **options)
        self.N = structure.n + structure.m
        self.keeps_inverse = keeps_inverse(structure)
        self.extra = (self.N**2,) if self.keeps_inverse else ()

    def extras(self, solved, data, unit):
        """F, where it is kept."""
        point = solved.point
        return () if point.inverse is None else (point.inverse.reshape(len(point.x), -1),)

    def _blas(self):
        return blas_for(self.N) if self.structure.kkt_engine is None else nullcontext()

    def _solver(self, saved):
        """The function (r1, r2) -> (u, Bw) at the saved point."""
        P, A, _, v, _, *F = saved
        if self.structure.kkt_engine is not None:
            return lambda r1, r2: kkt.solve(self.structure, P, A, v, r1, r2)
        system = System(self.structure, P, A, v)
        if self.keeps_inverse:
            inverse = apply_dense(F[0].reshape(*F[0].shape[:-1], self.N, self.N))
        else:
            inverse = ItemFactors(self.structure, P, A, v).inverse
        return lambda r1, r2: system.solve(inverse, r1, r2)

    def _gradient(self, x, y, wx, wy):
        """The adjoint of `Structure.conditions` in the data."""
        S = self.structure
        return Outer(S.P, 0.5, wx, x, x, wx), wx, Outer(S.A, 1.0, y, wx, wy, x), -wy

    def jvp(self, saved, dP, dq, dA, db):
        """(dx, dy)."""
        x, y = saved[2], saved[4]
        with self._blas():
            solve = self._solver(saved)
            return solve(*self.structure.conditions(x, y, dP, dq, dA, db))

    def vjp(self, saved, gx, gy):
        """(gP, gq, gA, gb); gy None is zero. gP and gA are `Outer` products."""
        x, v, y = saved[2:5]
        with self._blas():
            solve = self._solver(saved)
            return self._gradient(x, y, *solve(gx, 0 * v if gy is None else gy))

    def jvp2(self, saved, s, t):
        """(x'', y'') along the tangents s and t of the data."""
        S, (A, x, v, y) = self.structure, saved[1:5]
        with self._blas():
            solve = self._solver(saved)
            (xs, ys, vs), (xt, yt, vt) = (self._tangent(A, solve, x, y, d) for d in (s, t))
            T = S.K.spectrum(v).third(vs, vt)
            s1, s2 = self.structure.conditions(xt, yt, s[0], 0, s[2], 0)
            t1, t2 = self.structure.conditions(xs, ys, t[0], 0, t[2], 0)
            dx, dy = solve(s1 + t1 + S.A.rmatvec(A, T), s2 + t2 + T)
            return dx, dy + T

    def vjp2(self, saved, t, gx, gy):
        """(gP, gq, gA, gb) of <gx, dx> + <gy, dy>, (dx, dy) the tangents along t; gy None is zero."""
        S, (A, x, v, y) = self.structure, saved[1:5]
        gy = 0 * v if gy is None else gy
        with self._blas():
            solve = self._solver(saved)
            xt, yt, vt = self._tangent(A, solve, x, y, t)
            wx, wy = solve(gx, gy)
            T = S.K.spectrum(v).third(vt, S.A.matvec(A, wx) + wy + gy)
            g1, g2 = self.structure.conditions(wx, wy, t[0], 0, t[2], 0)
            ux, uy = solve(g1 + S.A.rmatvec(A, T), g2 + T)
        first, second = self._gradient(xt, yt, wx, wy), self._gradient(x, y, ux, uy + T)
        return first[0] + second[0], second[1], first[2] + second[2], second[3]

    def _tangent(self, A, solve, x, y, d):
        """(dx, dy, dv) along the tangent d of the data."""
        r1, r2 = self.structure.conditions(x, y, *d)
        dx, dy = solve(r1, r2)
        return dx, dy, self.structure.A.matvec(A, dx) + dy + r2
