"""The residual map R: it accepts a solution, and Newton's method on it makes the solution exact.

    R(x, v) = [ r1 ]  =  [ Px + q + A'y ]        y = proj_K*(v),  s = y - v
              [ r2 ]     [ Ax + s - b   ]

y in K*, s in K and y's = 0 hold by construction, so R = 0 is optimality, all of it. The size of R is relative:

    max( |r1| / (1 + max(|Px|, |q|, |A'y|)),  |r2| / (1 + max(|Ax|, |s|, |b|)) )       in the largest component
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .linsolve import DENSE, ItemFactors, System, apply_dense, dense_inverse
from .program import ConeData, Structure

TARGET = 1e-14  # Newton stops here
_MAX_STEPS = 25
_ROUNDING = 1e-12  # below it, an item whose residual does not fall any more is done
_LENGTHS = 6  # 1, 1/4, 1/16, ...


def tolerance(structure: Structure) -> float:
    """The residual up to which a solution is accepted: 1e-9, or 1e-8 where exp, power or PSD cones limit the arithmetic."""
    return 1e-8 if structure.cones.kinds & {"psd", "exp", "power"} else 1e-9


class Residual(NamedTuple):
    """r1 (B, n), r2 (B, m), y (B, m), and the relative size (B,); inf where something is not finite."""

    r1: np.ndarray
    r2: np.ndarray
    y: np.ndarray
    size: np.ndarray


def residual(structure: Structure, data: ConeData, x, v) -> Residual:
    """R at (x, v)."""
    y = structure.K.project(v)
    Px, Ay, Ax = structure.P.matvec(data.P, x), structure.A.rmatvec(data.A, y), structure.A.matvec(data.A, x)
    r1, r2 = Px + data.q + Ay, Ax + (y - v) - data.b
    scale1 = 1 + np.maximum(np.maximum(_norm(Px), _norm(Ay)), _norm(data.q))
    scale2 = 1 + np.maximum(np.maximum(_norm(Ax), _norm(y - v)), _norm(data.b))
    size = np.maximum(_norm(r1) / scale1, _norm(r2) / scale2)
    return Residual(r1, r2, y, np.where(np.isfinite(size), size, np.inf))


def _norm(a):
    return np.abs(a).max(-1, initial=0)


class Refined(NamedTuple):
    """A refined point: x (B, n), v (B, m), y (B, m), size (B,) of the residual, the inverses of K there (B, N, N), or
    None beyond `linsolve.DENSE`, and singular (B,), whether K is."""

    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    size: np.ndarray
    inverse: np.ndarray | None
    singular: np.ndarray


def refine(structure: Structure, data: ConeData, x, v) -> Refined:
    """Newton on R from (x, v), each item by itself. A step is kept only if |R| falls, so nothing ever gets worse.

    Where the plain step does not halve |R|, others are tried: with active inequalities released, and with K regularized.
    Items that start from NaN keep size inf.
    """
    newton = _Newton(structure, data, x, v)
    items = np.flatnonzero(np.isfinite(newton.size))
    for _ in range(_MAX_STEPS):
        items = items[newton.size[items] > TARGET]
        if not items.size:
            break
        before = newton.size.copy()
        newton.plain_step(items)
        for step in (newton.weak_released_step, newton.all_released_step, newton.regularized_step):
            slow = items[newton.size[items] > np.maximum(0.5 * before[items], _ROUNDING)]
            if slow.size:
                step(slow)
        items = items[newton.size[items] <= 0.5 * before[items]]
    return newton.result()


class _Newton:
    """The state of a refinement. `fresh`: items whose inverse belongs to their present point."""

    def __init__(self, structure, data, x, v):
        B, N = x.shape[0], structure.n + structure.m
        self.structure, self.data = structure, data
        self.x, self.v = x.copy(), v.copy()
        self.r1, self.r2, self.y, self.size = residual(structure, data, x, v)
        self.inverse = np.zeros((B, N, N)) if N <= DENSE else None
        self.fresh, self.singular = np.zeros(B, bool), np.zeros(B, bool)

    def plain_step(self, items):
        """The Newton step at (x, v)."""
        some = slice(None) if items.size == len(self.x) else items
        data, v = self.data.take(some), self.v[some]
        system, inverse = self._factorize(items, data, v)
        self._move(items, data, self.x[some], v, self.r1[some], self.r2[some], system, inverse)

    def weak_released_step(self, items):
        """The Newton step from v with its small positive inequality rows at zero, for constraints that hold with equality
        and without force: an interior-point method leaves y and s of the same size there, and the sign of v to chance."""
        self._released_step(items, np.sqrt(self.size[items]))

    def all_released_step(self, items):
        """The same with all positive inequality rows at zero, for constraints that other cones imply (y >= 0 under -log y):
        the split of the force between the two is then arbitrary, and any part of it can be on the wrong side."""
        self._released_step(items, np.full(items.size, np.inf))

    def _released_step(self, items, below):
        rows = self.structure.inequalities
        v = self.v[items]
        released = (v[:, rows] > 0) & (v[:, rows] < below[:, None])
        some = released.any(-1)
        if not some.any():
            return
        items, v = items[some], v[some]
        v[:, rows][released[some]] = 0
        data, x = self.data.take(items), self.x[items]
        at = residual(self.structure, data, x, v)
        system, inverse = self._factorize(items, data, v, np.zeros(items.size))
        self._move(items, data, x, v, at.r1, at.r2, system, inverse)

    def regularized_step(self, items):
        """The step with K + |R| diag(I, -I), for the neighbourhood of a point where K is singular: there the inverse of K
        itself blows up small errors, and the step leads nowhere."""
        data, x, v = self.data.take(items), self.x[items], self.v[items]
        system, inverse = self._factorize(items, data, v, self.size[items])
        self._move(items, data, x, v, self.r1[items], self.r2[items], system, inverse)

    def _move(self, items, data, x, v, r1, r2, system, inverse):
        """Along the Newton direction from (x, v) with the residuals r1, r2, as far as it makes |R| fall."""
        dx, dy = system.solve(inverse, r1, r2)
        dv = dy + r2 + self.structure.A.matvec(data.A, dx)  # A dx + ds = -r2 and dv = dy - ds
        waiting = np.isfinite(dx).all(-1) & np.isfinite(dv).all(-1)
        dx, dv = np.where(waiting[:, None], dx, 0), np.where(waiting[:, None], dv, 0)
        length = np.ones((items.size, 1))
        for _ in range(_LENGTHS):
            trial_x, trial_v = x + length * dx, v + length * dv
            trial = residual(self.structure, data, trial_x, trial_v)
            good = waiting & (trial.size < self.size[items])
            where = items[good]
            if self.inverse is not None and where.size:
                self.fresh[where] &= self._same_basis(v[good], trial_v[good])
            for mine, new in (
                (self.x, trial_x),
                (self.v, trial_v),
                (self.r1, trial.r1),
                (self.r2, trial.r2),
                (self.y, trial.y),
                (self.size, trial.size),
            ):
                mine[where] = new[good]
            waiting &= ~good & (self.size[items] > _ROUNDING)
            if not waiting.any():
                break
            length *= 0.25

    def _factorize(self, items, data, v, delta=None):
        """K at v as an operator and an approximate inverse of K, or of K + delta diag(I, -I)."""
        system = System(self.structure, data.P, data.A, v)
        if self.inverse is None:
            factors = ItemFactors(self.structure, data.P, data.A, v, delta)
            if delta is None:
                self.singular[items] = factors.singular
            return system, factors.inverse
        if delta is not None:  # a step aside: what is stored belongs to the plain point
            self.fresh[items] = False
            return system, apply_dense(dense_inverse(system.dense(delta))[0])
        F, singular = dense_inverse(system.dense())
        self.inverse[items], self.singular[items], self.fresh[items] = F, singular, True
        return system, apply_dense(F)

    def _same_basis(self, before, after):
        """Whether an inverse from one point serves at the other. K is written in the eigenvectors of D: a polyhedral cone
        has always the same ones; elsewhere they may turn at random, however short the step, where eigenvalues coincide."""
        K = self.structure.K
        return K.polyhedral & (K.spectrum(before).d == K.spectrum(after).d).all(-1)

    def result(self):
        if self.inverse is not None:
            items = np.flatnonzero(~self.fresh & np.isfinite(self.size))
            if items.size:
                self._factorize(items, self.data.take(items), self.v[items])
        return Refined(self.x, self.v, self.y, self.size, self.inverse, self.singular)
