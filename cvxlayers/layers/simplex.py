"""sparsemax: the Euclidean projection onto the simplex, y = argmin |y - x|^2 subject to y >= 0, 1'y = r.

    y = max(x - t, 0), where t is the root of f(t) = sum max(x - t, 0) - r      J = diag(s) - s s'/|S|, s = 1[y > 0]

f is convex, decreasing and piecewise linear: Newton from the left of the root never passes it and ends on the linear
piece of the root after finitely many steps, without sorting. (Held, Wolfe, Crowder 1974; Martins, Astudillo 2016.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..loops import iterate
from .base import Layer, inner, refuse

_MOST = 100  # steps; each takes entries off the support for good, and a handful do


class Simplex(Layer):
    """(x, r) -> y: (..., n), (..., 1) -> (..., n). Entries of -inf get 0; a row with NaN or +inf, or without a finite entry
    or with r < 0, is NaN. At a tie on the boundary of the support, the derivative is that of the smaller support."""

    second_order = loops = True

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes, self.saved = (n, 1), (n,), (Saved(n, (0, 1)),)

    def check(self, x, r):
        """A sum of nonnegative entries is not negative."""
        refuse(r < 0, x, "Simplex: the total is negative")

    def forward(self, x, r):
        """Newton's method on f."""
        xp = array_namespace(x)
        top = xp.max(x, axis=-1, keepdims=True)
        z = x - top  # where all terms of f are small; NaN in rows that have no solution
        t = -r + 0 * top

        def step(going, t, y):
            count = xp.sum(xp.astype(y > 0, y.dtype), axis=-1, keepdims=True)
            excess = xp.sum(y, axis=-1, keepdims=True) - r
            moved = t + excess / count
            going = (moved > t) & (count > 0)
            t = xp.where(going, moved, t)
            return going, t, xp.clip(z - t, min=0)

        _, t, y = iterate(step, (top == top, t, xp.clip(z - t, min=0)), _MOST)
        y = xp.where((r >= 0) & (top == top), y, xp.nan)
        return (y,), (y,)

    def jvp(self, saved, dx, dr):
        """The mean over the support off, and a share of dr."""
        xp = array_namespace(saved[0])
        s = xp.astype(saved[0] > 0, saved[0].dtype)
        return (s * (dx + (dr - inner(xp, s, dx)) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)),)

    def vjp(self, saved, c):
        """The same projection, and the mean."""
        xp = array_namespace(saved[0])
        s = xp.astype(saved[0] > 0, saved[0].dtype)
        mean = inner(xp, s, c) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)
        return s * (c - mean), mean

    def jvp2(self, saved, s, t):
        """Zero: the map is piecewise linear."""
        return (0 * (s[0] * t[0]),)

    def vjp2(self, saved, t, c):
        """Zero."""
        return 0 * (t[0] * c[0]), 0 * (t[1] * c[0][..., :1])
