"""Projections onto balls {y: |y| <= r} of the norms 1, 2 and inf.

    |.|_2:    y = r u, u = x/|x|                  dy = u dr + r/|x| (I - uu') dx
    |.|_inf:  y = min(max(x, -r), r)
    |.|_1:    y = sign(x) * Simplex(|x|, r)       dy = s/|S| (dr - s'dx) + |s| dx, s = sign(y), |S| = s's

each of them outside; y = x inside. On the boundary, the derivative is that of outside: with r = 0, it is 0 in x.
l1: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball", ICML 2008; here by Newton's method.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from .base import Layer, PiecewiseLinear, inner, norm, refuse
from .simplex import Simplex


class _Ball(Layer):
    """(x, r) -> y: (..., n), (..., 1) -> (..., n)."""

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes = (n, 1), (n,)

    def check(self, x, r):
        """A radius is not negative."""
        refuse(r < 0, x, "Ball: the radius is negative")


class Euclidean(_Ball):
    """The ball of the 2-norm."""

    second_order = True

    def __init__(self, n):
        super().__init__(n)
        self.saved = (Saved(n, (0, 1)), Saved(1, (0, 1)), Saved(1, (0, 1)))

    def forward(self, x, r):
        """Saved are u, r/|x| and 1/|x|; inside 0, 1 and 0."""
        xp = array_namespace(x)
        size = norm(xp, x)
        outside = size >= r
        inverse = xp.where(size > 0, 1 / xp.where(size > 0, size, 1), 0)
        ratio, inverse = xp.where(outside, r * inverse, 1), xp.where(outside, inverse, 0)
        y = x * xp.where(r >= 0, ratio + 0 * size, xp.nan)
        return (y,), (x * inverse, ratio, inverse)

    def jvp(self, saved, dx, dr):
        """As above."""
        u, ratio, _ = saved
        return (u * dr + ratio * _tangential(u, dx),)

    def vjp(self, saved, c):
        """The transpose."""
        u, ratio, _ = saved
        return ratio * _tangential(u, c), inner(array_namespace(u), u, c)

    def jvp2(self, saved, s, t):
        """u moves with x."""
        (u, ratio, inverse), (sx, sr), (tx, tr) = saved, s, t
        return (inverse * (tr * _tangential(u, sx) + sr * _tangential(u, tx) - ratio * _bend(u, sx, tx)),)

    def vjp2(self, saved, t, c):
        """The transpose of jvp2 in s: symmetric in x."""
        (u, ratio, inverse), (tx, tr), (c,) = saved, t, c
        xp = array_namespace(u)
        across = _tangential(u, c)
        return inverse * (tr * across - ratio * _bend(u, c, tx)), inverse * inner(xp, across, tx)


def _tangential(u, v):
    return v - u * inner(array_namespace(u), u, v)


def _bend(u, s, t):
    """-|x|^2 times the second derivative of u along s and t."""
    xp = array_namespace(u)
    ps, pt = _tangential(u, s), _tangential(u, t)
    return pt * inner(xp, u, s) + ps * inner(xp, u, t) + u * inner(xp, ps, pt)


class Maximum(_Ball, PiecewiseLinear):
    """The ball of the inf-norm."""

    def __init__(self, n):
        super().__init__(n)
        self.saved = (Saved(n, (0, 1)),)

    def forward(self, x, r):
        """Saved is the sign of the entries outside; 0 inside."""
        xp = array_namespace(x)
        y = xp.where(r >= 0, xp.minimum(xp.maximum(x, -r), r), xp.nan)
        sign = xp.where(xp.abs(x) >= r, xp.where(x < 0, -1, 1), 0)
        return (y,), (xp.astype(sign, y.dtype),)

    def jvp(self, saved, dx, dr):
        """As in a box."""
        return ((1 - saved[0] ** 2) * dx + saved[0] * dr,)

    def vjp(self, saved, c):
        """The transpose."""
        return (1 - saved[0] ** 2) * c, inner(array_namespace(c), saved[0], c)


class Diamond(_Ball, PiecewiseLinear):
    """The ball of the 1-norm."""

    loops = True

    def __init__(self, n):
        super().__init__(n)
        self._simplex = Simplex(n)
        self.saved = (Saved(n, (0, 1)), Saved(n, (0, 1)))

    def forward(self, x, r):
        """Saved are s and |s|; inside 0 and 1."""
        xp = array_namespace(x)
        size = xp.abs(x)
        total = xp.sum(size, axis=-1, keepdims=True)
        outside = total >= r
        (face,), _ = self._simplex.forward(size, r)
        y = xp.where(outside, xp.sign(x) * face, xp.where(r >= 0, x, xp.nan)) + 0 * total
        s = xp.where(outside, xp.sign(y), 0)
        return (y,), (s, xp.where(outside, xp.abs(s), 1))

    def jvp(self, saved, dx, dr):
        """The mean over the face off, and a share of dr."""
        s, kept = saved
        xp = array_namespace(s)
        return (kept * dx + s * (dr - inner(xp, s, dx)) / xp.clip(inner(xp, s, s), min=1),)

    def vjp(self, saved, c):
        """The same projection, and the mean."""
        s, kept = saved
        xp = array_namespace(s)
        mean = inner(xp, s, c) / xp.clip(inner(xp, s, s), min=1)
        return kept * c - s * mean, mean
