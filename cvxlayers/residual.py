"""The residual map R: it accepts a solution, and Newton's method on it makes the solution exact.

    R(x, v) = [ r1 ]  =  [ Px + q + A'y ]        y = proj_K*(v),  s = y - v
              [ r2 ]     [ Ax + s - b   ]

y in K*, s in K and y's = 0 hold by construction, so R = 0 is optimality, all of it. The size of R is relative:

    max( |r1| / (1 + max(|Px|, |q|, |A'y|)),  |r2| / (1 + max(|Ax|, |s|, |b|)) )       in the largest component
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from .kkt import engine_solve
from .linsolve import ItemFactors, System, apply_dense, dense_inverse, keeps_inverse
from .program import ConeData, Structure
from .threads import blas_for

_TARGET = 1e-14  # Newton stops here, or at the rounding of long sums
_EXACT = 1e-13  # no more than rounding
_NOTHING = 1e-18  # entries of v below it are what Newton's method leaves of a zero
_OF_TERMS, _OF_ROUNDING = 1e-7, 1e-12  # how far an equation may be off, relative to its terms and to the rounding of x and y
_SMALLEST = 1e-4  # x and y with smaller entries are as if they had such ones
_MAX_STEPS = 30
_ROUNDING = 1e-12  # from there on a step that brings nothing is the last one
_PATIENCE = 8  # above it, that many, and never more after a step to infinity


def tolerance(structure: Structure) -> float:
    """The residual up to which a solution is accepted: 1e-9, or 1e-8 where exp, power or PSD cones limit the arithmetic."""
    return 1e-8 if structure.cones.kinds & {"psd", "exp", "power"} else 1e-9


def target(structure: Structure) -> float:
    """The residual at which Newton stops: what rounding leaves of the longest equation."""
    return min(max(_TARGET, np.finfo(np.float64).eps * structure.longest), _EXACT / 2)


def limits(structure: Structure) -> tuple[float, ...]:
    """The constants of refinement and of the test, for `native.shortcut`, which has both for QPs."""
    return target(structure), _ROUNDING, _OF_TERMS, _OF_ROUNDING, _SMALLEST, _NOTHING


def accepted(structure: Structure, data: ConeData, point: Refined) -> np.ndarray:
    """Which items are solutions (B,): |R| is below the tolerance, and no equation is off by more than 1e-7 of its own
    terms, so that large numbers in one equation do not excuse the others.

    In curved cones s and y must not be so large that rounding hides a gap between the two objectives.
    Terms that vanish at a solution are rounding there: what errors of 1e-12 in x, y and, in curved cones, s, relative to
    their largest entries, make of the equation.
    """
    S, good = structure, point.size <= tolerance(structure)
    good &= S.K.polyhedral or _gap_is_known(S, data, point)
    exact = (point.size <= _EXACT) & _even(S, data)
    if exact.all():
        return good
    r1, r2, y, _ = residual(S, data, point.x, point.v)
    x, s, y = np.abs(point.x), np.abs(y - point.v), np.abs(y)
    P, A, curved = np.abs(data.P), np.abs(data.A), S.cones.zero + S.cones.nonneg
    x1, y1 = (np.broadcast_to(a.max(-1, initial=_SMALLEST, keepdims=True), a.shape) for a in (x, y))
    difference = np.zeros(s.shape)
    difference[:, curved:] = np.abs(point.v[:, curved:]).max(-1, initial=0, keepdims=True)
    for r, terms, rounding in (
        (r1, S.P.matvec(P, x) + np.abs(data.q) + S.A.rmatvec(A, y), S.P.matvec(P, x1) + S.A.rmatvec(A, y1)),
        (r2, S.A.matvec(A, x) + s + np.abs(data.b), S.A.matvec(A, x1) + difference),
    ):
        with np.errstate(invalid="ignore"):
            good &= exact | (np.abs(r) <= _OF_TERMS * terms + _OF_ROUNDING * rounding).all(-1)
    return good


def _gap_is_known(structure, data, point):
    """Whether rounding leaves y's zero to 1e-6 of the objective (B,).

    In curved cones y and s are orthogonal vectors with many entries, and rounding hides a product of 1e-16 |y| |s|. A problem
    that is almost feasible at infinity has points with residual zero where that is more than its objective.
    """
    S, x, s = structure, point.x, point.y - point.v
    with np.errstate(invalid="ignore", over="ignore"):
        objective = np.abs((data.q * x).sum(-1)) + (S.P.matvec(data.P, x) * x).sum(-1)
        return np.finfo(np.float64).eps * S.K.products(s, point.y) <= 1e-6 * (1 + objective)


def _even(structure, data):
    """Whether the largest entries of all rows of P and A and of all columns of A are within a factor of 100 of one (1|B,):
    then 1e-13 of the largest term is nothing in any equation."""
    S = structure
    even = np.abs(data.q).max(-1, initial=0) <= 100
    even = even & (np.abs(data.b).max(-1, initial=0) <= 100)
    for size in (S.P.largest(data.P)[0], *S.A.largest(data.A)):
        even = even & (size.max(-1, initial=0) <= 100) & (size.min(-1, initial=1, where=size > 0) >= 0.01)
    return even


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
    scale1, scale2 = 1 + _largest(Px, data.q, Ay), 1 + _largest(Ax, y - v, data.b)
    size = np.maximum(_largest(r1) / scale1, _largest(r2) / scale2)
    return Residual(r1, r2, y, np.where(np.isfinite(size), size, np.inf))


def _largest(first, *others):
    """The largest entry of the given vectors in magnitude, for each item."""
    size = np.abs(first)
    for a in others:
        size = np.maximum(size, np.abs(a))
    return size.max(-1, initial=0)


class Point(NamedTuple):
    """A point: x (B, n), v (B, m), y (B, m), and the size (B,) of its residual."""

    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    size: np.ndarray


class Refined(NamedTuple):
    """A refined point: x (B, n), v (B, m), y (B, m), size (B,) of the residual, the inverses of K there (B, N, N), or
    None without `linsolve.keeps_inverse`, singular (B,), whether K is, known (B,), whether that was looked at there, and
    steps (B,), how many of Newton's were made."""

    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    size: np.ndarray
    inverse: np.ndarray | None
    singular: np.ndarray
    known: np.ndarray
    steps: np.ndarray


def refine(structure: Structure, data: ConeData, x, v, patience=_PATIENCE) -> Refined:
    """Newton on R from (x, v), each item by itself; the best point of its path is kept, so nothing ever gets worse.

    The steps are full ones: near a solution that is not regular |R| rises before it falls, and a line search gets stuck.
    An item stops after `patience` steps without progress. Items that start from NaN keep size inf.
    """
    with blas_for(structure.n + structure.m) if structure.kkt_engine is None else nullcontext():
        newton = _Newton(structure, data, x, v, patience)
        for _ in range(_MAX_STEPS):
            items = newton.unfinished()
            if not items.size:
                break
            newton.step(items)
        return newton.result()


class _Newton:
    """The state of a refinement: the present point, the best one, and for how many steps there was no better one."""

    def __init__(self, structure, data, x, v, patience):
        B, N = x.shape[0], structure.n + structure.m
        self.structure, self.data, self.target = structure, data, target(structure)
        self.x, self.v, self.r = x, v, residual(structure, data, x, v)
        self.best = Point(x.copy(), v.copy(), self.r.y.copy(), self.r.size.copy())
        self.patience, self.failures, self.steps = patience, np.zeros(B, np.int64), np.zeros(B, np.int64)
        self.regularized = np.zeros(B, bool)
        self.inverse = np.zeros((B, N, N)) if keeps_inverse(structure) else None
        self.fresh, self.singular = np.zeros(B, bool), np.zeros(B, bool)

    def unfinished(self):
        """Items that are not at the target yet and still promise something."""
        size = self.best.size
        patience = np.where(size > _ROUNDING, self.patience, 1)
        return np.flatnonzero(np.isfinite(size) & (size > self.target) & (self.failures < patience))

    def step(self, items):
        """One Newton step of the given items."""
        everything = items.size == len(self.x)
        some = slice(None) if everything else items
        data, x, v = self.data.take(some), self.x[some], self.v[some]
        r1, r2, _, size = (a[some] for a in self.r)
        spectrum, dx, dy = self._direction(items, data, v, r1, r2, size)
        dv = dy + r2 + self.structure.A.matvec(data.A, dx)  # A dx + ds = -r2 and dv = dy - ds
        x, v = x + dx, v + dv
        r = residual(self.structure, data, x, v)
        better = r.size < self.best.size[some]
        where = items[better]
        if where.size:
            self.fresh[where] &= spectrum is not None and self._same_basis(spectrum.d[better], v[better])
        for mine, new in zip(self.best, (x, v, r.y, r.size), strict=True):
            mine[where] = new[better]
        self.steps[items] += 1
        self.failures[items] = np.where(better, 0, np.where(np.isfinite(r.size), self.failures[items] + 1, _PATIENCE))
        self.regularized[items] |= ~better
        still = np.flatnonzero(~better & self.singular[items] & (np.abs(r.size - size) <= 1e-3 * size))
        if still.size and self._activate_nearest(v, still):
            now = residual(self.structure, data.take(still), x[still], v[still])
            for mine, new in zip(r, now, strict=True):
                mine[still] = new
        if everything:
            self.x, self.v, self.r = x, v, r
        else:
            self.x[items], self.v[items] = x, v
            for mine, new in zip(self.r, r, strict=True):
                mine[items] = new

    def _activate_nearest(self, v, items):
        """Where Newton stands still at a singular K, x is free to move and nothing says where: as in the simplex method it
        goes on until a row stops it. The nearest of the inactive nonneg rows becomes active. Whether there are any."""
        cones = self.structure.cones
        rows = v[items, cones.zero : cones.zero + cones.nonneg]
        if not rows.size:
            return False
        nearest = np.where(rows < 0, rows, -np.inf).argmax(-1)
        there = (rows < 0).any(-1)
        v[items[there], cones.zero + nearest[there]] = _NOTHING
        return there.any()

    def _direction(self, items, data, v, r1, r2, size):
        """The spectrum of D at v, where an inverse of K may serve at other points, and (dx, dy) of Newton's step."""
        if self.structure.kkt_engine is None:
            system, inverse = self._factorize(items, data, v, size)
            return system.spectrum, *system.solve(inverse, r1, r2)
        dx, dy, rank = engine_solve(self.structure, data.P, data.A, v, r1, r2)
        self.singular[items], self.fresh[items] = rank != 1, rank != 0
        rest = np.flatnonzero(rank == 0)
        if rest.size:
            some = data.take(rest)
            with blas_for(self.structure.n + self.structure.m):
                system, inverse = self._factorize(items[rest], some, v[rest], size[rest])
                dx[rest], dy[rest] = system.solve(inverse, r1[rest], r2[rest])
        K = self.structure.K
        return K.spectrum(v) if K.polyhedral else None, dx, dy

    def _factorize(self, items, data, v, size):
        """K at v as an operator and an approximate inverse of it.

        After a step that was no success K + |R| diag(I, -I) is inverted: near a point where K is singular, its own inverse
        blows up small errors.
        """
        system = System(self.structure, data.P, data.A, v)
        delta = np.where(self.regularized[items], np.clip(size, 1e-13, 1e-6), 0)
        if self.inverse is None:
            factors = ItemFactors(self.structure, data.P, data.A, v, delta)
            self.singular[items], self.fresh[items] = factors.singular, delta == 0
            return system, factors.inverse
        F, singular = dense_inverse(system.dense(delta if delta.any() else None))
        self.inverse[items], self.singular[items], self.fresh[items] = F, singular, delta == 0
        return system, apply_dense(F)

    def _same_basis(self, d, v):
        """Whether an inverse of K from a point with the eigenvalues d serves at v. K is written in the eigenvectors of D: a
        polyhedral cone has always the same ones; others may turn at random, however short the step, where eigenvalues
        coincide."""
        K = self.structure.K
        return (d == K.spectrum(v).d).all(-1) if K.polyhedral else False

    def result(self):
        """The best point of each item, with the inverse of K there."""
        best = self.best
        best.v[np.abs(best.v) < _NOTHING] = 0  # near an apex even 1e-20 has a direction, and derivatives along it
        self.fresh &= (self.failures == 0) & ~self.regularized  # else the inverse is from a later, worse point
        items = np.flatnonzero(~self.fresh & np.isfinite(best.size))
        if items.size and self.inverse is not None:
            self.regularized[items] = False
            self._factorize(items, self.data.take(items), best.v[items], best.size[items])
        return Refined(*best, self.inverse, self.singular, self.fresh, self.steps)
