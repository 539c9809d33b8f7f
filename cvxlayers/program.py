"""The conic program, written out once; everything else in the library refers to these symbols.

    minimize    1/2 x'Px + q'x            maximize    -1/2 x'Px - b'y
    subject to  Ax + s = b,  s in K       subject to  Px + A'y + q = 0,  y in K*

n variables, m rows, B batch. P is symmetric positive semidefinite. K is a product of cones in the row order zero,
nonneg, soc, psd, exp, power. P and A live on a fixed sparsity pattern; only their values change from item to item.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np

from . import native
from .cones import ProductCone
from .native import ops
from .threads import workers
from .turned import Turned


@dataclass(frozen=True)
class ConeDims:
    """Rows of each cone, in row order.

    zero, nonneg: numbers of rows. soc: the size (1 + length of z) of each cone {(t, z): |z| <= t}. psd: the order k of
    each matrix, k(k+1)/2 rows in svec order (see `cones.psd`). exp: number of cones {y e^(x/y) <= z}, rows (x, y, z).
    power: the alpha of each cone {|z| <= x^alpha y^(1-alpha)}, rows (x, y, z).
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0
    power: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        svec = sum(k * (k + 1) // 2 for k in self.psd)
        return self.zero + self.nonneg + sum(self.soc) + svec + 3 * self.exp + 3 * len(self.power)

    @property
    def kinds(self) -> frozenset[str]:
        """Names of the cones that occur."""
        return frozenset(k for k in ("zero", "nonneg", "soc", "psd", "exp", "power") if getattr(self, k))

    def __str__(self) -> str:
        parts = [f"{k} {getattr(self, k)}" for k in ("zero", "nonneg", "exp") if getattr(self, k)]
        parts += [
            f"{k} {len(getattr(self, k))} of {sorted(set(getattr(self, k)))}"
            for k in ("soc", "psd", "power")
            if getattr(self, k)
        ]
        return ", ".join(parts) or "none"


class Pattern:
    """Positions of the stored entries of a matrix, sorted by rows and then columns (CSR order), without duplicates.

    Values are arrays (..., nnz); vectors are (..., columns) or (..., rows); leading dimensions broadcast.
    """

    def __init__(self, rows, cols, shape):
        self.rows = np.ascontiguousarray(rows, np.int64)
        self.cols = np.ascontiguousarray(cols, np.int64)
        self.shape = (int(shape[0]), int(shape[1]))
        key = self.rows * max(self.shape[1], 1) + self.cols
        if (np.diff(key) <= 0).any():
            raise ValueError("Pattern: entries must be sorted by (row, column) and distinct")
        for a in (self.rows, self.cols):
            a.flags.writeable = False

    @property
    def nnz(self) -> int:
        return self.rows.size

    @cached_property
    def indptr(self) -> np.ndarray:
        return np.searchsorted(self.rows, np.arange(self.shape[0] + 1)).astype(np.int64)

    @cached_property
    def by_columns(self) -> np.ndarray:
        """Permutation of the values into column-major (CSC) order."""
        return np.lexsort((self.rows, self.cols))

    @cached_property
    def transpose(self) -> Pattern:
        """Pattern of the transpose; its values are `values[..., self.by_columns]`."""
        o = self.by_columns
        return Pattern(self.cols[o], self.rows[o], self.shape[::-1])

    @cached_property
    def _occupied(self):
        nonempty = np.flatnonzero(np.diff(self.indptr))
        return nonempty, self.indptr[nonempty], nonempty.size == self.shape[0]

    def matvec(self, values, x):
        """M x: (..., nnz), (..., columns) -> (..., rows)."""
        fast = ops.multiply(self, values, x, workers())
        if fast is not None:
            return fast
        prod = values * x[..., self.cols]
        nonempty, starts, full = self._occupied
        if full and prod.shape[-1]:
            return np.add.reduceat(prod, starts, axis=-1)
        out = np.zeros(prod.shape[:-1] + self.shape[:1])
        if nonempty.size:
            out[..., nonempty] = np.add.reduceat(prod, starts, axis=-1)
        return out

    def largest(self, values):
        """The largest entries of the rows and of the columns in magnitude: (B, nnz) -> (B, rows), (B, columns)."""
        fast = ops.largest(self, values, workers())
        if fast is not None:
            return fast
        size = np.abs(values)
        return self._row_max(size), self.transpose._row_max(size[..., self.by_columns])

    def _row_max(self, values):
        nonempty, starts, _ = self._occupied
        out = np.zeros(values.shape[:-1] + self.shape[:1])
        if nonempty.size:
            out[..., nonempty] = np.maximum.reduceat(values, starts, axis=-1)
        return out

    def rmatvec(self, values, y):
        """M'y: (..., nnz), (..., rows) -> (..., columns)."""
        fast = ops.multiply_transposed(self, values, y, workers())
        return fast if fast is not None else self.transpose.matvec(values[..., self.by_columns], y)

    def dense(self, values):
        """(..., nnz) -> (..., rows, columns), a view where the pattern is full."""
        if self.nnz == self.shape[0] * self.shape[1]:
            return values.reshape(values.shape[:-1] + self.shape)
        out = np.zeros(values.shape[:-1] + self.shape)
        out[..., self.rows, self.cols] = values
        return out

    def outer(self, u, w):
        """The entries of u w' on the pattern: (..., rows), (..., columns) -> (..., nnz)."""
        return u[..., self.rows] * w[..., self.cols]

    def outers(self, scale, a, p, c, d):
        """The entries of scale (a p' + c d') on the pattern: a, c (..., rows), p, d (..., columns) -> (..., nnz)."""
        fast = ops.outer(self, scale, a, p, c, d, workers())
        return fast if fast is not None else scale * (self.outer(a, p) + self.outer(c, d))


class Outer:
    """scale (a p' + c d') on a pattern, not multiplied out: a, c (..., rows), p, d (..., columns), stands for (..., nnz).

    So gradients of matrices come from the derivative; most go on to parameters at once (`param_map.LinearTerm.adjoint`).
    """

    __array_ufunc__ = None  # array + Outer is ours

    def __init__(self, pattern, scale, a, p, c, d):
        self.pattern, self.scale, self.a, self.p, self.c, self.d = pattern, scale, a, p, c, d
        self.shape = (*np.broadcast_shapes(*(f.shape[:-1] for f in (a, p, c, d))), pattern.nnz)

    def dense(self):
        """(..., nnz)."""
        return self.pattern.outers(self.scale, self.a, self.p, self.c, self.d)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.dense(), dtype)

    def __mul__(self, factor):
        return Outer(self.pattern, self.scale, self.a * factor, self.p, self.c * factor, self.d)

    def __add__(self, other):
        return self.dense() + (other.dense() if isinstance(other, Outer) else other)

    __radd__ = __add__


class Structure:
    """What all items of a batch share: n, m, the cones, and the patterns of P (both triangles) and A."""

    def __init__(self, n: int, cones: ConeDims, P: Pattern, A: Pattern):
        self.n, self.m, self.cones, self.P, self.A = int(n), cones.rows, cones, P, A
        if P.shape != (self.n, self.n) or A.shape != (self.m, self.n):
            raise ValueError(f"Structure: P is {P.shape} and A is {A.shape}; expected {(n, n)} and {(self.m, n)}")
        if not np.array_equal(P.transpose.rows, P.rows) or not np.array_equal(P.transpose.cols, P.cols):
            raise ValueError("Structure: the pattern of P must be symmetric")
        self.K = ProductCone(cones)

    def conditions(self, x, y, P, q, A, b):
        """(Px + q + A'y, Ax - b), which are linear in the data: of tangents of the data, how they move."""
        return self.P.matvec(P, x) + q + self.A.rmatvec(A, y), self.A.matvec(A, x) - b

    def item(self, index) -> Structure:
        """The structure of one item of a batch, where its cone depends on the item."""
        return self

    @cached_property
    def engine(self) -> native.Plan | None:
        """The native engine's plan for these programs; None for other cones, beyond its size, or without the engine."""
        if not (self.K.polyhedral and native.available()):
            return None
        up, P, A = self.upper, self.P, self.A
        try:
            return native.Plan(
                self.n, self.m, self.cones.zero, P.rows[up], P.cols[up], A.indptr, A.cols, P_index=up, P_values=P.nnz
            )
        except native.EngineError:
            return None

    @cached_property
    def turned(self) -> Turned:
        """The pattern of A in the eigenvectors of D."""
        return Turned(self.A, [(rows, count) for _, rows, count in self.K.curved])

    @cached_property
    def kkt_engine(self) -> native.Plan | None:
        """The native engine's plan for K: that of `engine`, or one for weighted rows on the pattern of `turned`."""
        if self.K.polyhedral or not native.available():
            return self.engine
        up, P, A = self.upper, self.P, self.turned
        indptr = np.searchsorted(A.rows, np.arange(self.m + 1))
        try:
            return native.Plan(
                self.n, self.m, 0, P.rows[up], P.cols[up], indptr, A.cols, P_index=up, P_values=P.nnz, weighted=True
            )
        except native.EngineError:
            return None

    @cached_property
    def longest(self) -> int:
        """How many terms the longest of the equations Px + q + A'y = 0 and Ax + s = b has."""
        columns = np.bincount(self.P.rows, minlength=self.n) + np.bincount(self.A.cols, minlength=self.n)
        return int(max(columns.max(initial=0), np.diff(self.A.indptr).max(initial=0)))

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if not k.endswith("engine")}  # another process makes its own

    @cached_property
    def upper(self) -> np.ndarray:
        """Indices of the entries of P with row <= column."""
        return np.flatnonzero(self.P.rows <= self.P.cols)


class ConeData(NamedTuple):
    """Values of one batch: P (B|1, nnz), q (B|1, n), A (B|1, nnz), b (B|1, m). A leading 1 means: the same for all items."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray

    @property
    def batch(self) -> int:
        """B, the number of items."""
        return max(a.shape[0] for a in self) if all(a.shape[0] for a in self) else 0

    def take(self, items) -> ConeData:
        """The given items; what is shared stays shared."""
        return ConeData(*(a if a.shape[0] == 1 else a[items] for a in self))


class ConeProgram(NamedTuple):
    """A batch of conic programs of one structure."""

    structure: Structure
    data: ConeData


class Status(IntEnum):
    """What a solver says of an item; from a layer, SOLVED only after the residual test."""

    SOLVED = 0
    INFEASIBLE = 1
    UNBOUNDED = 2
    INACCURATE = 3  # a point came back; it did not pass the residual test
    FAILED = 4  # no usable point: numerical breakdown, iteration or time limit
    INVALID = 5  # not solved: a parameter's value breaks what is declared of it

    def __str__(self) -> str:
        return self.name.lower()


class Solution(NamedTuple):
    """x (B, n), y (B, m), s (B, m), status (B,) of `Status`, iterations (B,). Items that failed hold NaN."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
