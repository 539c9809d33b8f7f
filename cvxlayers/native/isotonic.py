"""Projections onto permutahedra, their gradients, and means over their blocks, by the native library. None: do it with arrays.

Arrays of NumPy and torch on the CPU, (..., k) of float32 or float64 with leading dimensions that broadcast.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from array_api_compat import array_namespace

from ..threads import workers
from . import arrays
from .library import library

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


def takes(array) -> bool:
    """Whether arrays like this one are for the library."""
    return library() is not None and arrays.takes(array)


def permutahedron(x, eps, rank):
    """(y, order, first, last, off, 1 / eps) as in `layers.permutahedron`, off only with `rank`; and how many eps < 0."""
    function = _function("permutahedron", _int, *([_pointer, _long] * 2), *([_pointer] * 6))
    rows = _rows(x, eps) if function else None
    if rows is None:
        return None
    n = x.shape[-1]
    out = [rows.empty(n) if k < 4 or rank else (None, None) for k in range(5)]
    x_at, x_stride, _, eps_at, eps_stride, _ = rows.words
    inverse, inverse_at = rows.empty(1) if eps_stride else rows.empty(1, eps.shape[:-1])
    wrong = _call(function, rows, n, rank, x_at, x_stride, eps_at, eps_stride, *(at for _, at in out), inverse_at)
    if inverse.shape != eps.shape:  # the leading dimensions cross
        inverse = inverse[tuple(map(slice, eps.shape))]
    return [*(array for array, _ in out), inverse], wrong


def vjp(saved, c, rank, descending=False):
    """The gradients of <c, y> in x and eps. saved: order, first, last, off (only with `rank`), 1 / eps."""
    function = _function(
        "permutahedron_vjp", _int, _int, _pointer, _long, *([_pointer] * 3), _long, _pointer, _long, *([_pointer] * 2)
    )
    order, _, last, *off, inverse = saved
    rows = _rows(c, order, last, inverse, *off) if function else None
    if rows is None:
        return None
    c_at, c_stride, _, order_at, stride, _, last_at, _, _, inverse_at, inverse_stride, _, *rest = rows.words
    (dx, dx_at), (deps, deps_at) = rows.empty(c.shape[-1]), rows.empty(1)
    blocks = (order_at, last_at, rest[0] if off else None, stride)
    _call(function, rows, c.shape[-1], rank, descending, c_at, c_stride, *blocks, inverse_at, inverse_stride, dx_at, deps_at)
    return dx, deps


def means(c, order, last, scatter):
    """The means over blocks of c, in the order of x, in the sorted order; scatter: in that of x."""
    function = _function("block_means", _int, _pointer, _long, _pointer, _pointer, _long, _pointer)
    rows = _rows(c, order, last) if function else None
    if rows is None:
        return None
    c_at, c_stride, _, order_at, stride, _, last_at, *_ = rows.words
    out, at = rows.empty(c.shape[-1])
    _call(function, rows, c.shape[-1], scatter, c_at, c_stride, order_at, last_at, stride, at)
    return out


def _call(function, rows, n, *arguments):
    threads = workers() if rows.batch * n > _FEW else 1
    found = function(threads, rows.batch, n, rows.single, *arguments)
    if found < 0:
        raise MemoryError(f"no memory to sort rows of {n} numbers")
    return found


def _rows(*given):
    if not all(map(arrays.takes, given)):
        return None
    rows = arrays.Rows.of(given, views=False)
    if rows is None and len({a.dtype for a in given}) == 1:  # the leading dimensions cross
        lead = np.broadcast_shapes(*(tuple(a.shape[:-1]) for a in given))
        xp = array_namespace(*given)
        given = tuple(a if arrays.ones(a.shape[:-1]) else xp.broadcast_to(a, (*lead, a.shape[-1])) for a in given)
        rows = arrays.Rows.of(given, views=False)
    return rows
