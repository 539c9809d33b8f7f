"""What a call of a layer takes beyond its solver: the QP with 10 variables, 10 rows and all data as parameters, float64.

    forward, backward    the calls of `cvxlayers.torch.CvxpyLayer`, in microseconds
    solver               the engine's own call for the same data: `solve`, and `linear` for the system of the derivative
    overhead             the difference; the goal is 200 each way
    general path         the same layer without its shortcut (`cvxlayers/shortcut.py`)

The best of many short turns counts, all in turn. Run: python benchmarks/overhead.py [--seconds S]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import problems
import torch
from cases import machine

from cvxlayers.torch import CvxpyLayer

CALLS = 5  # in a turn


def calls(B):
    """{name: function} of what is timed on a batch of B."""
    problem, parameters, variables, sample = problems.dense_qp(10)
    leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
    layer, slow = (CvxpyLayer(problem, parameters, variables) for _ in range(2))
    vars(slow._handle.map)["shortcut"] = None
    core = layer._handle.map
    found = core.evaluate([v.detach().numpy().reshape(B, -1) for v in leaves])
    engine, point, right = core.structure.engine, found.solved.point, np.ones((B, 1, 20))
    P, q, A, b = found.data
    timed = {"solver forward": lambda: engine.solve(P, q, A, b), "solver backward": lambda: engine.linear(P, A, point.v, right)}
    for name, f in {"layer": layer, "general path": slow}.items():
        outputs = f(*leaves)
        g = [torch.ones_like(o) for o in outputs]
        timed[f"{name} forward"] = lambda f=f: f(*leaves)
        timed[f"{name} backward"] = lambda o=outputs, g=g: torch.autograd.grad(o, leaves, g, retain_graph=True)
    return timed


def best(timed, seconds):
    """{name: microseconds}."""
    least, end = dict.fromkeys(timed, np.inf), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in timed.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            least[name] = min(least[name], 1e6 * (time.perf_counter() - start) / CALLS)
    return least


def main():
    """Print a table for B = 1 and B = 8."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=4, help="for each batch size")
    seconds = options.parse_args().seconds
    print(machine())
    print(f"{'us':<14}{'layer':>8}{'solver':>8}{'overhead':>10}{'general path':>14}{'its overhead':>14}")
    for B in (1, 8):
        found = best(calls(B), seconds)
        for way in ("forward", "backward"):
            layer, solver, slow = (found[f"{name} {way}"] for name in ("layer", "solver", "general path"))
            print(
                f"{way + f', B={B}':<14}{layer:>8.0f}{solver:>8.0f}{layer - solver:>10.0f}{slow:>14.0f}{slow - solver:>14.0f}"
            )


if __name__ == "__main__":
    main()
