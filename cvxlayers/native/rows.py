"""Maps of rows by the native library: each row of a batch is a problem with one or two scalar unknowns.

What array libraries do in many passes over memory happens here in the cache, row by row, in float32 or float64. The arrays are
NumPy's or torch's, on the CPU (torch's by its own methods: it is not imported). None where the library is missing, and for
arrays that it cannot read: then array operations do the same.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from ..threads import workers
from . import available, chosen_build
from .library import library

_int, _long, _pointer = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
_KERNELS = {name: k for k, name in enumerate(("capped", "capped_vjp", "lml", "lml_vjp", "softmax", "softmax_vjp"))}
_SINGLE = {"float32": 1, "torch.float32": 1, "float64": 0, "torch.float64": 0}
_LARGE = 1 << 15  # entries from which on a second thread is worth waking
_NOTHING = (None, 0, 0)
_ARGUMENTS: list = [ctypes.c_char_p, *([_int] * 3), _long, _long, *([_pointer, _long, _long] * 3), *([_pointer] * 3)]


@cache
def _function():
    found = library() if available() else None
    if found is None:
        return None
    function = found.cvxlayers_rows
    function.argtypes, function.restype = _ARGUMENTS, _int
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
    """(outputs, how many rows have no solution), or None. inputs: up to three arrays (lead..., k), the first one with k = n, or
    None. sizes: those of the outputs (lead..., size), None for one that is not wanted."""
    first = inputs[0]
    single = _single(first.dtype)
    lead = first.shape[:-1]
    for a in inputs:
        if a is not None and a.shape[:-1] != lead and not _single_row(a.shape):
            if not _single_row((*lead, 1)):
                return None
            lead = a.shape[:-1]
    batch = 1
    for size in lead:
        batch *= size
    if single is None or any(a is not None and a.dtype != first.dtype for a in inputs):
        return None
    address = _numpy if type(first) is np.ndarray else _torch
    kept = [_NOTHING if a is None else address(a) for a in inputs]
    words = [word for at, stride, step, *_ in (*kept, *[_NOTHING] * (3 - len(kept))) for word in (at, stride, step)]
    n, outputs = first.shape[-1], [None if size is None else _empty(first, (*lead, size)) for size in sizes]
    places = [None if out is None else address(out)[0] for out in (*outputs, *[None] * (3 - len(outputs)))]
    threads = workers() if batch > 1 and batch * n >= _LARGE else 1
    wrong = _function()(_build() if build is None else build, _KERNELS[kernel], single, threads, batch, n, *words, *places)
    return None if wrong < 0 else (tuple(out for out in outputs if out is not None), wrong)


def _single_row(shape):
    return all(size == 1 for size in shape[:-1])


def _empty(like, shape):
    return np.empty(shape, like.dtype) if type(like) is np.ndarray else like.new_empty(shape)


def _numpy(a):
    """(address, stride, step, what keeps the memory)."""
    wide = a.dtype.itemsize
    if not a.flags.c_contiguous or not a.flags.aligned:
        if a.ndim == 2 and a.flags.aligned and a.strides[1] in (0, wide) and not a.strides[0] % wide:
            return a.ctypes.data, a.strides[0] // wide if len(a) > 1 else 0, a.strides[1] // wide, a
        a = np.array(a, order="C")
    return a.ctypes.data, 0 if _single_row(a.shape) else a.shape[-1], 1, a


def _torch(a):
    if a.is_neg() or not a.is_contiguous():
        if a.ndim == 2 and not a.is_neg() and a.stride(1) in (0, 1):
            return a.data_ptr(), a.stride(0) if len(a) > 1 else 0, a.stride(1), a
        a = a.resolve_neg().contiguous()
    return a.data_ptr(), 0 if _single_row(a.shape) else a.shape[-1], 1, a
