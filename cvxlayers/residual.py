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

    Items that start from NaN keep size inf.
    """
    newton = _Newton(structure, data, x, v)
    items = np.flatnonzero(np.isfinite(newton.size))
    for _ in range(_MAX_STEPS):
        items = items[newton.size[items] > TARGET]
        if not items.size:
            break
        moved = newton.step(items)
        stuck = np.setdiff1d(items, moved)
        stuck = stuck[newton.size[stuck] > _ROUNDING]
        items = np.union1d(moved, newton.step(stuck, regularized=True)) if stuck.size else moved
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

    def step(self, items, regularized=False):
        """One damped Newton step for the given items; those that moved.

        regularized: with K + |R| diag(I, -I), for the neighbourhood of a point where K is singular: there the inverse of
        K itself blows up small errors, and the step leads nowhere.
        """
        some = slice(None) if items.size == len(self.x) else items
        data, x, v = self.data.take(some), self.x[some], self.v[some]
        system, inverse = self._factorize(items, data, v, self.size[some] if regularized else None)
        dx, dy = system.solve(inverse, self.r1[some], self.r2[some])
        dv = dy + self.r2[some] + self.structure.A.matvec(data.A, dx)  # A dx + ds = -r2 and dv = dy - ds
        waiting = np.isfinite(dx).all(-1) & np.isfinite(dv).all(-1)
        length = np.ones((items.size, 1))
        moved = np.zeros(items.size, bool)
        for _ in range(_LENGTHS):
            trial_x, trial_v = x + length * dx, v + length * dv
            trial = residual(self.structure, data, trial_x, trial_v)
            good = waiting & (trial.size < self.size[some])
            where = items[good]
            for mine, new in ((self.x, trial_x), (self.v, trial_v), (self.r1, trial.r1), (self.r2, trial.r2),
                              (self.y, trial.y), (self.size, trial.size)):
                mine[where] = new[good]
            if self.inverse is not None:
                self.fresh[where] &= self._same_basis(v[good], trial_v[good])
            moved |= good
            waiting &= ~good & (self.size[some] > _ROUNDING)
            if not waiting.any():
                break
            length *= 0.25
        return items[moved]

    def _factorize(self, items, data, v, delta=None):
        system = System(self.structure, data.P, data.A, v)
        if self.inverse is None:
            factors = ItemFactors(self.structure, data.P, data.A, v, delta)
            if delta is None:
                self.singular[items] = factors.singular
            return system, factors.inverse
        if delta is not None:
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
