"""Projections onto a hyperplane {y: a'y = b} and onto a halfspace {y: a'y <= b}.

y = x - s e,   e = a/|a|,   s = e'x - b/|a|, in a halfspace max(s, 0)
dy = dx - s da/|a| - e L,   L = e'dx + w'da/|a| - db/|a|,   w = x - 2 s e
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from .base import Layer, inner, norm, refuse


class Hyperplane(Layer):
    """(x, a, b) -> y: (..., n), (..., n), (..., 1) -> (..., n). With a = 0, the set is empty or everything."""

    second_order = True

    def __init__(self, n):
        super().__init__(n)
        every = (0, 1, 2)
        self.in_sizes, self.out_sizes = (n, n, 1), (n,)
        self.saved = (Saved(n, every), Saved(n, every), Saved(1, every), Saved(1, every))

    def _active(self, s):
        return s == s

    def _empty(self, xp, a, b):
        return xp.all(a == 0, axis=-1, keepdims=True) & (b != 0)

    def check(self, x, a, b):
        """0 = b is a set for b = 0 only."""
        refuse(self._empty(array_namespace(x), a, b), x, f"{type(self).__name__}: a is 0, and b makes the set empty")

    def forward(self, x, a, b):
        """Where the constraint is inactive or a is 0, what is saved is 0, but w, and so is every derivative but dx."""
        xp = array_namespace(x)
        size = norm(xp, a)
        inverse = xp.where(size > 0, 1 / xp.where(size > 0, size, 1), 0)
        e = a * inverse
        along = inner(xp, e, x)
        s = along - b * inverse
        on = self._active(s) & (size > 0)
        e, s, inverse = (xp.where(on, v, 0) for v in (e, s, inverse))
        y = x - e * xp.where(self._empty(xp, a, b) | (b != b), xp.nan, s + 0 * along)
        return (y,), (e, y - s * e, s, inverse)

    def jvp(self, saved, dx, da, db):
        """As above."""
        e, _, s, inverse = saved
        xp = array_namespace(e)
        return (dx - s * inverse * da - e * _along(xp, saved, dx, da, db),)

    def vjp(self, saved, c):
        """The transpose."""
        e, w, s, inverse = saved
        ec = inner(array_namespace(e), e, c)
        return c - e * ec, -inverse * (s * c + ec * w), inverse * ec

    def jvp2(self, saved, s, t):
        """L and w depend on x, a and b, too."""
        e, _, distance, inverse = saved
        xp = array_namespace(e)
        (sx, sa, _), (tx, ta, _) = s, t
        sa, ta, along, across = sa * inverse, ta * inverse, _along(xp, saved, *s), _along(xp, saved, *t)
        bend = inner(xp, sa, tx) + inner(xp, ta, sx) - 2 * distance * inner(xp, sa, ta)
        bend = bend - 2 * along * inner(xp, e, ta) - 2 * across * inner(xp, e, sa)
        return (-ta * along - sa * across - e * bend,)

    def vjp2(self, saved, t, c):
        """The transpose of jvp2 in s."""
        (e, w, distance, inverse), (c,) = saved, c
        xp = array_namespace(e)
        tx, ta, _ = t
        ta, across, ec = ta * inverse, _along(xp, saved, *t), inner(xp, e, c)
        k = 2 * ec * inner(xp, e, ta) - inner(xp, c, ta)
        ga = k * w - across * c - ec * (tx - 2 * distance * ta - 2 * across * e)
        return k * e - ec * ta, inverse * ga, -inverse * k


def _along(xp, saved, dx, da, db):
    """L, the change of s that moves y along e."""
    e, w, _, inverse = saved
    return inner(xp, e, dx) + inverse * (inner(xp, w, da) - db)


class Halfspace(Hyperplane):
    """(x, a, b) -> y, as above. On the boundary, the derivative is that of outside."""

    def _active(self, s):
        return s >= 0

    def _empty(self, xp, a, b):
        return xp.all(a == 0, axis=-1, keepdims=True) & (b < 0)
