"""Lagrangian proximal gradient descent: gradients by finite steps, informative where the exact derivative is zero.

With the Lagrangian L(x, y) of the program and the cotangents (gx, gy) of its solution, solve it again with the objective
tilted by the loss, to both sides,

    z(e) = saddle point of L + e (gx'x + gy'y),      that is q + e gx in place of q and b - e gy in place of b

and compare the gradients of L in the data, gP = 1/2 x x', gq = x, gA = y x', gb = -y:

    gradient = (grad L at z(tau) - grad L at z(-tau)) / (2 tau)

For tau -> 0 it is the exact vjp where that exists (the envelope theorem, differentiated by differences). For larger tau it
tells in which direction the loss falls although no infinitesimal change of the data moves the solution, as for the
vertices of a linear program. It is not linear in the cotangent: tau is a length in units of the loss. There is no forward
mode. Source: Paulus, Martius and Musil, "LPGD: a general framework for backpropagation through embedded optimization
layers" (2024).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import SolverError
from ..ladder import failure, solve
from ..program import ConeData
from .base import Derivative


class LPGD(Derivative):
    """saved = (P, q, A, b, x, v, y, tau), tau in the item's units."""

    name = "lpgd"
    needs = ("P", "q", "A", "b")
    options = {"tau": 0.1}
    extra = (1,)

    def extras(self, solved, data, unit):
        """tau, in units of the objective beta gamma."""
        return (self.settings["tau"] / (unit[:, :1] * unit[:, 1:]) + np.zeros((solved.good.size, 1)),)

    def jvp(self, saved, dP, dq, dA, db):
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "cvxlayers: derivative='lpgd' has gradients only, no forward mode: it perturbs the problem by the loss; use "
            "derivative='implicit' or 'smoothed'"
        )

    def vjp(self, saved, gx, gy):
        """The gradient: two more solves, none for items whose cotangents are zero. Raises SolverError if one fails."""
        gy = 0 * saved[6] if gy is None else gy
        arrays = (*saved, gx, gy)
        lead = np.broadcast_shapes(*(a.shape[:-1] for a in arrays))
        P, q, A, b, x, v, y, tau, gx, gy = (
            np.broadcast_to(a, lead + a.shape[-1:]).reshape(math.prod(lead), a.shape[-1]) for a in arrays
        )
        skip = ~(gx.any(-1) | gy.any(-1))
        found = [self._solve(ConeData(P, q + e * gx, A, b - e * gy), (x, y, y - v), skip) for e in (tau, -tau)]
        grads = [(a - b) / (2 * tau) for a, b in zip(*(self._gradient(z.x, z.y) for z in found), strict=True)]
        return tuple(g.reshape(*lead, g.shape[-1]) for g in grads)

    def _solve(self, data, start, skip):
        solved = solve(self.structure, data, self.solvers, skip=skip, start=start)
        if not (solved.good | skip).all():
            error = failure(self.structure, self.solvers, solved, skip)
            raise SolverError(
                f"derivative='lpgd': the problem that is perturbed by the loss has {error}; choose a smaller tau",
                error.items,
                error.statuses,
            )
        return solved.point

    def _gradient(self, x, y):
        """The gradient of the Lagrangian in P, q, A, b."""
        S = self.structure
        return 0.5 * S.P.outer(x, x), x, S.A.outer(y, x), -y
