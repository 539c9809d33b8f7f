"""Products on fixed patterns, for whole batches, in one pass over memory each. None: do it with NumPy.

The arrays are (..., k) float64 with leading dimensions that broadcast. Every function answers None where the library is
missing, where the leading dimensions are not simply a batch and ones, and for small arrays: a call takes 6 us.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np

from ..memory import empty
from .library import at, library

_int, _long, _pointer, _double = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double
_SMALL = 4096  # entries up to which NumPy is as fast
_ARGUMENTS: dict[str, list] = {
    "multiply": [_long, _pointer, _pointer, _pointer, _long, _pointer, _long, _pointer],
    "multiply_transposed": [_long, _long, _pointer, _pointer, _pointer, _long, _pointer, _long, _pointer],
    "outer": [_long, _pointer, _pointer, _double, *([_pointer, _long] * 4), _pointer],
    "outer_map": [_long, *[_pointer] * 4, _double, *([_pointer, _long] * 4), _pointer, _long],
    "map": [_long, _pointer, _pointer, _pointer, _pointer, _long, _pointer, _long],
    "turn": [_int, *[_long] * 3, _pointer, _pointer, _double, _double, *([_pointer, _long] * 4)],
    "largest": [_long, _long, _pointer, _pointer, _pointer, _long, _pointer, _pointer],
}


@cache
def _function(name):
    found = library()
    if found is None:
        return None
    function = getattr(found, f"cvxlayers_{name}")
    function.argtypes, function.restype = [_int, _long, *_ARGUMENTS[name]], None
    return function


def multiply(pattern, values, x, threads):
    """M x: (..., nnz), (..., columns) -> (..., rows)."""
    return _product("multiply", pattern, values, x, pattern.shape[0], (pattern.shape[0],), threads)


def multiply_transposed(pattern, values, y, threads):
    """M'y: (..., nnz), (..., rows) -> (..., columns)."""
    return _product("multiply_transposed", pattern, values, y, pattern.shape[1], pattern.shape, threads)


def _product(name, pattern, values, x, size, shape, threads):
    function = _function(name) if values.size + x.size > _SMALL else None
    rows = _rows(values, x) if function else None
    if not function or not rows:
        return None
    lead, batch, (values, x) = rows
    out = empty((*lead, size))
    function(threads, batch, *shape, at(pattern.indptr), at(pattern.cols), *_strided(values), *_strided(x), at(out))
    return out


def outer(pattern, scale, a, p, c, d, threads):
    """scale (a p' + c d') on the pattern: a, c (..., rows), p, d (..., columns) -> (..., nnz)."""
    function = _function("outer") if max(a.size, p.size) * pattern.nnz > _SMALL * max(pattern.shape) else None
    rows = _rows(a, p, c, d) if function else None
    if not function or not rows:
        return None
    lead, batch, factors = rows
    out = empty((*lead, pattern.nnz))
    strided = [word for factor in factors for word in _strided(factor)]
    function(threads, batch, pattern.nnz, at(pattern.rows), at(pattern.cols), scale, *strided, at(out))
    return out


def add_outer_map(out, to, rows, columns, values, product, threads):
    """out += C g in place, g the `Outer` product: entry k of C takes values[k] times the entry of g at (rows[k], columns[k]) to
    out[..., to[k]]. Whether it has been done."""
    function = _function("outer_map") if out.size > _SMALL else None
    factors = _rows(out, product.a, product.p, product.c, product.d) if function and out.flags.c_contiguous else None
    if not function or not factors or factors[0] != out.shape[:-1]:
        return False
    strided = [word for factor in factors[2][1:] for word in _strided(factor)]
    function(
        threads, factors[1], values.size, at(to), at(rows), at(columns), at(values), product.scale, *strided, at(out),
        out.shape[-1],
    )  # fmt: skip
    return True


def add_map(out, to, source, values, x, threads):
    """out += C x, in place, for the entries values[k] at (to[k], source[k]) of C. Whether it has been done."""
    function = _function("map") if out.size + x.size > _SMALL else None
    rows = _rows(out, x) if function and out.flags.c_contiguous else None
    if not function or not rows or rows[0] != out.shape[:-1]:
        return False
    _, batch, (_, x) = rows
    function(threads, batch, values.size, at(to), at(source), at(values), *_strided(x), at(out), out.shape[-1])
    return True


def largest(pattern, values, threads):
    """The largest entries of the rows and of the columns in magnitude: (B, nnz) -> (B, rows), (B, columns)."""
    function = _function("largest") if values.size > _SMALL else None
    rows = _rows(values) if function else None
    if not function or not rows:
        return None
    lead, batch, (values,) = rows
    by_row, by_column = empty((*lead, pattern.shape[0])), empty((*lead, pattern.shape[1]))
    function(threads, batch, *pattern.shape, at(pattern.indptr), at(pattern.cols), *_strided(values), at(by_row), at(by_column))
    return by_row, by_column


def turn(out, packed, block, noise, row_noise, A, root, threads):
    """The entries of diag(root) U'A of equal neighbouring cones to `out` (..., entries). packed: their U as in
    `Spectrum.packed`; block: gather and kept, as in `turned`; root (..., rows of these cones). Whether it has been done."""
    function = _function("turn") if out.size > _SMALL and packed is not None else None
    if not function:
        return False
    kind, numbers = packed
    rows = _rows(out, A, numbers.reshape(*numbers.shape[: out.ndim - 1], -1), root)
    if not rows or rows[0] != out.shape[:-1] or not np.shares_memory(rows[2][0], out):
        return False
    _, batch, (out, A, numbers, root) = rows
    strided = [word for a in (A, numbers, root, out) for word in _strided(a)]
    function(threads, batch, kind, *block.gather.shape, at(block.gather), at(block.kept), noise, row_noise, *strided)
    return True


def _rows(*arrays):
    """(lead, batch, arrays as (1, k) or (batch, k)): each has the leading dimensions `lead`, or ones; else None."""
    leads = [a.shape[:-1] for a in arrays]
    lead = leads[0]
    if any(other != lead for other in leads):
        lead = np.broadcast_shapes(*leads)
    batch, out = math.prod(lead), []
    for a, own in zip(arrays, leads, strict=True):
        if a.dtype != np.float64:
            return None
        if own != lead and math.prod(own) != 1:
            return None
        flat = a.reshape(-1 if a.size else math.prod(own), a.shape[-1])
        if flat.shape[1] and flat.strides[1] != 8 and flat.shape[1] > 1:
            flat = np.ascontiguousarray(flat)
        out.append(flat)
    return lead, batch, out


def _strided(a):
    return at(a), a.strides[0] // 8 if a.shape[0] > 1 else 0
