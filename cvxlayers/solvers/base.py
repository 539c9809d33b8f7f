"""The contract of a solver: a batch of conic programs in, a batch of points and statuses out.

A solver is one file of this folder with one subclass of `Solver`. It maps our rows to its own order, calls the package,
and maps back. It never judges its own answer: the caller refines each point and accepts it by its residual.
"""

from __future__ import annotations

import copy
import importlib.util
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp

from ..errors import MissingDependencyError, ProblemError
from ..program import ConeDims, ConeProgram, Solution, Status, Structure
from ..threads import each_item
from .options import known, native, neutral


class Solver(ABC):
    """One solver with its settings, for one structure.

    Class attributes: `name`; `package`, what must be importable; `cones`, the kinds it takes; `quadratic`, whether it
    takes P; `needs_rows`, whether m = 0 is beyond it; `warm_starts`, whether a warm start is of use to it; `rank`, its
    place in the default ladder (None: only by name); `options`, the names of its settings in the package's spelling;
    `spelled`, what it calls the options that all solvers have (see `options`); `defaults`, where ours differ from the
    package's; `tight`, the settings of `tighter`.
    An instance may keep a workspace; it must be safe to call from several threads, survive pickle, deepcopy and fork,
    and its answer must depend on its arguments alone.
    """

    name: str
    package: ClassVar[str]
    cones: frozenset[str]
    quadratic: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    rank: ClassVar[int | None] = None
    options: frozenset[str] = frozenset()
    spelled: dict[str, tuple[str, ...]] = {}
    defaults: dict = {}
    tight: dict = {}

    def __init__(self, structure: Structure, args: dict | None = None):
        self.structure, self.args = structure, neutral(args)
        if not self.installed():
            raise MissingDependencyError(f"solver {self.name!r} needs {self.missing()}")
        missing = structure.cones.kinds - self.cones
        if missing:
            raise ProblemError(
                f"solver {self.name!r} has no {', '.join(sorted(missing))} cone, and the problem needs it; "
                f"choose another solver, or leave solver=None"
            )
        if structure.P.nnz and not self.quadratic:
            raise ProblemError(f"solver {self.name!r} has no quadratic objective; compile with quadratic=False")
        if self.needs_rows and not structure.m:
            raise ProblemError(f"solver {self.name!r} needs at least one constraint; leave solver=None")
        names = known(self.options, self.spelled)
        unknown = sorted(set(self.args) - set(names), key=str)
        if unknown:
            raise ProblemError(f"solver {self.name!r} has no option {unknown[0]!r}; it has: {', '.join(names)}")
        self.settings = {**self.defaults, **native(self.args, self.options, self.spelled)}

    @classmethod
    def installed(cls) -> bool:
        """Whether the package can be imported."""
        return importlib.util.find_spec(cls.package) is not None

    @classmethod
    def missing(cls) -> str:
        """What there is to say where it is not installed."""
        return f"the package {cls.package!r}, which is not installed; pip install {cls.package}"

    @classmethod
    def suits(cls, structure: Structure) -> bool:
        """Whether the default ladder should have it for these programs, whose cones it takes."""
        return True

    @abstractmethod
    def solve(self, program: ConeProgram, warm: Solution | None = None) -> Solution:
        """Solve every item; from the point `warm`, where `warm_starts` and where it is finite.

        Items without a usable point hold NaN and the status that the package reports.
        The arrays of `program` are not written to. SOLVED here means: the package says so. INFEASIBLE and UNBOUNDED
        mean that it found a certificate. INACCURATE: a point came back that missed the tolerances.
        """

    def tighter(self) -> Solver | None:
        """The same solver with its tolerances at the limit of what it can reach; None where this one is there.

        A limit of iterations that the caller has set stays.
        """
        limits = {k: v for k, v in self.args.items() if k == "max_iter"}
        args = {**self.args, **neutral(self.tight), **limits}
        return None if args == self.args else type(self)(self.structure, args)


class Item(NamedTuple):
    """What a package returns for one problem; the point only where the status is SOLVED or INACCURATE."""

    status: Status
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    s: np.ndarray | None = None
    iterations: int = 0


class ItemSolver(Solver):
    """A package that takes one problem at a time. A subclass writes `solve_item`; items run in the thread pool."""

    def __init__(self, structure, args=None):
        super().__init__(structure, args)
        self._order = self.row_order(structure.cones)
        if self.args:
            self._try_settings()

    @cached_property
    def _matrices(self):
        """Templates of P and A. At the first solve: most solvers of a ladder are never called."""
        P, A, up = self.structure.P, self.structure.A, self.structure.upper
        rows = A.rows if self._order is None else np.argsort(self._order)[A.rows]
        return (CscValues(P.rows[up], P.cols[up], P.shape, up), CscValues(rows, A.cols, A.shape, np.arange(A.nnz)))

    def row_order(self, cones: ConeDims) -> np.ndarray | None:
        """Row k of the package is our row `row_order[k]`; None: the same order."""

    @abstractmethod
    def solve_item(self, cones: ConeDims, P: sp.csc_matrix, q, A: sp.csc_matrix, b) -> Item:
        """Solve one problem, in the package's row order. P: upper triangle. May raise where the package refuses.

        Where `warm_starts` it has one more argument, warm=None or (x, y, s).
        """

    def solve(self, program, warm=None):
        data, cones = program.data, self.structure.cones
        out = unsolved(self.structure, data.batch)
        order = slice(None) if self._order is None else self._order
        upper_P, matrix_A = self._matrices

        def one(i):
            P, q, A, b = (array[0 if array.shape[0] == 1 else i] for array in data)
            q, b = np.ascontiguousarray(q), np.ascontiguousarray(b[order])
            start = None if warm is None else (warm.x[i], warm.y[i, order], warm.s[i, order])
            known = {"warm": start} if start and all(np.isfinite(a).all() for a in start) else {}
            try:
                found = self.solve_item(cones, upper_P(P), q, matrix_A(A), b, **known)
            except Exception:  # NaN in the data, a nonconvex P: this item has no answer, the others have
                return
            out.status[i], out.iterations[i] = found.status, found.iterations
            if found.x is None:
                return
            if all(a is not None and np.isfinite(a).all() for a in (found.x, found.y, found.s)):
                out.x[i], out.y[i, order], out.s[i, order] = found.x, found.y, found.s
            else:
                out.status[i] = Status.FAILED

        each_item(one, data.batch)
        return out

    def _try_settings(self):
        """min x, x >= 1: a setting that the package refuses is an error here, not a batch of failed items later."""
        one = sp.csc_matrix(np.ones((1, 1)))
        try:
            self.solve_item(ConeDims(nonneg=1), sp.csc_matrix((1, 1)), np.ones(1), -one, -np.ones(1))
        except Exception as error:
            raise ProblemError(f"solver {self.name!r} does not accept the options {self.args}: {error}") from error


class CscValues:
    """A matrix as scipy CSC, from its values on a fixed pattern: a copy of a template, 2 us instead of 30."""

    def __init__(self, rows, cols, shape, values):
        order = np.lexsort((rows, cols))
        self._values = values[order]
        indptr = np.searchsorted(cols[order], np.arange(shape[1] + 1))
        indices = (rows[order].astype(np.int32), indptr.astype(np.int32))
        self._template = sp.csc_matrix((np.zeros(order.size), *indices), shape=shape)
        assert self._template.has_canonical_format  # packages ask for it; the copies inherit the answer

    def __call__(self, values) -> sp.csc_matrix:
        """The index arrays are shared between all copies: do not change them."""
        matrix = copy.copy(self._template)
        matrix.data = values[self._values]
        return matrix


def unsolved(structure: Structure, batch: int) -> Solution:
    """A Solution to be filled in: NaN, FAILED, zero iterations."""
    x, y, s = (np.full((batch, size), np.nan) for size in (structure.n, structure.m, structure.m))
    return Solution(x, y, s, np.full(batch, int(Status.FAILED)), np.zeros(batch, np.int64))
