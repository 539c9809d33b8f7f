"""Small layers in two calls of the library: from parameters to an accepted solution, and from cotangents back to parameters.

Both calls answer None where something is not plainly in order; nothing is known then, and the general path decides.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

import numpy as np

from ..memory import empty
from .library import at, library

_int, _long, _pointer = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p


@cache
def _functions():
    found = library()
    if found is None:
        return None
    make, free, forward, vjp = (getattr(found, f"cvxlayers_shortcut{name}") for name in ("", "_free", "_forward", "_vjp"))
    make.argtypes = [*[_long] * 4, *[_pointer] * 2, _long, *[_pointer] * 3, *[_int, _pointer] * 3, _long, *[_pointer] * 4]
    make.argtypes.append(ctypes.POINTER(_pointer))
    free.argtypes, free.restype = [_pointer], None
    head: list = [_pointer, _pointer, ctypes.c_char_p, _int, _long]
    forward.argtypes = [*head, _int, _pointer, _pointer, *[_pointer, _long] * 3, _pointer]
    vjp.argtypes = [*head, *[_pointer, _long] * 3, *[_pointer] * 3]
    return make, free, forward, vjp


class Rule(NamedTuple):
    """What the values of a parameter obey: sign, +1 or -1, if no entry has the other sign; the order of a square matrix whose
    `definite`, +1 or -1, multiple is positive semidefinite. 0: nothing of the kind."""

    size: int
    sign: int = 0
    order: int = 0
    definite: int = 0


class Term(NamedTuple):
    """target[rows] += values source[cols]. target: 0 to 3 for P, q, A, b, 4 and more for the outputs. source: a parameter, or
    for outputs 0 for x and 1 for y."""

    target: int
    source: int
    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray


class Shortcut:
    """A plan with the maps around it: from parameters to its blocks, and from its solution to outputs.

    P, A: (rows, cols) of their values, of P in both triangles. constants: of P, q, A, b. rules: of the parameters. limits:
    |R| at which Newton stops, and from which on a step that brings nothing is the last one; how far an equation may be off,
    relative to its terms and to the rounding of x and y; the least size of those; what is zero in v; the range of
    ordinary units.
    """

    def __init__(self, plan, zero, P, A, constants, rules, output_sizes, terms, limits):
        functions = _functions()
        assert functions is not None  # else there would be no plan
        make, self._free, self._forward, self._vjp = functions
        self.plan, self.rules, self.output_sizes = plan, rules, output_sizes
        ends = np.cumsum([0, *(t.values.size for t in terms)])
        places = [(t.target, t.source, *ends[k : k + 2]) for k, t in enumerate(terms)]
        words = [np.array(a, np.int64) for a in (*P, *A, rules, output_sizes, places)]
        P_rows, P_cols, A_rows, A_cols, facts, sizes, heads = words
        entries = [np.concatenate([np.zeros(0, np.int64), *(t[k] for t in terms)]) for k in (2, 3)]
        values = np.concatenate([np.zeros(0), *(t.values for t in terms)])
        numbers, limits, handle = np.concatenate(constants), np.array(limits, np.float64), _pointer()
        code = make(
            plan.n, plan.m, zero, P_rows.size, at(P_rows), at(P_cols), A_rows.size, at(A_rows), at(A_cols), at(numbers),
            len(rules), at(facts), len(sizes), at(sizes), len(terms), at(heads), values.size, *map(at, entries), at(values),
            at(limits), ctypes.byref(handle),
        )  # fmt: skip
        if code:
            raise RuntimeError(f"native engine: a shortcut was refused with code {code}")
        self._handle = handle

    def __del__(self):
        if getattr(self, "_handle", None):
            self._free(self._handle)

    def forward(self, theta, varies, batch, rows, state_size, *, max_iter, threads, build):
        """Outputs and at the end P, A, state; or None.

        theta: C-contiguous values of each parameter, (batch, size), or (1, size) where it does not vary. rows: those of P and
        of A. state (batch, state_size): x, v, y, and ones.
        """
        plan = self.plan
        P, A, state = empty((rows[0], plan.P_values)), empty((rows[1], plan.A_values)), empty((batch, state_size))
        outputs = [empty((batch, size)) for size in self.output_sizes]
        code = self._forward(
            self._handle, plan.handle, build.encode(), plan.threads(threads, batch), batch, max_iter, _pointers(theta),
            _flags(varies), at(P), rows[0], at(A), rows[1], at(state), state_size, _pointers(outputs),
        )  # fmt: skip
        return None if code else [*outputs, P, A, state]

    def vjp(self, saved, cotangents, varies, *, threads, build):
        """The cotangents of the parameters, (batch, size) each, or None. saved: P, A, state; cotangents: of the outputs;
        all C-contiguous, (batch|1, size)."""
        (P, A, state), plan = saved, self.plan
        batch = len(state)
        gradients = [empty((batch, rule.size)) for rule in self.rules]
        code = self._vjp(
            self._handle, plan.handle, build.encode(), plan.threads(threads, batch), batch, at(P), len(P), at(A), len(A),
            at(state), state.shape[1], _pointers(cotangents), _flags(varies), _pointers(gradients),
        )  # fmt: skip
        return None if code else gradients


@cache
def _array_of(kind, count):
    return kind * count


def _pointers(arrays):
    return _array_of(_pointer, len(arrays))(*map(at, arrays))


def _flags(flags):
    return _array_of(ctypes.c_int32, len(flags))(*flags)
