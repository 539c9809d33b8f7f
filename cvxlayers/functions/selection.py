"""Soft selection: distributions and soft subsets from scores."""

from __future__ import annotations

from functools import cache

from ..errors import ProblemError
from ..layers.lml import LML
from ..layers.simplex import CappedSimplex, Simplex
from ..layers.softmax import CappedSoftmax
from .base import Base, axis_of, size_of


class Selection(Base):
    """sparsemax and its relatives."""

    def sparsemax(self, x, axis=-1, *, dim=None):
        """The sparse softmax: argmin |y - x|^2 subject to y >= 0, sum(y) = 1.

        x: scores, with any leading dimensions; -inf is a score that gets 0. axis, or dim: that of the vectors. Returns an array
        like x. A row with NaN or +inf, or with -inf alone, is NaN. At ties, where y touches 0, the derivative is that of
        the smaller support. Source: Martins, Astudillo, "From softmax to sparsemax", ICML 2016.
        """
        return self._vectors(_distribution, (self._arrays.asarray(x),), (), axis, dim)[0]

    def constrained_sparsemax(self, x, u, axis=-1, *, dim=None):
        """sparsemax with upper bounds: argmin |y - x|^2 subject to 0 <= y <= u, sum(y) = 1.

        x: scores, as in `sparsemax`. u: upper bounds, an array that broadcasts with x or a number; inf is none. Returns an
        array of the broadcast shape. Raises SolverError, naming the rows, where u has negative entries, or sums to less than
        1 over the scores that are not -inf; in compiled code such a row is NaN, as is one with NaN or with +inf in x.
        Derivatives are those of x and u; an entry at a tie counts as at its bound, and where no entry is free, that in u is
        the one for a smaller sum. Source: Malaviya, Ferreira, Martins, "Sparse and constrained attention for neural machine
        translation", ACL 2018.
        """
        x, u, r = self._all(x, u, 1.0)
        return self._vectors(CappedSimplex, (x, u), (r,), axis, dim)[0]

    def constrained_softmax(self, x, u, axis=-1, *, dim=None):
        """The softmax with upper bounds: argmax <x, y> + H(y) subject to 0 <= y <= u, sum(y) = 1, H(y) = -sum(y log y).

        x: scores, with any leading dimensions; -inf is a score that gets 0. u: upper bounds, an array that broadcasts with x
        or a number; inf is none. axis, or dim: that of the vectors. Returns y = min(u, q e^x) in the broadcast shape. Raises
        SolverError, naming the rows, where u has negative entries, or sums to less than 1 over the scores that are not -inf;
        in compiled code such a row is NaN, as is one with NaN or with +inf in x. Derivatives are those of x and u; where y
        just touches u it counts as at u. Source: Martins, Kreutzer, "Learning what's easy", EMNLP 2017.
        """
        x, u = self._all(x, u)
        return self._vectors(CappedSoftmax, (x, u), (), axis, dim)[0]

    def lml(self, x, k, tau=1.0, axis=-1, *, dim=None):
        """A soft choice of k entries, the limited multi-label projection: y = sigmoid((x + nu)/tau) with sum(y) = k.

        It is argmin -<x, y> - tau sum(H(y)) over the y between 0 and 1 that sum to k, H the binary entropy; with tau to 0
        the indicator of the k largest scores. x: scores, with any leading dimensions; -inf is a score that gets 0. k: how
        many, not necessarily whole; tau: the temperature; numbers, or arrays of the shape of x without the axis. axis, or
        dim: that of the vectors. Returns an array like x. Raises ProblemError, naming the rows, where k is negative or more
        than the scores that are not -inf, or tau is not positive; in compiled code such a row is NaN, as is one with NaN or
        with +inf in x. Derivatives are those of x, k and tau; with k = 0 and k = n that of x is zero. Source: Amos, Koltun,
        Kolter, "The limited multi-label projection layer", 2019.
        """
        _check_k("lml", x, k, axis, dim)
        if isinstance(tau, (int, float)) and not tau > 0:
            raise ProblemError(f"lml: tau is {tau}; expected a positive temperature")
        x, k, tau = self._all(x, k, tau)
        return self._vectors(LML, (x,), (k, tau), axis, dim)[0]

    def sparse_topk(self, x, k, axis=-1, *, dim=None):
        """A sparse choice of k entries: argmin |y - x|^2 subject to 0 <= y <= 1, sum(y) = k; y = clip(x - nu, 0, 1).

        x: scores, with any leading dimensions; -inf is a score that gets 0. k: how many, not necessarily whole, a number or
        an array of the shape of x without the axis. axis, or dim: that of the vectors. Returns an array like x: the
        indicator of the k largest scores, once they are ahead of all others by 1. Raises ProblemError for a number k that is
        negative or above n, and SolverError, naming the rows, for an array with such a k or with more than there are scores
        that are not -inf; in compiled code such a row is NaN, as is one with NaN or with +inf in x. Derivatives are those of
        x and k. Where y has no entry strictly between 0 and 1, that of x is zero, and that of k the one for a smaller k.
        """
        _check_k("sparse_topk", x, k, axis, dim)
        x, u, k = self._all(x, 1.0, k)
        return self._vectors(CappedSimplex, (x, u), (k,), axis, dim)[0]


@cache
def _distribution(n):
    return Simplex(n, 1.0)


def _check_k(name, x, k, axis, dim):
    """Numbers are checked also where arrays have no values yet."""
    if isinstance(k, (int, float)) and hasattr(x, "shape"):
        n = size_of(x, axis_of(x, axis, dim))
        if not 0 <= k <= n:
            raise ProblemError(f"{name}: k is {k}; expected between 0 and {n}, the number of scores")
