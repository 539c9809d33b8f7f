"""diffcp's derivative, as a reference to compare with: slow, one item at a time, solved once more by diffcp itself.

It differentiates the homogeneous embedding of a program without P, so a quadratic objective is compiled into cones. Known
limits of diffcp: as accurate as its own solve, exact zero for cotangents below 1e-8, and a singular system in dense mode.
Source: Agrawal, Barratt, Boyd, Busseti, Moursi, "Differentiating through a cone program" (2019).
"""

from __future__ import annotations

import importlib.util

import numpy as np
import scipy.sparse as sp

from ..errors import MissingDependencyError, ProblemError
from ..program import Structure
from ..solvers.scs import lower_svec_order
from .base import Derivative


class Diffcp(Derivative):
    """Derivatives of (x, y) with respect to (q, A, b) by `diffcp.solve_and_derivative`, SCS at 1e-12 and LSQR.

    saved = (q, A, b, x, v, y).
    """

    name = "diffcp"
    quadratic = False
    needs = ("q", "A", "b")

    def __init__(self, structure: Structure, solvers=(), **options):
        super().__init__(structure, solvers, **options)
        if importlib.util.find_spec("diffcp") is None:
            raise MissingDependencyError(
                "derivative='diffcp' needs the package diffcp, which is not installed; pip install diffcp"
            )
        if structure.cones.power:
            raise ProblemError("derivative='diffcp' has no power cone, and the problem needs it; use derivative='implicit'")
        order = lower_svec_order(structure.cones)
        self.order = np.arange(structure.m) if order is None else np.asarray(order)
        self.place = np.argsort(self.order)

    def _operators(self, q, A, b):
        import diffcp

        S, c = self.structure, self.structure.cones
        matrix = sp.csc_matrix((A, (self.place[S.A.rows], S.A.cols)), shape=S.A.shape)
        dims = {"z": c.zero, "l": c.nonneg, "q": list(c.soc), "s": list(c.psd), "ep": c.exp}
        *_, D, DT = diffcp.solve_and_derivative(
            matrix, b[self.order], q, dims, solve_method="SCS", eps_abs=1e-12, eps_rel=1e-12
        )
        return D, DT

    def _each(self, saved, arrays, sizes, function):
        """function(D, DT, *arrays of one item) for each item of the broadcast batch; it is linear in the arrays."""
        q, A, b = saved[:3]
        lead = np.broadcast_shapes(*(a.shape[:-1] for a in (q, A, b, *arrays)))
        q, A, b, *arrays = (np.broadcast_to(a, lead + a.shape[-1:]) for a in (q, A, b, *arrays))
        out = [np.zeros((*lead, k)) for k in sizes]
        for i in np.ndindex(lead):
            if not any(a[i].any() for a in arrays):  # an item without a solution has zeros here, and must not be solved
                continue
            for o, value in zip(out, function(*self._operators(q[i], A[i], b[i]), *(a[i] for a in arrays)), strict=True):
                o[i] = value
        return out

    def jvp(self, saved, dP, dq, dA, db):
        """(dx, dy)."""
        S = self.structure

        def one(D, DT, dq, dA, db):
            tangent = sp.csc_matrix((dA, (self.place[S.A.rows], S.A.cols)), shape=S.A.shape)
            dx, dy, _ = D(tangent, db[self.order], dq)
            return dx, dy[self.place]

        return self._each(saved, (dq, dA, db), (S.n, S.m), one)

    def vjp(self, saved, gx, gy):
        """(gP, gq, gA, gb); gP is empty."""
        S = self.structure
        gy = 0 * saved[4] if gy is None else gy

        def one(D, DT, gx, gy):
            gA, gb, gq = DT(gx, gy[self.order], np.zeros(S.m))
            return gq, sp.csr_matrix(gA)[self.place[S.A.rows], S.A.cols], gb[self.place]

        gq, gA, gb = self._each(saved, (gx, gy), (S.n, S.A.nnz, S.m), one)
        return np.zeros((*gq.shape[:-1], 0)), gq, gA, gb
