"""The problems of the benchmarks at the sizes that are measured, and how calls are timed: in turn, the best one counts."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import problems

from cvxlayers.native import builds

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Entry(NamedTuple):
    """What is timed on one batch. forward() -> its results. backward(gx) -> gradients at the solution of the forward before
    it, or None. scale: times are to be multiplied by it. note(): what else there is to say."""

    name: str
    threads: int
    forward: Callable
    backward: Callable | None = None
    scale: float = 1.0
    note: Callable[[], str] = str


class Case(NamedTuple):
    """A problem, at some batch sizes; kind: "layer" where engines have no such cones. goals: of the layer,
    forward + backward in ms by batch size."""

    name: str
    build: object
    arguments: dict
    batches: tuple[int, ...]
    quick: bool = False  # the first batch size belongs to the quick subset
    kind: str = "both"
    goals: dict[int, float] = {}


CASES = (
    Case("dense QP n=m=10", problems.dense_qp, {"n": 10}, (128, 8, 1), True, goals={128: 2, 1: 0.5}),
    Case("dense QP n=m=50", problems.dense_qp, {"n": 50}, (128, 1)),
    Case("dense QP n=m=100", problems.dense_qp, {"n": 100}, (128, 8, 1), goals={128: 100}),
    Case("dense QP n=m=128", problems.dense_qp, {"n": 128}, (128, 8, 1)),
    Case("OptNet QP n=m=10", problems.optnet_qp, {"n": 10}, (128, 1), True, goals={128: 2}),
    Case("OptNet QP n=m=100", problems.optnet_qp, {"n": 100}, (128, 1), goals={128: 100}),
    Case("sparse QP n=200", problems.sparse_qp, {"n": 200}, (32,), goals={32: 40}),
    Case("sparse QP n=1024", problems.sparse_qp, {"n": 1024}, (8,), goals={8: 700}),
    Case("simplex n=1000", problems.simplex, {"n": 1000}, (32,), True, goals={32: 12}),
    Case("Sudoku 4x4", problems.sudoku, {"b": 2}, (128,), True, goals={128: 8}),
    Case("MPC 8/4/20", problems.mpc, {}, (32, 128), True, goals={32: 12}),
    Case("box QP n=100", problems.box_qp, {"n": 100}, (128,)),
    Case("portfolio SOCP n=100, k=10", problems.portfolio, {}, (32,), True, "layer", {32: 50}),
    Case("logistic regression N=100, d=20", problems.logistic_regression, {}, (8,), False, "layer", {8: 40}),
    Case("softmax n=100", problems.softmax, {}, (32,), False, "layer", {32: 50}),
    Case("LML n=100, k=5", problems.lml, {}, (32,), False, "layer", {32: 100}),
    Case("nearest correlation 10x10", problems.nearest_correlation, {}, (16,), False, "layer", {16: 50}),
)
DOCS = Path(__file__).parents[1] / "docs"
REPEAT, SHORT = 10, 10e-3  # calls, seconds


def in_turn(entries, gx, rounds, seconds):
    """{entry: (forward times, backward times, x and y, gq)} in ms, all entries in turn; each stops after its `seconds`.

    The first turn of an entry warms it up and does not count, unless it took more than half of the time. A turn is one call,
    or, of what is over sooner than `SHORT` (and would measure the caches that the one before it left), up to `REPEAT`.
    """
    results: dict = {entry: ([], [], None, None) for entry in entries}
    used = dict.fromkeys(entries, 0.0)
    for k in range(rounds + 1):
        for entry in entries:
            turn = 0.0
            for _ in range(REPEAT):
                if used[entry] > seconds or turn > SHORT:
                    break
                start = time.perf_counter()
                point = entry.forward()
                middle = time.perf_counter()
                gq = None if entry.backward is None else entry.backward(gx)
                end = time.perf_counter()
                used[entry] += end - start
                turn += end - start
                forward, backward, _, _ = results[entry]
                if k or used[entry] > seconds / 2:
                    forward.append(1e3 * (middle - start) * entry.scale)
                    backward.append(1e3 * (end - middle) * entry.scale)
                results[entry] = (forward, backward, point, gq)
    return results


def difference(a, b):
    """The largest difference, relative to the largest entry of b; of several arrays, the worst."""
    if isinstance(b, (list, tuple)):
        return max(difference(x, y) for x, y in zip(a, b, strict=True))
    error = float(np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), 1e-300))
    return error if np.isfinite(error) else np.inf


def times(found):
    """Best / median."""
    return f"{min(found):.3g} / {np.median(found):.3g}"


def installed(name):
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def machine():
    """The processor and the versions."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(row.split(":")[1].strip() for row in file if row.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    names = ("cvxpy", "cvxpylayers", "diffcp", "moreau", "qpth", "proxsuite", "qpax", "jaxopt", "piqp", "clarabel", "scs")
    names += ("torch", "jax", "numpy", "scipy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if installed(name)]
    missing = [name for name in names if not installed(name)]
    text = f"{cpu}, {CORES} cores, engine {' '.join(builds()[:1]) or 'not built'}; {', '.join(versions)}"
    return text + (f"\nnot installed, skipped: {', '.join(missing)}" if missing else "")


def parts(quick, only):
    """(case, B) of all that is to run; the position of a case in CASES stands for it."""
    for k, case in enumerate(CASES):
        if only in case.name and (case.quick or not quick):
            yield from ((k, B) for B in (case.batches[:1] if quick else case.batches))


def parser(doc):
    """The options that the runners share; `limits` completes what has been parsed."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="a few problems, one batch size each")
    found.add_argument("--only", default="", help="problems whose name contains this")
    found.add_argument("--rounds", type=int, help="at most so many calls of each (default 20, quick 4)")
    found.add_argument("--seconds", type=float, help="at most so much time for each (default 3, quick 0.3)")
    found.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    return found


def limits(options):
    """(rounds, seconds)."""
    return options.rounds or (4 if options.quick else 20), options.seconds or (0.3 if options.quick else 3.0)


def write_section(name, text):
    """Put the processor, the versions and a text into docs/benchmarks.md, between the markers of a section."""
    page = DOCS / "benchmarks.md"
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
    page.write_text(marked.sub(lambda m: f"{m[1]}{machine()}.\n\n{text}\n{m[2]}", page.read_text()))
