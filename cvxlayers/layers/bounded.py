"""Projection onto a simplex with bounds: y = argmin |y - x|^2 subject to 0 <= y <= u, 1'y = r.

    y = clip(x - t, 0, u), where t is the root of f(t) = sum clip(x - t, 0, u) - r, decreasing and piecewise linear
    dy = s (dx - dt) + v du,  dt = (s'dx + v'du - dr)/|S|,  s = 1[0 < y < u], v = 1[y = u]

Newton's method, kept in a bracket: where its steps do not become half as long, the bracket is bisected. No sorting.
(Pardalos, Kovoor 1990; Malaviya, Ferreira, Martins 2018.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..loops import iterate
from .base import Layer, inner, refuse

_MOST = 200  # steps; bisection alone ends after about 60 in float64, and each is followed by a step of Newton's at most


class BoundedSimplex(Layer):
    """(x, u, r) -> y: (..., n), (..., n), (..., 1) -> (..., n). Entries of -inf get 0; bounds may be infinite. At ties, where
    x - t is 0 or u, the derivative is that of an entry at its bound; where all are, y does not move with x or r."""

    second_order = loops = True

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes = (n, n, 1), (n,)
        self.saved = (Saved(n, (0, 1, 2)), Saved(n, (0, 1, 2)))

    def _empty(self, x, u, r):
        """Whether there is no y. Sums of bounds that miss r by rounding alone are taken for r."""
        xp = array_namespace(x)
        room = xp.sum(xp.where(x > -xp.inf, u, 0), axis=-1, keepdims=True)
        slack = 4 * u.shape[-1] * xp.finfo(u.dtype).eps
        return (r < 0) | xp.any(u < 0, axis=-1, keepdims=True) | (room < r * (1 - slack))

    def check(self, x, u, r):
        """0 <= sum(y) <= sum(u)."""
        refuse(self._empty(x, u, r), x, "no y has 0 <= y <= upper and the sum asked for")

    def forward(self, x, u, r):
        """Newton's method and bisection; saved are s and v."""
        xp = array_namespace(x)
        top = xp.max(x, axis=-1, keepdims=True)
        z = x - top  # NaN in rows that have no solution
        low = xp.min(xp.where(x == -xp.inf, 0, z - xp.minimum(u, r)), axis=-1, keepdims=True)
        noise = xp.finfo(z.dtype).eps * z.shape[-1]

        def step(going, t, low, high, last):
            gap = z - t
            y = xp.clip(xp.minimum(gap, u), min=0)
            excess = xp.sum(y, axis=-1, keepdims=True) - r
            low, high = xp.where(excess > 0, t, low), xp.where(excess > 0, high, t)
            count = xp.sum(xp.astype((gap > 0) & (gap < u), y.dtype), axis=-1, keepdims=True)
            newton = t + excess / xp.clip(count, min=1)
            length = xp.abs(newton - t)
            good = (count > 0) & (newton >= low) & (newton <= high) & (2 * length <= last)
            moved = xp.where(good, newton, (low + high) / 2)
            going = going & (xp.abs(excess) > noise * (r + xp.abs(t))) & (moved != t)
            return going, xp.where(going, moved, t), low, high, xp.where(good, length, high - low)

        start = low + 0 * (top + r)
        _, t, *_ = iterate(step, (start == start, start, start, 0 * start, start * 0 + xp.inf), _MOST)
        gap = z - t
        y = xp.where(self._empty(x, u, r), xp.nan, xp.clip(xp.minimum(gap, u), min=0))
        at = (gap >= u) & (gap > 0)
        return (y,), (xp.astype((gap > 0) & ~at, y.dtype), xp.astype(at, y.dtype))

    def jvp(self, saved, dx, du, dr):
        """As above."""
        s, v = saved
        xp = array_namespace(s)
        dt = (inner(xp, s, dx) + inner(xp, v, du) - dr) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)
        return (s * (dx - dt) + v * du,)

    def vjp(self, saved, c):
        """The transpose."""
        s, v = saved
        xp = array_namespace(s)
        mean = inner(xp, s, c) / xp.clip(xp.sum(s, axis=-1, keepdims=True), min=1)
        return s * (c - mean), v * (c - mean), mean

    def jvp2(self, saved, s, t):
        """Zero: the map is piecewise linear."""
        return (0 * (s[0] * t[0]),)

    def vjp2(self, saved, t, c):
        """Zero."""
        zero = 0 * (t[0] * c[0])
        return zero, zero, zero[..., :1]
