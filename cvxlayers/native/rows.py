"""Maps of rows by the native library: each row of a batch is a problem with one or two scalar unknowns.

What array libraries do in many passes over memory happens here in the cache, row by row, in float32 or float64. The arrays are
NumPy's or torch's, on the CPU (torch's by its own methods: it is not imported). None where the library is missing, and for
arrays that it cannot read: then array operations do the same.
"""

from __future__ import annotations

import ctypes
import math
import struct
from functools import cache

import numpy as np
from array_api_compat import array_namespace

from ..memory import empty
from ..threads import workers
from . import available, chosen_build
from .library import library

_KERNELS = {name: k for k, name in enumerate(("capped", "capped_vjp", "lml", "lml_vjp", "softmax", "softmax_vjp"))}
_SINGLE = {"float32": 1, "torch.float32": 1, "float64": 0, "torch.float64": 0}
_LARGE = 1 << 15  # entries from which on a second thread is worth waking
_KEPT = 1 << 14  # those from which on `memory` has blocks of its own
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


@cache
def _single(dtype):
    return _SINGLE.get(str(dtype))


def takes(array) -> bool:
    """Whether arrays like this one are for the library."""
    return _function() is not None and (type(array) is np.ndarray or getattr(array, "is_cpu", False))


def run(kernel, inputs, sizes, build=None):
    """(outputs, how many rows have no solution), or None. inputs: up to three arrays (lead..., k), the first one with k = n,
    constants of the code as float, or None. sizes: those of the outputs (lead..., size), None for one that is not wanted."""
    first = inputs[0]
    dtype, shape = first.dtype, first.shape
    lead, n, single = shape[:-1], shape[-1], _single(dtype)
    address = _numpy if type(first) is np.ndarray else _torch
    words: list[int] = []
    kept = []
    for a in inputs:
        if a is None:
            words += (0, 0, 0)
            continue
        if type(a) is float:
            kept.append(_number(a, single))
            words += (ctypes.addressof(kept[-1]), 0, 0)
            continue
        own = a.shape[:-1]
        if own != lead and not _ones(own):
            if not _ones(lead):
                return None
            lead = own
        if a.dtype != dtype or single is None:
            return None
        at, stride, step, memory = address(a)
        words += (at, 0 if _ones(own) else stride, step)
        kept.append(memory)
    outputs = [None if size is None else _empty(first, (*lead, size), single) for size in sizes]
    places = [0 if out is None else address(out)[0] for out in outputs]
    batch = math.prod(lead)
    threads = workers() if batch > 1 and batch * n >= _LARGE else 1
    words += (0,) * (9 - len(words))
    places += (0,) * (3 - len(places))
    call = _PACK(_KERNELS[kernel], single, threads, batch, n, *words, *places)
    wrong = _function()(_build() if build is None else build, call)
    return None if wrong < 0 else ([out for out in outputs if out is not None], wrong)


@cache
def _number(value, single):
    return (ctypes.c_float if single else ctypes.c_double)(value)


def _ones(lead):
    return all(size == 1 for size in lead) if len(lead) != 1 else lead[0] == 1


def _empty(like, shape, single):
    size, numpy = math.prod(shape), type(like) is np.ndarray
    if not numpy and size < _KEPT:
        return like.new_empty(shape)
    array = empty(shape, np.float32 if single else np.float64)
    return array if numpy else array_namespace(like).asarray(array)


def _numpy(a):
    """(address, stride and step in numbers, what keeps the memory)."""
    wide = a.dtype.itemsize
    if not a.flags.c_contiguous or not a.flags.aligned:
        if a.ndim == 2 and a.flags.aligned and a.strides[1] in (0, wide) and not a.strides[0] % wide:
            return a.ctypes.data, a.strides[0] // wide, a.strides[1] // wide, a
        a = np.array(a, order="C")
    return a.ctypes.data, a.shape[-1], 1, a


def _torch(a):
    if not a.is_contiguous() or a.is_neg():
        if a.ndim == 2 and not a.is_neg() and a.stride(1) in (0, 1):
            return a.data_ptr(), *a.stride(), a
        a = a.resolve_neg().contiguous()
    return a.data_ptr(), a.shape[-1], 1, a
