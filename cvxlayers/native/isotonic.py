"""Projections onto permutahedra, and means over their blocks, for arrays in the memory of the CPU. None: do it with arrays.

Arrays of NumPy and torch (or of what else lends its memory to NumPy), (..., k) of float32 or float64 with leading dimensions
that broadcast.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np
from array_api_compat import array_namespace, is_numpy_array, is_torch_array

from ..memory import empty
from ..threads import workers
from .library import at, library

_int, _long, _pointer = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
_FEW = 4096  # numbers up to which a second thread is not worth waking


@cache
def _function(name, *arguments):
    found = library()
    if found is None:
        return None
    function = getattr(found, f"cvxlayers_{name}")
    function.argtypes, function.restype = [_int, _long, _long, _int, *arguments], _int
    return function


def permutahedron(x, eps, rank):
    """(y, order, first, last, off), as in `layers.permutahedron`; without `rank` off is None."""
    function = _function("permutahedron", _int, *([_pointer, _long] * 2), *([_pointer] * 5))
    rows = _rows(x, eps) if function else None
    if not rows:
        return None
    lead, batch, (x_rows, e_rows) = rows
    n = x_rows.shape[1]
    out = [empty((*lead, n), x_rows.dtype) for _ in range(4 + rank)]
    _call(function, batch, n, x_rows.dtype, rank, *_strided(x_rows), *_strided(e_rows), *map(at, out), *[None] * (1 - rank))
    xp = array_namespace(x)
    return [xp.asarray(a) for a in out] + [None] * (1 - rank)


def means(c, order, last, gather, scatter):
    """The means of c over blocks; gather: c is in the order of x, else in the sorted one; scatter: the result is."""
    function = _function("block_means", _int, _int, _pointer, _long, _pointer, _pointer, _long, _pointer)
    rows = _rows(c, order, last) if function else None
    if not rows:
        return None
    lead, batch, (c_rows, order, last) = rows
    out = empty((*lead, c_rows.shape[1]), c_rows.dtype)
    saved = (at(order), *_strided(last))
    _call(function, batch, out.shape[-1], out.dtype, gather, scatter, *_strided(c_rows), *saved, at(out))
    return array_namespace(c).asarray(out)


def _call(function, batch, n, dtype, *arguments):
    threads = workers() if batch * n > _FEW else 1
    if not function(threads, batch, n, dtype == np.float32, *arguments):
        raise MemoryError(f"no memory to sort rows of {n} numbers")


def _rows(*arrays):
    """(lead, batch, arrays as (1, k) or (batch, k)), contiguous; None for arrays that have no values here."""
    views = [_view(a) for a in arrays]
    if any(v is None or v.dtype != views[0].dtype or v.dtype not in (np.float32, np.float64) for v in views):
        return None
    lead = np.broadcast_shapes(*(v.shape[:-1] for v in views))
    return lead, math.prod(lead), [_flat(v, lead) for v in views]


def _flat(v, lead):
    if v.shape[:-1] != lead and math.prod(v.shape[:-1]) != 1:
        v = np.broadcast_to(v, (*lead, v.shape[-1]))
    return np.ascontiguousarray(v).reshape(math.prod(v.shape[:-1]), v.shape[-1])


def _view(a):
    if is_numpy_array(a):
        return a
    if is_torch_array(a) and a.device.type == "cpu":
        return a.numpy(force=True)
    return None


def _strided(a):
    return at(a), a.shape[1] if a.shape[0] > 1 else 0
