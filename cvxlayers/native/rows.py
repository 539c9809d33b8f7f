"""Maps of rows by the native library: each row of a batch is a problem with one or two scalar unknowns.

What array libraries do in many passes over memory happens here in the cache, row by row, in float32 or float64. None where the
library is missing, and for arrays that it cannot read: then array operations do the same.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache

from ..threads import workers
from . import arrays, available, chosen_build
from .library import library

_KERNELS = {name: k for k, name in enumerate(("capped", "capped_vjp", "lml", "lml_vjp", "softmax", "softmax_vjp"))}
_LARGE = 1 << 15  # entries from which on a second thread is worth waking
_PACK = struct.Struct("@17q").pack  # `RowCall` of rows.h: one argument, since ctypes takes 0.1 us for each


@cache
def _function():
    found = library() if available() else None
    if found is None:
        return None
    function = found.cvxlayers_rows
    function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_char_p], ctypes.c_int
    return function


@cache
def _build():
    return chosen_build().encode()


def takes(array) -> bool:
    """Whether arrays like this one are for the library."""
    return _function() is not None and arrays.takes(array)


def run(kernel, inputs, sizes, build=None):
    """(outputs, how many rows have no solution), or None. inputs: up to three arrays (lead..., k), the first one with k = n,
    constants of the code as float, or None. sizes: those of the outputs (lead..., size), None for one that is not wanted."""
    found = arrays.Rows.of(inputs)
    if found is None:
        return None
    n, batch = inputs[0].shape[-1], found.batch
    outputs = [(None, 0) if size is None else found.empty(size) for size in sizes]
    threads = workers() if batch > 1 and batch * n >= _LARGE else 1
    words = found.words + [0] * (9 - len(found.words))
    places = [at for _, at in outputs] + [0] * (3 - len(outputs))
    call = _PACK(_KERNELS[kernel], found.single, threads, batch, n, *words, *places)
    wrong = _function()(_build() if build is None else build, call)
    return None if wrong < 0 else ([out for out, _ in outputs if out is not None], wrong)
