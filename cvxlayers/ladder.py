"""The ladder: how a batch gets its solutions, and which rung answered for which item.

    warm start      refinement of a given point, where there is one
    solvers         each solver in turn, on the items that the ones before it left
    tight           the same solvers, with their tolerances at the limit of what they reach

Every point is refined (`residual.refine`), and leaves only if it passes the residual test (`residual.accepted`).
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

from .errors import SolverError, listed
from .info import RUNGS
from .linsolve import keeps_inverse
from .program import ConeData, ConeProgram, Solution, Status, Structure
from .residual import Refined, accepted, refine, tolerance
from .solvers import Solver

_WARM_PATIENCE = 3  # Newton steps without progress after which a warm start is given up


class Solved(NamedTuple):
    """Solutions of a batch, with zeros for items that have none. For each item (B,): status; rung, the number in
    `info.RUNGS` of what answered, -1 for nothing; iterations of that solver, or Newton steps from a warm start;
    seconds, the time that its batch spent on the ladder until then; size of the residual."""

    point: Refined
    status: np.ndarray
    rung: np.ndarray
    iterations: np.ndarray
    seconds: np.ndarray
    size: np.ndarray

    @property
    def good(self):
        """Which items have a solution (B,)."""
        return self.rung >= 0

    def without(self, items):
        """The same with these items failed."""
        status, rung = self.status.copy(), self.rung.copy()
        status[items], rung[items] = Status.FAILED, -1
        return self._replace(status=status, rung=rung)


def rungs(solvers) -> list[str]:
    """The names of a ladder's solvers, each one of `info.RUNGS`: at its second occurrence a solver is the tight one."""
    names = [solver.name for solver in solvers]
    return [f"{name} (tight)" if name in names[:k] else name for k, name in enumerate(names)]


def solve(structure: Structure, data: ConeData, solvers: list[Solver], *, skip=None, start=None) -> Solved:
    """Climb the ladder with a flat batch.

    skip (B,): items to leave out, their status is INVALID. start: (x, y, s) of a warm start, (B, n), (B, m), (B, m); items
    that are not finite there have none.
    """
    B = data.batch
    skip = np.zeros(B, bool) if skip is None else skip
    found = _Found(structure, skip)
    began = perf_counter()
    steps: list[tuple[str, Solver | None]] = [(RUNGS[0], None)] if start else []
    steps += zip(rungs(solvers), solvers, strict=True)
    for name, solver in steps:
        items = found.todo
        if not items.size:
            break
        part = data if items.size == B else data.take(items)
        point, status, iterations = _answer(structure, part, solver, start and [a[items] for a in start])
        good = accepted(structure, part, point)
        found.add(RUNGS.index(name), point, good, status, iterations, perf_counter() - began)
        if solver is None:  # what is no better than nothing is not passed on
            useful = np.zeros((B, 1), bool)
            useful[items, 0] = point.size < 0.1
            start = [np.where(useful, a, np.nan) for a in start]
        elif solver.warm_starts:  # its tighter self starts afresh
            start = None
    return found.result()


def _answer(structure, data, solver, start):
    """(refined point, its status, iterations) of a solver, or from the warm start alone where there is none."""
    if solver is None:
        x, y, s = start
        point = refine(structure, data, x, y - s, patience=_WARM_PATIENCE)
        return point, np.full(len(x), Status.FAILED), point.steps
    warm = None
    if start and solver.warm_starts:
        warm = Solution(start[0], start[1], start[2], np.zeros(data.batch, np.int64), np.zeros(data.batch, np.int64))
    found = solver.solve(ConeProgram(structure, data), warm)
    point = refine(structure, data, found.x, found.y - found.s)
    return point, found.status, found.iterations


class _Found:
    """What the rungs so far have found. A batch that the first rung solves is not copied."""

    def __init__(self, structure, skip):
        B = skip.size
        self.structure, self.point = structure, None
        self.todo = np.flatnonzero(~skip)
        self.status = np.where(skip, Status.INVALID, Status.FAILED)
        self.rung, self.iterations, self.seconds = np.full(B, -1), np.zeros(B, np.int64), np.zeros(B)
        self.size = np.full(B, np.nan)

    def add(self, rung, point, good, status, iterations, seconds):
        """The answers of a rung for the items of `todo`; good: which of them are accepted."""
        items, self.seconds[self.todo] = self.todo, seconds
        self.size[items] = point.size
        if self.point is None and items.size == self.rung.size and good.all():
            self.status, self.rung = np.full(items.size, int(Status.SOLVED)), np.full(items.size, rung)
            self.iterations, self.point, self.todo = iterations, point, items[:0]
            return
        status = np.where(status == Status.SOLVED, Status.INACCURATE, status)  # it says so; the residual test does not
        certified = (self.status[items] == Status.INFEASIBLE) | (self.status[items] == Status.UNBOUNDED)
        status = np.where(certified & (status == Status.FAILED), self.status[items], status)  # a reason beats none
        self.status[items] = np.where(good, Status.SOLVED, status)
        self.rung[items[good]], self.iterations[items[good]] = rung, iterations[good]
        self.todo = items[~good]
        if self.point is None:
            self.point = _nothing(self.structure, self.rung.size)
        for mine, new in zip(self.point, point, strict=True):
            if mine is not None:
                mine[items[good]] = new[good]

    def result(self):
        point = _nothing(self.structure, self.rung.size) if self.point is None else self.point
        return Solved(point, self.status, self.rung, self.iterations, self.seconds, self.size)


def _nothing(structure, batch):
    x, v = np.zeros((batch, structure.n)), np.zeros((batch, structure.m))
    N = structure.n + structure.m
    inverse = np.zeros((batch, N, N)) if keeps_inverse(structure) else None
    flags = np.zeros(batch, bool), np.zeros(batch, bool), np.zeros(batch, np.int64)
    return Refined(x, v, v.copy(), np.zeros(batch), inverse, *flags)


def failure(structure: Structure, solvers: list[Solver], solved: Solved, skip=False) -> SolverError:
    """The error that names the items without a solution, but for those of `skip`."""
    items = np.flatnonzero(~(solved.good | skip))
    words = []
    for i in items.tolist():
        s, r = Status(int(solved.status[i])), solved.size[i]
        words.append(f"item {i}: {s}" + (f", residual {r:.1e}" if s == Status.INACCURATE and np.isfinite(r) else ""))
    tried = ", ".join(dict.fromkeys(solver.name for solver in solvers))
    return SolverError(
        f"no solution within the tolerance {tolerance(structure):.0e}: {listed(words, '; ')} (tried: {tried})",
        items.tolist(),
        [Status(int(s)) for s in solved.status[items]],
    )
