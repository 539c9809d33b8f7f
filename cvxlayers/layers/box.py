"""Projections onto boxes: y = min(max(x, low), high), entry by entry. dy is dx inside, and that of the bound elsewhere."""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from .base import PiecewiseLinear, refuse


class Box(PiecewiseLinear):
    """(x, low, high) -> y: three times (..., n). On a bound, the derivative is that of outside. Bounds may be infinite."""

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes, self.saved = (n, n, n), (n,), (Saved(n, (0, 1, 2)), Saved(n, (0, 1, 2)))

    def check(self, x, low, high):
        """A box has low <= high."""
        refuse(low > high, x, "Box: low is greater than high")

    def forward(self, x, low, high):
        """Saved are 1 for entries at low, and 1 for those at high."""
        xp = array_namespace(x)
        y = xp.minimum(xp.maximum(x, xp.where(low <= high, low, xp.nan)), high)
        below = x <= low
        return (y,), (xp.astype(below, y.dtype), xp.astype((x >= high) & ~below, y.dtype))

    def jvp(self, saved, dx, dlow, dhigh):
        """One of three."""
        below, above = saved
        return ((1 - below - above) * dx + below * dlow + above * dhigh,)

    def vjp(self, saved, c):
        """To one of three."""
        below, above = saved
        return (1 - below - above) * c, below * c, above * c
