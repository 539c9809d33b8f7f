"""Soft sorting and ranking: projections onto the permutahedron, the convex hull of all permutations of a vector.

    sort(x)  projects (1, ..., n) / eps onto the permutations of x        rank(x)  projects x / eps onto those of (1, ..., n)

With s = sorted x, isotonic regression of t = (1, ..., n) - eps s, or of t = s - eps (1, ..., n), has blocks, and with M, the
mean over its block, for each entry:

    sort = M s + (I - M) (1, ..., n) / eps                                rank = M (1, ..., n) + (I - M) s / eps

So for small eps blocks are single entries, and the values those of the hard sort and of the ranks, exactly. Where x and eps
move the blocks stay: that is the derivative. (Blondel, Teboul, Berthet, Djolonga 2020, with the quadratic regularization.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..errors import ShapeError, SolverError, listed
from ..native import isotonic as native
from .base import Layer, failing, inner
from .isotonic import block_means, blocks, places, put, regression, taken

_COUNTED = 1 << 20  # entries that float32 counts


class _Permutahedron(Layer):
    """(x, eps) -> y: (..., n), (..., 1) -> (..., n). Saved: the order of x, the blocks of its sorted entries, off = (I - M) y
    (of the ranks only), 1 / eps."""

    second_order = loops = True
    rank = False

    def __init__(self, n, *settings):
        super().__init__(n, *settings)
        self.n, self.in_sizes, self.out_sizes = n, (n, 1), (n,)
        self.saved = (*[Saved(n, (0, 1))] * (4 if self.rank else 3), Saved(1, (1,)))

    def check(self, x, eps):
        """eps >= 0."""
        if not native.takes(x):
            self._refuse(eps)

    def _refuse(self, eps):
        items = failing(eps < 0)
        if items:
            raise SolverError(f"{type(self).__name__}: eps is negative in the items {listed(items)}; expected eps >= 0", items)

    def _solved(self, x, eps):
        """(y, order, first, last, off, 1 / eps)."""
        xp = array_namespace(x)
        if self.n > _COUNTED and self.n * xp.finfo(x.dtype).eps > 2:
            raise ShapeError(f"{type(self).__name__}: {self.n} entries in {x.dtype}, which cannot count them; expected float64")
        if native.takes(x):
            found = native.permutahedron(x, eps, self.rank)
            if found is None or found[1]:
                self._refuse(eps)
            if found:
                return found[0]
        usual = (eps >= xp.finfo(x.dtype).smallest_normal) & xp.isfinite(eps)  # else it is as for eps = 0
        inverse = xp.where(usual, 1 / xp.where(usual, eps, xp.ones_like(eps)), xp.zeros_like(eps))
        return *self._with_arrays(xp, x, eps, inverse), inverse

    def _with_arrays(self, xp, x, eps, inverse):
        good = xp.all(xp.isfinite(x), axis=-1, keepdims=True) & xp.isfinite(eps) & (eps >= 0)
        x, eps = xp.where(good, x, xp.zeros_like(x)), xp.where(good, eps, xp.zeros_like(eps))
        order = xp.astype(xp.argsort(x, axis=-1, stable=True), x.dtype)
        s, i = taken(x, order), places(x)
        first, last = blocks(regression(s - eps * i if self.rank else i - eps * s))
        mean, middle = block_means(s, first, last), (first + last) / 2
        if not self.rank:
            return xp.where(good, mean + (i - middle) * inverse, xp.nan), order, first, last, None
        off = (s - mean) * inverse
        y = put(middle + 1 + off, order)
        return xp.where(good, y, xp.nan), order, first, last, put(off, order)


class SoftSort(_Permutahedron):
    """A row that is not finite, or with eps < 0, is NaN. At ties, where the sort has a kink, the derivative is that of x in its
    order; where blocks only touch, that of their union."""

    def __init__(self, n, descending=False):
        super().__init__(n, descending)
        self.descending = descending

    def forward(self, x, eps):
        """The sorted x, and the blocks."""
        y, order, first, last, _, inverse = self._solved(-x if self.descending else x, eps)
        return (-y if self.descending else y,), (order, first, last, inverse)

    def _off(self, first, last, inverse):
        """(I - M) y."""
        off = (places(first) - (first + last) / 2) * inverse
        return -off if self.descending else off

    def jvp(self, saved, dx, deps):
        """M dx - off deps / eps."""
        *blocks, inverse = saved
        return (_means(dx, blocks) - self._off(*saved[1:]) * (inverse * deps),)

    def vjp(self, saved, c):
        """M c in the order of x, -<off, c> / eps."""
        found = native.vjp(saved, c, rank=False, descending=self.descending)
        if found:
            return found
        order, first, last, inverse = saved
        return put(block_means(c, first, last), order), -inverse * inner(array_namespace(c), self._off(*saved[1:]), c)

    def jvp2(self, saved, s, t):
        """2 off ds dt / eps^2."""
        return (self._off(*saved[1:]) * (2 * saved[-1] ** 2 * s[1] * t[1]) + 0 * (s[0] * t[0]),)

    def vjp2(self, saved, t, c):
        """x has no part in it."""
        return 0 * (t[0] * c[0]), 2 * saved[-1] ** 2 * t[1] * inner(array_namespace(c[0]), self._off(*saved[1:]), c[0])


class SoftRank(_Permutahedron):
    """A row that is not finite, or with eps < 0, is NaN. Ties in x are no kinks; where blocks only touch, the derivative is
    that of their union."""

    rank = True

    def forward(self, x, eps):
        """The ranks, and the blocks."""
        y, *saved = self._solved(x, eps)
        return (y,), tuple(saved)

    def jvp(self, saved, dx, deps):
        """((I - M) dx - off deps) / eps."""
        *blocks, off, inverse = saved
        return (inverse * (_off(dx, blocks) - off * deps),)

    def vjp(self, saved, c):
        """(I - M) c / eps, -<off, c> / eps."""
        found = native.vjp(saved, c, rank=True)
        if found:
            return found
        *blocks, off, inverse = saved
        return inverse * _off(c, blocks), -inverse * inner(array_namespace(c), off, c)

    def jvp2(self, saved, s, t):
        """(2 off s_eps t_eps - (I - M) (s_x t_eps + t_x s_eps)) / eps^2."""
        *blocks, off, inverse = saved
        return (inverse**2 * (2 * off * (s[1] * t[1]) - _off(s[0] * t[1] + t[0] * s[1], blocks)),)

    def vjp2(self, saved, t, c):
        """Its adjoint."""
        *blocks, off, inverse = saved
        g, xp = _off(c[0], blocks), array_namespace(c[0])
        return -(inverse**2) * t[1] * g, inverse**2 * (2 * t[1] * inner(xp, off, c[0]) - inner(xp, t[0], g))


def _off(c, blocks):
    """(I - M) c, in the order of x."""
    return c - _means(c, blocks, scatter=True)


def _means(c, saved, scatter=False):
    """M c for c in the order of x; the result is in the sorted one, or, with scatter, in that of x."""
    order, first, last = saved
    found = native.means(c, order, last, scatter)
    if found is not None:
        return found
    mean = block_means(taken(c, order), first, last)
    return put(mean, order) if scatter else mean
