"""The derivative of a smoothed solution: that of the problem with a logarithmic barrier of weight mu in place of its cones.

    x_mu = argmin 1/2 x'Px + q'x + mu F(b - Ax),   F the barrier of K (see `cones.smooth`)

It solves the residual map with the projection replaced by a smooth one (y and s with y o s = mu e), so the formulas and the
system K of the exact derivative serve, with 0 < d < 1 in every inequality row: K is regular wherever the constraints
determine x, and the derivative says where the solution would go also where the exact one is zero or has a kink. As
mu -> 0 it tends to the exact one at regular points. Outputs stay the exact solution; only derivatives are those of x_mu.
Source: the central path of interior-point methods; for layers e.g. Mandi and Guns, "Interior point solving for
LP-based prediction and optimisation" (2020).
"""

from __future__ import annotations

import numpy as np

from ..cones.smooth import SmoothedCone
from ..errors import SolverError, listed
from ..linsolve import ItemFactors, System, apply_dense, dense_inverse, is_small
from ..program import Structure
from ..residual import residual
from ..threads import blas_for
from .base import Derivative
from .implicit import Implicit

_MAX_STEPS, _HALVINGS = 100, 30
_TARGET, _ENOUGH = 1e-13, 1e-9  # the size of the residual at which Newton stops, and up to which the point serves


class Smoothed(Derivative):
    """saved = (P, A, x, v, y, x_mu, v_mu, y_mu, mu, F), mu in the item's units, F as in `Implicit`, at the smoothed point."""

    name = "smoothed"
    options = {"mu": 1e-3}

    def __init__(self, structure: Structure, solvers=(), **options):
        super().__init__(structure, solvers, **options)
        N = structure.n + structure.m
        self.extra = (structure.n, structure.m, structure.m, 1, N**2 if is_small(structure) else 0)

    def extras(self, solved, data, unit):
        """The smoothed point. Raises SolverError where Newton's method does not find it."""
        x, v = solved.point.x, solved.point.v
        mu = self.settings["mu"] / (unit[:, :1] * unit[:, 1:]) + np.zeros((len(x), 1))
        with blas_for(self.structure.n + self.structure.m):
            return _smoothed_point(self.structure, data, x, v, mu, solved.good)

    def _exact(self, saved):
        """The exact derivative of the smoothed problem, and what it has saved."""
        P, A, _, _, _, x, v, y, mu, F = saved
        return Implicit(_Smooth(self.structure, mu)), (P, A, x, v, y, F)

    def jvp(self, saved, dP, dq, dA, db):
        """(dx, dy)."""
        derivative, saved = self._exact(saved)
        return derivative.jvp(saved, dP, dq, dA, db)

    def vjp(self, saved, gx, gy):
        """(gP, gq, gA, gb); gy None is zero."""
        derivative, saved = self._exact(saved)
        return derivative.vjp(saved, gx, gy)


class _Smooth(Structure):
    """A structure with its cone smoothed by mu (..., 1)."""

    exact: Structure
    mu: np.ndarray

    def __init__(self, structure, mu):
        vars(self).update(
            vars(structure), exact=structure, mu=mu, K=SmoothedCone(structure.K, mu), engine=None, kkt_engine=None
        )

    def item(self, index):
        """The cone of one item has that item's mu."""
        return _Smooth(self.exact, self.mu[index])


def _smoothed_point(structure, data, x, v, mu, wanted):
    """x_mu, v_mu, y_mu, mu and the inverse of K there, flat, by Newton's method from the solution, with a line search."""
    S = _Smooth(structure, mu)
    r = residual(S, data, x, v)
    todo = wanted.copy()
    inverse = None
    for _ in range(_MAX_STEPS):
        system = System(S, data.P, data.A, v)
        if is_small(S):
            inverse, _ = dense_inverse(np.broadcast_to(system.dense(), (len(x), S.n + S.m, S.n + S.m)))
            apply = apply_dense(inverse)
        else:
            apply = ItemFactors(S, data.P, data.A, v).inverse
        todo &= r.size > _TARGET
        if not todo.any():
            break
        dx, dy = system.solve(apply, r.r1, r.r2)
        dv = dy + r.r2 + S.A.matvec(data.A, dx)
        x, v, r, moved = _line_search(S, data, x, v, r, np.where(todo[:, None], dx, 0), np.where(todo[:, None], dv, 0))
        todo &= moved
    # On a way to infinity the residual vanishes, too, but the next step is as long as the way so far.
    step, reach = (np.abs(a).max(-1, initial=0) for a in (system.solve(apply, r.r1, r.r2)[0], x))
    failed = np.flatnonzero(wanted & ~((r.size <= _ENOUGH) & (step <= 0.1 * (1 + reach))))
    if failed.size:
        raise SolverError(
            f"derivative='smoothed': no smoothed solution for mu = {mu.max():.1e} in items {listed(failed.tolist())} (residual "
            f"{r.size[failed].max():.1e}); the set of solutions may be unbounded, or mu too large or too small",
            failed.tolist(),
        )
    flat = x[:, :0] if inverse is None else inverse.reshape(len(x), -1)
    return x, v, r.y, mu, flat


def _line_search(S, data, x, v, r, dx, dv):
    """The longest of the steps 1, 1/2, 1/4, ... with less residual, for each item; and which items moved."""
    step, best = np.ones((len(x), 1)), _norm(r)
    moved = np.zeros(len(x), bool)
    for _ in range(_HALVINGS):
        new = residual(S, data, x + step * dx, v + step * dv)
        moved = _norm(new) <= (1 - 1e-4 * step[:, 0]) * best
        if moved.all() or not (dx.any(-1) | dv.any(-1))[~moved].any():
            break
        step[~moved] /= 2
    step[~moved] = 0
    x, v = x + step * dx, v + step * dv
    return x, v, residual(S, data, x, v), moved


def _norm(r):
    return np.sqrt((r.r1**2).sum(-1) + (r.r2**2).sum(-1))
