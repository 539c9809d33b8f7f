"""Arrays of NumPy and torch on the CPU as rows of numbers, which is what the native library takes (torch's by its own methods:
it is not imported)."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..memory import empty as _kept_empty

_SINGLE = {"float32": 1, "torch.float32": 1, "float64": 0, "torch.float64": 0}
_KEPT = 1 << 14  # entries from which on `memory` has blocks of its own


class Rows:
    """Arrays (lead..., k), each with the common leading dimensions or with ones, of one type; constants of the code as float;
    or None. `words` has the address, stride and step of each, in numbers, 0 for what is the same for all; `single` whether
    the type is float32."""

    __slots__ = ("address", "kept", "lead", "like", "single", "words")

    def __init__(self, like, lead, single, address, words, kept):
        self.like, self.lead, self.single, self.address = like, lead, single, address
        self.words, self.kept = words, kept  # the memory must stay

    @classmethod
    def of(cls, arrays, views=True) -> Rows | None:
        """None for arrays that the library cannot read. views: whether strides may be any, and steps 0."""
        first = arrays[0]
        dtype, lead, single = first.dtype, first.shape[:-1], _single(first.dtype)
        address = _numpy if type(first) is np.ndarray else _torch
        words: list[int] = []
        kept: list[Any] = []
        for a in arrays:
            if a is None:
                words += (0, 0, 0)
                continue
            if type(a) is float:
                kept.append(_number(a, single))
                words += (ctypes.addressof(kept[-1]), 0, 0)
                continue
            own = a.shape[:-1]
            if own != lead and not ones(own):
                if not ones(lead):
                    return None
                lead = own
            if a.dtype != dtype or single is None:
                return None
            at, stride, step, memory = address(a, views)
            words += (at, 0 if ones(own) else stride, step)
            kept.append(memory)
        return cls(first, lead, single, address, words, kept)

    @property
    def batch(self):
        """How many rows there are."""
        return math.prod(self.lead)

    def empty(self, size, lead=None):
        """(a new array like these, its address)."""
        array = empty(self.like, (*(self.lead if lead is None else lead), size), self.single)
        return array, self.address(array, True)[0]


def takes(array) -> bool:
    """Whether an array is of the kinds that can be read."""
    return type(array) is np.ndarray or getattr(array, "is_cpu", False)


def ones(lead) -> bool:
    """Whether all leading dimensions are 1."""
    return all(size == 1 for size in lead) if len(lead) != 1 else lead[0] == 1


def empty(like, shape, single):
    """A new array of float32 (single) or float64."""
    numpy = type(like) is np.ndarray
    if not numpy and math.prod(shape) < _KEPT:
        return like.new_empty(shape)
    array = _kept_empty(shape, np.float32 if single else np.float64)
    return array if numpy else array_namespace(like).asarray(array)


@cache
def _single(dtype):
    return _SINGLE.get(str(dtype))


@cache
def _number(value, single):
    return (ctypes.c_float if single else ctypes.c_double)(value)


def _numpy(a, views):
    """(address, stride and step in numbers, what keeps the memory)."""
    wide = a.dtype.itemsize
    if not a.flags.c_contiguous or not a.flags.aligned:
        if views and a.ndim == 2 and a.flags.aligned and a.strides[1] in (0, wide) and not a.strides[0] % wide:
            return a.ctypes.data, a.strides[0] // wide, a.strides[1] // wide, a
        a = np.array(a, order="C")
    return a.ctypes.data, a.shape[-1], 1, a


def _torch(a, views):
    if not a.is_contiguous() or a.is_neg():
        if views and a.ndim == 2 and not a.is_neg() and a.stride(1) in (0, 1):
            return a.data_ptr(), *a.stride(), a
        a = a.resolve_neg().contiguous()
    return a.data_ptr(), a.shape[-1], 1, a
