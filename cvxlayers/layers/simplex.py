"""Euclidean projections onto the simplex (sparsemax) and onto the simplex with upper bounds.

    y = argmin |y - x|^2 subject to 0 <= y <= u, 1'y = r
    y = clip(x - t, 0, u), where t is the root of f(t) = sum clip(x - t, 0, u) - r
    with F the entries strictly between their bounds and A those at u:  dy_A = du_A,  dy_F = dx_F + (dr - 1'du_A - 1'dx_F)/|F|

f is decreasing and piecewise linear, without u convex: Newton from the left of the root never passes it then, and ends on the
linear piece of the root after finitely many steps, without sorting. With u a bracket guards the steps.
(Held, Wolfe, Crowder 1974; Martins, Astudillo 2016; Kiwiel 2008.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..errors import SolverError, listed
from ..loops import iterate
from ..native import rows
from .base import PiecewiseLinear, failing, inner, refuse

_MOST = 100  # steps; each takes entries off the support for good, and a handful do


class Simplex(PiecewiseLinear):
    """(x, r) -> y: (..., n), (..., 1) -> (..., n); with a number as `total`: x -> y, r = total. Entries of -inf get 0; a row
    with NaN or +inf, or without a finite entry or with r < 0, is NaN. At a tie on the boundary of the support, the
    derivative is that of the smaller support."""

    loops = True

    def __init__(self, n, total=None):
        super().__init__(n, total)
        self.total = total
        self.in_sizes, self.out_sizes = (n, 1) if total is None else (n,), (n,)
        self.saved = (Saved(n, tuple(range(len(self.in_sizes)))),)

    def check(self, x, r=None):
        """A sum of nonnegative entries is not negative."""
        if r is not None:
            refuse(r < 0, x, "Simplex: the total is negative")

    def forward(self, x, r=None):
        """Newton's method on f."""
        r = self.total if r is None else r
        found = rows.takes(x) and rows.run("capped", (x, None, r), (x.shape[-1],) * 2)
        if found:
            y, support = found[0]
            return (y,), (support,)
        xp = array_namespace(x)
        top = xp.max(x, axis=-1, keepdims=True)
        fine = (top > -xp.inf) & (top < xp.inf) & (r >= 0)
        z = xp.where(fine, x, 0.0) - xp.where(fine, top, 0.0)  # where all terms of f are small
        t = xp.where(fine, -r, xp.zeros_like(top))

        def step(going, t, y):
            count = xp.sum(xp.astype(y > 0, y.dtype), axis=-1, keepdims=True)
            excess = xp.sum(y, axis=-1, keepdims=True) - r
            moved = t + excess / xp.clip(count, min=1)
            going = (moved > t) & (count > 0)
            t = xp.where(going, moved, t)
            return going, t, xp.clip(z - t, min=0)

        _, t, y = iterate(step, (fine, t, xp.clip(z - t, min=0)), _MOST)
        return (xp.where(fine, y, xp.nan),), (xp.where(fine, xp.astype(y > 0, y.dtype), xp.nan),)

    def jvp(self, saved, dx, dr=0.0):
        """The mean over the support off, and a share of dr."""
        xp = array_namespace(dx)
        s = saved[0]
        return (s * (dx + (dr - inner(xp, s, dx)) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)),)

    def vjp(self, saved, c):
        """The same projection, and the mean."""
        wanted = None if self.total is not None else 1
        found = rows.takes(c) and rows.run("capped_vjp", (*saved, c), (c.shape[-1], None, wanted))
        if found:
            return found[0]
        xp = array_namespace(c)
        s = saved[0]
        mean = inner(xp, s, c) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)
        return (s * (c - mean), mean)[: len(self.in_sizes)]


class CappedSimplex(PiecewiseLinear):
    """(x, u, r) -> y: (..., n), (..., n), (..., 1) -> (..., n). Entries of x of -inf get 0, whatever their u, which may be
    inf. A row with NaN, or with +inf in x, is NaN; one without a solution (some u < 0, r < 0, sum u < r) is an error.

    An entry at a tie counts as at its bound. Where no entry is free (a vertex: with integers as u and r, most points are)
    the derivative in x is zero, and those in u and r are the ones for less r: of the entries at u, the first to leave it
    share.
    """

    loops = True

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes, self.saved = (n, n, 1), (n,), (Saved(n, (0, 1, 2)),)

    def check(self, x, u, r):
        """Raise SolverError for rows without a solution."""
        if not rows.takes(x):
            self._refuse(x, u, r)

    def _refuse(self, x, u, r):
        wrong = _infeasible(array_namespace(x), x, u, r)
        items = failing(wrong)
        if items:
            raise SolverError(
                f"rows {listed(items)} have no point with entries between 0 and u whose sum is the one asked for: u must not "
                f"be negative, and must sum to no less where x is not -inf",
                items,
            )

    def forward(self, x, u, r):
        """Newton's method on f, between a lower and an upper end of t."""
        if rows.takes(x):
            found = rows.run("capped", (x, u, r), (x.shape[-1],) * 2)
            if found is None or found[1]:
                self._refuse(x, u, r)
            if found:
                (y, code), _ = found
                return (y,), (code,)
        xp = array_namespace(x)
        bad = xp.any(~(x < xp.inf) | (u != u), axis=-1, keepdims=True) | (r != r) | _infeasible(xp, x, u, r)
        there = x > -xp.inf
        top = xp.max(xp.where(bad, 0.0, x), axis=-1, keepdims=True)
        z = xp.where(there & ~bad, x, 0.0) - xp.where(top > -xp.inf, top, 0.0)
        r = xp.where(bad, 0.0, r)
        cap = xp.where(there & ~bad, xp.minimum(u, r), 0.0)  # no entry of y is more than r
        eps = xp.finfo(z.dtype).eps
        low = xp.min(z - cap, axis=-1, keepdims=True)
        high = xp.max(z + 0 * low, axis=-1, keepdims=True)

        def step(going, t, low, high):
            y = xp.minimum(xp.clip(z - t, min=0), cap)
            excess = xp.sum(y, axis=-1, keepdims=True) - r
            count = xp.sum(xp.astype((z > t) & (z - cap < t), y.dtype), axis=-1, keepdims=True)
            low, high = xp.where(excess >= 0, t, low), xp.where(excess <= 0, t, high)
            moved = t + excess / xp.clip(count, min=1)
            done = (count > 0) & (xp.abs(moved - t) <= eps * xp.abs(t))
            moved = xp.where(done | ((count > 0) & (moved > low) & (moved < high)), moved, low + (high - low) / 2)
            going = going & (xp.abs(excess) > 2 * eps * r) & (low < high)
            return going & ~done, xp.where(going, moved, t), low, high

        room = xp.sum(cap, axis=-1, keepdims=True)
        t = xp.where((room > r) | (r == 0), xp.maximum(low, high - r), low)
        _, t, _, _ = iterate(step, (t == t, t, low, high), 2 * _MOST)
        least = z - xp.where(there, u, 0.0)
        full = there & (least >= t)
        free = (z > t) & ~full & there
        zero = xp.zeros_like(z)
        y = xp.where(full, u + zero, xp.where(free, z - t, zero))
        vertex = ~xp.any(free, axis=-1, keepdims=True)
        first = xp.min(xp.where(full, least, xp.inf), axis=-1, keepdims=True)
        code = xp.where(free, 1.0, xp.where(full, xp.where(vertex & (least <= first), -2.0, zero - 1), zero))
        return (xp.where(bad, xp.nan, y),), (xp.where(bad, xp.nan, code),)

    def jvp(self, saved, dx, du, dr):
        """At u it moves as u does; the free entries share what is left."""
        xp = array_namespace(dx)
        free, full, share = _shares(xp, saved[0])
        rest = dr - inner(xp, full, du) - inner(xp, free, dx)
        return (free * dx + full * du + share * rest,)

    def vjp(self, saved, c):
        """dr is the mean of c over the entries that share, and what is beyond it goes to x or to u."""
        n = c.shape[-1]
        found = rows.takes(c) and rows.run("capped_vjp", (*saved, c), (n, n, 1))
        if found:
            return found[0]
        xp = array_namespace(c)
        free, full, share = _shares(xp, saved[0])
        mean = inner(xp, share, c)
        return free * (c - mean), full * (c - mean), mean


def _infeasible(xp, x, u, r):
    """Rows with numbers in them and without a solution; rounding of the sum is forgiven."""
    cap = xp.minimum(u, r)
    room = xp.sum(xp.where(x > -xp.inf, cap, 0.0), axis=-1, keepdims=True)
    few = room < r * (1 - 16 * xp.finfo(x.dtype).eps)
    unknown = xp.any((x != x) | (x == xp.inf) | (u != u), axis=-1, keepdims=True)
    return (few | (r < 0) | (r == xp.inf) | xp.any(u < 0, axis=-1, keepdims=True)) & ~unknown


def _shares(xp, code):
    """1 where y is free; 1 where it is at u; the shares in a change of the sum."""
    zero = 0 * code
    free, full = xp.where(code > 0, 1.0, zero), xp.where(code < 0, 1.0, zero)
    count = xp.sum(free, axis=-1, keepdims=True)
    first = xp.where(code < -1.5, 1.0, zero)
    share = xp.where(count > 0, free, first)
    return free, full, share / xp.clip(xp.sum(share, axis=-1, keepdims=True), min=1)
