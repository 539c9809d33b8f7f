"""The native engine: batches of QPs with zero and nonnegative rows, several problems in one register.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b,  s = 0 in the first rows,  s >= 0 in the others

A `Plan` is for one sparsity pattern: `solve` solves batches to rounding error, `linear` solves the KKT systems of
given active sets, which is what refinement and derivatives need. The library behind it is optional: `available()` tells.
CVXLAYERS_ENGINE in the environment chooses a build by name ("v3_4", see `builds`), or "off".
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import NamedTuple

import numpy as np

from ..errors import ProblemError
from ..memory import empty
from .library import at, library, switched_off

_ERRORS = {1: "an argument is out of range", 2: "the pattern is malformed", 3: "the system is too large", 4: "out of memory"}
_int, _long, _pointer = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
_LARGEST = 2**31 - 1  # int
_SMALL = 1e6  # about the operations of a batch from which on a second thread is worth waking


def available() -> bool:
    """Whether the engine can be used."""
    return library() is not None and bool(builds())


def reason() -> str:
    """Why it cannot be used, where it cannot."""
    return "switched off by CVXLAYERS_ENGINE" if switched_off() else "not built; a C++ compiler at installation builds it"


@cache
def builds() -> tuple[str, ...]:
    """The builds that this processor runs, best first: the instruction set, and how many problems a register holds."""
    found = library()
    if found is None:
        return ()
    text = ctypes.create_string_buffer(256)
    found.cvxlayers_builds(text, len(text))
    return tuple(text.value.decode().split())


def chosen_build() -> str:
    """The build that is forced by CVXLAYERS_ENGINE, or "": the best one for each batch. Raises ProblemError for one that
    there is not."""
    name = os.environ.get("CVXLAYERS_ENGINE", "")
    if name and name not in builds() and library() is not None:
        raise ProblemError(f"CVXLAYERS_ENGINE is {name!r}; expected off, or a build that runs here: {', '.join(builds())}")
    return name if name in builds() else ""


class EngineError(RuntimeError):
    """The library refused a pattern or a batch; code as in the C interface."""

    def __init__(self, code):
        super().__init__(f"native engine: {_ERRORS.get(code, code)}")
        self.code = code


class Answer(NamedTuple):
    """x (B, n), y (B, m), s (B, m); status (B,) in the numbers of `program.Status`, iterations (B,)."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: np.ndarray
    iterations: np.ndarray


class Plan:
    """The symbolic phase for one pattern; safe to call from several threads, and after a fork.

    P_rows, P_cols: the upper triangle of P, sorted by (row, column); P_index: where its values are in a row of P_values
    values (default: these and no others). A_ptr, A_cols: CSR, columns sorted; zero: how many of the m rows, the first ones,
    are equalities. weighted: a plan for `linear` with weights only. Raises EngineError for a malformed or too large
    pattern, and where there is no library.
    """

    def __init__(self, n, m, zero, P_rows, P_cols, A_ptr, A_cols, P_index=None, P_values=None, weighted=False):
        self.n, self.m = n, m
        P_index = np.arange(np.size(P_rows)) if P_index is None else P_index
        P_rows, P_cols, P_index, A_ptr, A_cols = map(_indices, (P_rows, P_cols, P_index, A_ptr, A_cols))
        found, handle = library(), _pointer()
        self.P_values, self.A_values = P_rows.size if P_values is None else P_values, A_cols.size
        wrong = not P_rows.size == P_cols.size == P_index.size or A_ptr.size != m + 1
        if wrong or max(n, zero, self.P_values) > _LARGEST or found is None:
            raise EngineError(1)
        code = found.cvxlayers_plan(
            n, m, zero, P_rows.size, at(P_rows), at(P_cols), at(P_index), self.P_values,
            A_cols.size, at(A_ptr), at(A_cols), int(weighted), ctypes.byref(handle),
        )  # fmt: skip
        if code:
            raise EngineError(code)
        self._library, self.handle = found, handle
        facts = np.zeros(6)
        found.cvxlayers_describe(handle, at(facts))
        self.flops = facts[3]

    def __del__(self):
        if getattr(self, "handle", None):
            self._library.cvxlayers_free(self.handle)

    def solve(self, P, q, A, b, *, max_iter=60, threads=1, build="") -> Answer:
        """Solve a batch. P (B|1, P_values), q (B|1, n), A (B|1, nnz), b (B|1, m), float64."""
        sizes = (self.P_values, self.n, self.A_values, self.m)
        data = [_rows(a, k) for a, k in zip((P, q, A, b), sizes, strict=True)]
        B = _batch(data)
        x, y, s = empty((B, self.n)), empty((B, self.m)), empty((B, self.m))
        status, iterations = np.empty(B, np.int32), np.empty(B, np.int32)
        P, q, A, b = data
        code = self._library.cvxlayers_solve(
            self.handle, build.encode(), self.threads(threads, B), B, *_strided(P, B), *_strided(A, B), *_strided(q, B),
            *_strided(b, B), min(max_iter, _LARGEST), at(x), at(y), at(s), at(status), at(iterations),
        )  # fmt: skip
        if code:
            raise EngineError(code)
        return Answer(x, y, s, status, iterations)

    def linear(self, P, A, v, right, *, weights=None, threads=1, build=""):
        """(u, rank): the solutions of the KKT systems of the active sets v > 0, and for each item 1: the system is regular, 2:
        it is singular, u is the least-squares solution of least norm, 3: the same in units that equilibrate the system, 0: not
        solved.

        P (B|1, P_values), A (B|1, nnz), v (B|1, m); right and u (B, columns, n + m); rank (B,). The rows that
        are not active have u = 0. weights (B|1, m), where the plan is weighted: the systems are [P, A'; A, -diag(weights)].
        """
        P, A, v = _rows(P, self.P_values), _rows(A, self.A_values), _rows(v, self.m)
        right = np.require(right, np.float64, ["C", "A"])
        B, columns, size = right.shape
        if size != self.n + self.m:
            raise EngineError(1)
        weights = None if weights is None else _rows(weights, self.m)
        at_weights = (None, 0) if weights is None else _strided(weights, B)
        out, rank = empty(right.shape), np.empty(B, np.uint8)
        code = self._library.cvxlayers_linear(
            self.handle, build.encode(), self.threads(threads, B), B, *_strided(P, B), *_strided(A, B), *_strided(v, B),
            *at_weights,
            columns, at(right), at(out), at(rank),
        )  # fmt: skip
        if code:
            raise EngineError(code)
        return out, rank

    def threads(self, threads, batch):
        passes = 100 * (self.P_values + self.A_values + self.n + self.m)  # over the data, in all steps
        return threads if (self.flops + passes) * batch > _SMALL else 1


def _indices(a):
    """int32, or EngineError: numbers must not wrap around."""
    a = np.asarray(a)
    if a.size and (a.dtype.kind not in "iu" or a.min() < 0 or a.max() > _LARGEST):
        raise EngineError(2)
    return np.ascontiguousarray(a, np.int32)


def _rows(a, size):
    """(B|1, size) float64, aligned, with neighbouring entries side by side."""
    a = np.asarray(a, np.float64)
    if a.ndim != 2 or a.shape[1] != size:
        raise EngineError(1)
    if (a.strides[1] != 8 and a.shape[1] > 1) or not a.flags.aligned:
        a = np.array(a, order="C")
    if a.shape[0] > 1 and (a.strides[0] % 8 or a.strides[0] < 8 * a.shape[1]):
        a = np.ascontiguousarray(a)
    return a


def _batch(arrays):
    sizes = {a.shape[0] for a in arrays} - {1}
    if len(sizes) > 1:
        raise EngineError(1)
    return sizes.pop() if sizes else 1


def _strided(a, batch):
    """(address, stride) of an array of rows."""
    if a.shape[0] not in (1, batch):
        raise EngineError(1)
    return at(a), 0 if a.shape[0] == 1 else a.strides[0] // 8


__all__ = ["Answer", "EngineError", "Plan", "available", "builds", "chosen_build", "library", "reason"]
