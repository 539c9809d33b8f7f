"""Cholesky factors of batches of matrices, for native maps: the array API can factorize, but neither solve with a factor nor
let a matrix of a batch be indefinite. Here the others are factorized all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace, device

FACTORS: dict[str, tuple[Callable, Callable]] = {}  # by the name of an array namespace: what an adapter has for the two below


def cholesky(M) -> Any:
    """(L, good): LL' = M, L lower triangular (..., n, n), good (..., 1): whether M is positive definite; else L is anything."""
    return _own(M, 0)(M)


def cholesky_solve(L, r) -> Any:
    """The solutions x of LL'x = r: (..., n, n), (..., n, k) -> (..., n, k); leading dimensions broadcast."""
    return _own(L, 1)(L, r)


def identity(M):
    """The identity matrix, like the last two axes of M."""
    return array_namespace(M).eye(M.shape[-1], dtype=M.dtype, device=device(M))


def _own(M, k):
    return FACTORS.get(array_namespace(M).__name__, (_cholesky, _solve))[k]


def _cholesky(M):
    xp = array_namespace(M)
    one = identity(M)
    finite = xp.all(xp.isfinite(M), axis=(-2, -1))[..., None]
    safe = xp.where(finite[..., None], M, one)
    good = finite & (xp.linalg.eigvalsh(safe)[..., :1] > 0)
    return xp.linalg.cholesky(xp.where(good[..., None], safe, one)), good


def _solve(L, r):
    xp = array_namespace(L)
    return xp.linalg.solve(L.mT, xp.linalg.solve(L, r))
