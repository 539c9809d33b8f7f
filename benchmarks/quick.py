"""A guard against regressions, under a minute: the time of a layer as a multiple of the raw solver call on the same data.

The raw call is the solver that answers, on the compiled batch, at its tolerances of 1e-8 (the native engine is exact). Both run
in turn (A B A B ...), the best call counts; so the ratio does not depend on the speed of the machine. It is compared with the
committed one in quick.json; beyond LIMIT times that, the exit status is 1. Run: python benchmarks/quick.py [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from cases import CASES, machine

from cvxlayers.layer import ConeLayer
from cvxlayers.program import ConeProgram
from cvxlayers.solvers import solver_named
from cvxlayers.torch import CvxpyLayer

BASELINE = Path(__file__).with_name("quick.json")
LIMIT, SECONDS, ROUNDS = 1.5, 1.5, 200
CHOSEN = (
    ("dense QP n=m=10", 1),
    ("dense QP n=m=10", 128),
    ("dense QP n=m=100", 8),
    ("OptNet QP n=m=10", 128),
    ("simplex n=1000", 32),
    ("Sudoku 4x4", 128),
    ("MPC 8/4/20", 32),
    ("portfolio SOCP n=100, k=10", 32),
    ("logistic regression N=100, d=20", 8),
    ("LML n=100, k=5", 32),
    ("nearest correlation 10x10", 16),
)
HEAD = "| problem | B | raw call, ms | forward / raw | forward + backward / raw | committed |\n|---|---|---|---|---|---|"


def ratios(case, B):
    """Forward, and forward + backward, of the layer over the raw call; and the raw call in ms."""
    problem, parameters, variables, sample = case.build(**case.arguments)
    values = sample(B, np.random.default_rng(0))
    core = ConeLayer(problem, parameters, variables, on_error="nan")
    found = core.evaluate([v.reshape(B, -1) for v in values])
    name = core.solvers[0].name
    options = {} if name == "native" else {"tol": 1e-8}
    solver, program = solver_named(name)(core.structure, options), ConeProgram(core.structure, found.data)
    layer = CvxpyLayer(problem, parameters, variables, on_error="nan")
    leaves = [torch.tensor(v, requires_grad=True) for v in values]
    best, began = [np.inf] * 3, time.perf_counter()
    for _ in range(ROUNDS):
        t0 = time.perf_counter()
        solver.solve(program)
        t1 = time.perf_counter()
        outputs = layer(*leaves)
        t2 = time.perf_counter()
        torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs])
        t3 = time.perf_counter()
        best = [min(b, t) for b, t in zip(best, (t1 - t0, t2 - t1, t3 - t1), strict=True)]
        if t3 - began > SECONDS:
            break
    return best[1] / best[0], best[2] / best[0], 1e3 * best[0], name


def main(write):
    """Print the ratios next to the committed ones; whether all are within the limit."""
    warnings.simplefilter("ignore")
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    print(f"{machine()}\n\n{HEAD}")
    now, slow = {}, []
    for title, B in CHOSEN:
        case = next(c for c in CASES if c.name == title)
        forward, total, raw, name = ratios(case, B)
        key = f"{title}, B={B}"
        now[key] = round(total, 2)
        slow += [key] if total > LIMIT * baseline.get(key, np.inf) else []
        print(f"| {title} | {B} | {raw:.3g} ({name}) | {forward:.2f} | {total:.2f} | {baseline.get(key, '-')} |", flush=True)
    if write:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n")
    elif slow:
        print(f"slower than {LIMIT} times the committed ratio: {'; '.join(slow)}")
    return not slow or write


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="commit to the ratios of this run")
    sys.exit(0 if main(parser.parse_args().write) else 1)
