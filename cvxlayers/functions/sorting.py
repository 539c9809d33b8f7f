"""Soft sorting and ranking."""

from __future__ import annotations

import functools

from ..layers.permutahedron import SoftRank, SoftSort
from .base import Base


class Sorting(Base):
    """Projections onto the permutahedron."""

    def soft_sort(self, x, eps=1.0, axis=-1, *, dim=None, descending=False):
        """The soft sort: the projection of (1, ..., n) / eps onto the convex hull of the permutations of x, ascending.

        x: values, with any leading dimensions. eps >= 0: for all, or one for each vector; up to 1 / (the largest gap between
        neighbours) it is the hard sort, exactly, and for large eps all entries are near the mean. axis, or dim: that of the
        vectors. descending: the largest value first. Returns an array like x, with the same sums. A row that is not finite is
        NaN. Raises SolverError for eps < 0. The derivative averages over blocks; where x has ties in blocks of their own it is
        that of x in its order, and where blocks only touch that of their union. O(n log n).
        Source: Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and ranking", ICML 2020.
        """
        x, eps = self._all(x, eps)
        make = functools.partial(SoftSort, descending=bool(descending))
        return self._vectors(make, (x,), (eps,), axis, dim, least=0)[0]

    def soft_rank(self, x, eps=1.0, axis=-1, *, dim=None):
        """The soft ranks: the projection of x / eps onto the convex hull of the permutations of (1, ..., n).

        The smallest value has the rank 1; -x gives the other order. x: values, with any leading dimensions. eps >= 0: for all,
        or one for each vector; up to the smallest gap between values it gives the hard ranks, exactly (equal values share the
        mean of theirs), and for large eps all ranks are near (n + 1) / 2. axis, or dim: that of the vectors. Returns an array
        like x. A row that is not finite is NaN. Raises SolverError for eps < 0. The derivative is 1 - the mean over the block,
        over eps, and 0 for eps = 0; where blocks only touch it is that of their union. O(n log n).
        Source: Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and ranking", ICML 2020.
        """
        x, eps = self._all(x, eps)
        return self._vectors(SoftRank, (x,), (eps,), axis, dim, least=0)[0]
