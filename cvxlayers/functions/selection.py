"""Soft selection: distributions and soft subsets from scores."""

from __future__ import annotations

from ..layers.simplex import Simplex
from .base import Base


class Selection(Base):
    """sparsemax and its relatives."""

    def sparsemax(self, x, axis=-1, *, dim=None):
        """The sparse softmax: argmin |y - x|^2 subject to y >= 0, sum(y) = 1.

        x: scores, with any leading dimensions; -inf is a score that gets 0. axis, or dim: that of the vectors. Returns an array
        like x. A row with NaN or +inf, or with -inf alone, is NaN. At ties, where y touches 0, the derivative is that of
        the smaller support. Source: Martins, Astudillo, "From softmax to sparsemax", ICML 2016.
        """
        x, r = self._all(x, 1.0)
        return self._vectors(Simplex, (x,), (r,), axis, dim)[0]
