"""Memory for the large arrays of a call, used again by the next one.

The C library gives large blocks back to the system as soon as they are free, and gets them again page by page: for the data
of a batch that can take as long as solving it. Here the memory of an array is kept when the last view of it is gone, and
the next array of about the size has it. At most `_KEPT` blocks of at most `_LARGEST` numbers are idle.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

_SMALLEST, _LARGEST = 1 << 14, 1 << 20  # numbers, of 8 bytes; NumPy asks for huge pages beyond 4 MB
_KEPT = 16
_idle: deque[np.ndarray] = deque(maxlen=_KEPT)  # the last one is the warmest


def empty(shape, dtype=np.float64) -> np.ndarray:
    """An array of float64, or of float32, that is not initialized."""
    dtype = np.dtype(dtype)
    size = -(-math.prod(shape) * dtype.itemsize // 8)
    if not _SMALLEST <= size <= _LARGEST:
        return np.empty(shape, dtype)
    return np.asarray(_Block(_taken(size), tuple(shape), dtype))


def zeros(shape) -> np.ndarray:
    """A float64 array of zeros."""
    if not _SMALLEST <= math.prod(shape) <= _LARGEST:
        return np.zeros(shape)
    out = empty(shape)
    out.fill(0)
    return out


def private(array) -> np.ndarray:
    """The array in C order with memory that it owns: itself, or a copy of what is a view."""
    own = array.base is None or type(array.base) is _Block
    return array if own and array.flags.carray else np.array(array, order="C")


class _Block:
    """What an array over kept memory has as its base; views of that array keep the array. So it goes with the last one."""

    def __init__(self, memory, shape, dtype):
        self.memory = memory
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}

    def __del__(self, keep=_idle.append):
        keep(self.memory)


def _taken(size):
    """Idle memory for `size` numbers and at most a quarter more, or new one."""
    for _ in range(len(_idle)):
        try:
            memory = _idle.pop()
        except IndexError:  # another thread was faster
            break
        if size <= memory.size <= size + size // 4:
            return memory
        _idle.appendleft(memory)
    return np.empty(size)
