"""The shared library: found once, or not at all."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

_int, _long, _pointer = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
_start_of = ctypes.c_char.from_buffer


def at(array) -> int:
    """Where the numbers of an array are: what `array.ctypes.data` says, in a fourth of its time."""
    try:
        return ctypes.addressof(_start_of(array))
    except (TypeError, ValueError, BufferError):  # not writable, not contiguous, or empty
        return array.ctypes.data


def switched_off() -> bool:
    """Whether the environment asks for no engine: CVXLAYERS_ENGINE=off."""
    return os.environ.get("CVXLAYERS_ENGINE", "").lower() in ("off", "0", "no")


@cache
def library() -> ctypes.CDLL | None:
    """The shared library, or None: it was not built, or is switched off."""
    if switched_off():
        return None
    for path in sorted(Path(__file__).parent.glob("_engine*")):
        try:
            found = ctypes.CDLL(str(path))
        except OSError:  # built for another machine
            continue
        rows: list = [_pointer, _long]
        found.cvxlayers_builds.argtypes = [ctypes.c_char_p, _int]
        ints: list = [_int]
        found.cvxlayers_plan.argtypes = (
            ints * 4 + [_pointer] * 3 + [_int] * 2 + [_pointer] * 2 + [_int] + [ctypes.POINTER(_pointer)]
        )
        found.cvxlayers_free.argtypes, found.cvxlayers_free.restype = [_pointer], None
        found.cvxlayers_describe.argtypes = [_pointer, _pointer]
        head: list = [_pointer, ctypes.c_char_p, _int, _long]
        found.cvxlayers_solve.argtypes = [*head, *(rows * 4), _int, *([_pointer] * 5)]
        found.cvxlayers_linear.argtypes = [*head, *(rows * 4), _long, *([_pointer] * 3)]
        return found
    return None
