"""The native engine against other engines, and layer against layer: milliseconds for a batch, next to the accuracy.

Engine against engine, on the conic data that cvxlayers compiles: forward is the solution of the batch, backward the linear
solve of the derivative with one right-hand side (Moreau's also forms dP and dA). The error of x is the worst KKT residual
over the batch, absolute and unscaled; that of the gradient is of dL/dq for a random dL/dx, relative to ours.

Layer against layer, in torch, float64: forward, and backward with the gradients of all parameters. The reference is our
solution and its gradient. What stands for ours is, therefore, not a difference from it but its own verification: the KKT
residual of the solution (relative, the one that accepts it), and the difference between the gradient and a central
difference of the layer along a random direction (the difference's own error is 1e-9 to 1e-7; at kinks it means nothing).
"refused": items for which our layer raises an error; "singular": systems that the engine gives back to the layer.

All that runs on one problem runs in turn (A B A B ...). "x ours" compares the best forward + backward with our engine on as
many threads, or our layer; of engines without a derivative, forward alone. Below 1 (bold) the peer is faster. Peers that are
not installed are skipped; `make bench-native` installs them. Run: python benchmarks/native.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import engines
import numpy as np
import problems
import torch
from engines import Entry

from cvxlayers.layer import ConeLayer
from cvxlayers.native import builds
from cvxlayers.torch import CvxpyLayer


class Case(NamedTuple):
    """A problem, at some batch sizes; kind: what runs on it."""

    name: str
    build: object
    arguments: dict
    batches: tuple[int, ...]
    quick: bool = False  # the first batch size belongs to the quick subset
    kind: str = "both"


CASES = (
    Case("dense QP n=m=10", problems.dense_qp, {"n": 10}, (128, 8, 1), True),
    Case("dense QP n=m=50", problems.dense_qp, {"n": 50}, (128, 1)),
    Case("dense QP n=m=100", problems.dense_qp, {"n": 100}, (128, 8, 1)),
    Case("dense QP n=m=128", problems.dense_qp, {"n": 128}, (128, 8, 1)),
    Case("OptNet QP n=m=10", problems.optnet_qp, {"n": 10}, (128, 1), True),
    Case("OptNet QP n=m=100", problems.optnet_qp, {"n": 100}, (128, 1)),
    Case("sparse QP n=200", problems.sparse_qp, {"n": 200}, (32,)),
    Case("sparse QP n=1024", problems.sparse_qp, {"n": 1024}, (8,)),
    Case("simplex n=1000", problems.simplex, {"n": 1000}, (32,), True),
    Case("Sudoku 4x4", problems.sudoku, {"b": 2}, (128,), True),
    Case("MPC 8/4/20", problems.mpc, {}, (32, 128), True),
    Case("box QP n=100", problems.box_qp, {"n": 100}, (128,)),
    Case("portfolio SOCP n=100, k=10", problems.portfolio, {}, (32,), True, "layer"),
    Case("logistic regression N=100, d=20", problems.logistic_regression, {}, (8,), False, "layer"),
    Case("softmax n=100", problems.softmax, {}, (32,), False, "layer"),
    Case("LML n=100, k=5", problems.lml, {}, (32,), False, "layer"),
    Case("nearest correlation 10x10", problems.nearest_correlation, {}, (16,), False, "layer"),
)
REPEAT, SHORT = 10, 2e-3  # calls, seconds
HEAD = "| problem | B | what | threads | forward, ms | backward, ms | error of x | of gradient | x ours |"


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


def line(case, B, entry, forward, backward, errors, ratio):
    """One line of the table; times as best / median."""
    ahead = f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.1f}"
    cells = [case.name, B, entry.name + entry.note(), entry.threads, _times(forward)]
    cells += [_times(backward) if entry.backward else "-", *("-" if e is None else f"{e:.0e}" for e in errors), ahead]
    return "| " + " | ".join(str(c) for c in cells) + " |"


def _times(times):
    return f"{min(times):.3g} / {np.median(times):.3g}"


def engine_lines(case, B, rounds, seconds):
    """Engine against engine; dL/dx is zero for the variables that CVXPY adds, which need not be unique."""
    problem, parameters, variables, sample = case.build(**case.arguments)
    layer = ConeLayer(problem, parameters, variables)
    found = layer.evaluate([v.reshape(B, -1) for v in sample(B, np.random.default_rng(0))])
    data, S, rng = found.data, layer.structure, np.random.default_rng(1)
    gx, _ = layer.recovery.vjp(found.solved.point.x, [rng.standard_normal((B, k)) for k in layer.out_sizes])
    entries = [e for make in engines.ENGINES.values() for e in make(S, data) or ()]
    results = in_turn(entries, gx, rounds, seconds)
    mine = {e.threads: results[e] for e in entries if e.name == "cvxlayers"}
    exact = next(iter(mine.values()), (0, 0, 0, None))[3]
    for entry, (forward, backward, (x, y), gq) in results.items():
        error = None if gq is None or exact is None or entry.name == "cvxlayers" else difference(gq, exact)
        base = mine.get(entry.threads) or next(iter(mine.values()), (forward, backward))
        errors, ratio = (engines.kkt(S, data, x, y), error), _total(forward, backward, entry) / _total(base[0], base[1], entry)
        yield line(case, B, entry._replace(name=f"engine: {entry.name}"), forward, backward, errors, ratio)


def _total(forward, backward, entry):
    return min(forward) + (min(backward) if entry.backward else 0)


def layer_lines(case, B, rounds, seconds):
    """Layer against layer; errors are those of the items that ours has solved."""
    problem, parameters, variables, sample = case.build(**case.arguments)
    leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
    layer = CvxpyLayer(problem, parameters, variables, on_error="nan")
    outputs, info = layer(*leaves, return_info=True)
    solved = np.isfinite(outputs[0].detach().numpy().reshape(B, -1)).all(1)
    generator = torch.Generator().manual_seed(1)
    gx = [torch.randn(o.shape, dtype=torch.float64, generator=generator) for o in outputs]
    refused = f", {B - solved.sum()} refused" if not solved.all() else ""
    symmetric = [any(p.attributes[a] is True for a in ("symmetric", "PSD", "NSD")) for p in parameters]
    entries, failed = [_entry("cvxlayers", layer, leaves, symmetric, lambda: refused)], []
    for name, peer in _peers(case):
        try:
            entry = _entry(name, peer(), leaves, symmetric)
            entry.forward()
            entry.backward(gx)
            entries.append(entry)
        except Exception as error:  # which error, is part of the table
            failed.append(f"| {case.name} | {B} | layer: {name} | - | {_reason(error)} | - | - | - | - |")
    results = in_turn(entries, gx, rounds, seconds)
    base = results[entries[0]]
    checked = float(info.residual[torch.tensor(solved)].max()), _central(layer, leaves, base[3], gx, solved)
    for entry, (forward, backward, x, g) in results.items():
        pairs = ((x, base[2]), (g, base[3]))
        errors = (
            checked
            if entry is entries[0]
            else tuple(difference([u[solved] for u in a], [v[solved] for v in b]) for a, b in pairs)
        )
        ratio = _total(forward, backward, entry) / _total(base[0], base[1], entry)
        yield line(case, B, entry._replace(name=f"layer: {entry.name}"), forward, backward, errors, ratio)
    yield from failed


def _entry(name, layer, leaves, symmetric, note=str):
    """The `Entry` of a layer. Of the gradient in a symmetric parameter the symmetric part counts: conventions differ."""
    state = {}

    def forward():
        state["outputs"] = layer(*leaves)
        return [o.detach().numpy() for o in state["outputs"]]

    def backward(gx):
        grads = torch.autograd.grad(state["outputs"], leaves, gx)
        return [((g + g.mT) / 2 if s else g).numpy() for g, s in zip(grads, symmetric, strict=True)]

    return Entry(name, engines.CORES, forward, backward, note=note)


def _peers(case):
    """(name, constructor) of the peers that are installed."""
    if not _installed("cvxpylayers"):
        return
    from cvxpylayers.torch import CvxpyLayer as Peer

    problem, parameters, variables, _ = case.build(**case.arguments)
    for name, solver in (("cvxpylayers, diffcp", "DIFFCP"), ("cvxpylayers, Moreau", "MOREAU")):
        yield name, lambda solver=solver: Peer(problem, parameters, variables, solver=solver)


def _central(layer, leaves, gradient, gx, accepted, step=1e-6):
    """The gradient against a central difference along a random direction, relative, over the items that are solved there."""
    generator = torch.Generator().manual_seed(2)
    along = [torch.randn(v.shape, dtype=torch.float64, generator=generator) for v in leaves]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            outputs = layer(*(v + sign * step * d for v, d in zip(leaves, along, strict=True)), on_error="nan")
        values.append(_inner(gx, outputs))
    exact, found = _inner([torch.tensor(g) for g in gradient], along), (values[0] - values[1]) / (2 * step)
    solved = torch.isfinite(found) & torch.tensor(accepted)
    return float((found - exact)[solved].sum().abs() / exact[solved].sum().abs())


def _inner(a, b):
    """<a, b> of each item (B,)."""
    return sum((u * v).reshape(len(u), -1).sum(1) for u, v in zip(a, b, strict=True))


def _reason(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:60]}".replace("|", "/")


def _installed(name):
    return importlib.util.find_spec(name) is not None


def machine():
    """The processor and the versions."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(row.split(":")[1].strip() for row in file if row.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    names = ("cvxpy", "cvxpylayers", "diffcp", "moreau", "piqp", "clarabel", "scs", "torch", "numpy", "scipy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if _installed(name)]
    missing = [name for name in ("cvxpylayers", "moreau", "piqp") if not _installed(name)]
    text = f"{cpu}, {engines.CORES} cores, engine {' '.join(builds()[:1]) or 'not built'}; {', '.join(versions)}"
    return text + (f"\nnot installed, skipped: {', '.join(missing)}" if missing else "")


def parts(quick, only):
    """(case, B) of all that is to run; the position of a case in CASES stands for it."""
    for k, case in enumerate(CASES):
        if only in case.name and (case.quick or not quick):
            yield from ((k, B) for B in (case.batches[:1] if quick else case.batches))


def main(options):
    """Print the table. Each part has a process of its own: thread pools disturb each other, and a crash is a line."""
    print(f"{machine()}\n\n{HEAD}\n|---|---|---|---|---|---|---|---|---|", flush=True)
    limits = [f"--rounds={options.rounds}", f"--seconds={options.seconds}"]
    for k, B in parts(options.quick, options.only):
        code = subprocess.run([sys.executable, __file__, *limits, "--part", str(k), str(B)]).returncode
        if code:
            print(f"| {CASES[k].name} | {B} | the process ended with code {code} | - | - | - | - | - | - |", flush=True)


def part(k, B, rounds, seconds):
    """Print the lines of one part."""
    warnings.simplefilter("ignore")
    case = CASES[k]
    for kind, lines in (("engine", engine_lines), ("layer", layer_lines)):
        if case.kind in (kind, "both"):
            for text in lines(case, B, rounds, seconds):
                print(text, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six problems, one batch size each, under a minute")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--rounds", type=int, help="at most so many calls of each (default 20, quick 4)")
    parser.add_argument("--seconds", type=float, help="at most so much time for each (default 3, quick 0.3)")
    parser.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.rounds, given.seconds = given.rounds or (4 if given.quick else 20), given.seconds or (0.3 if given.quick else 3.0)
    if given.part:
        position, batch = given.part
        part(position, batch, given.rounds, given.seconds)
    else:
        main(given)
