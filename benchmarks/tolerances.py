"""How far a solver should go before Newton's method takes over: milliseconds of the solver's call and of the refinement, the
average number of Newton steps in parentheses, and how many items are then accepted, on the problems with curved cones.

Run: python benchmarks/tolerances.py
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from cases import CASES

from cvxlayers.layer import ConeLayer
from cvxlayers.program import ConeProgram
from cvxlayers.residual import accepted, refine
from cvxlayers.solvers import solver_named

CHOICES = [(name, tol) for name in ("moreau", "clarabel") for tol in (1e-4, 1e-6, 1e-8, 1e-10)]


def best(call, *arguments):
    """(the best time in ms, the result)."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        result = call(*arguments)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times), result


def main():
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"| | {' | '.join(f'{name}, {tol:.0e}' for name, tol in CHOICES)} |\n|---|" + "---|" * len(CHOICES))
    for case in (c for c in CASES if c.kind == "layer"):
        problem, parameters, variables, sample = case.build(**case.arguments)
        B = case.batches[0]
        layer = ConeLayer(problem, parameters, variables)
        data = layer.evaluate([v.reshape(B, -1) for v in sample(B, np.random.default_rng(0))]).data
        S, cells = layer.structure, []
        for name, tol in CHOICES:
            solver = solver_named(name)(S, {"tol": tol})
            solve, found = best(solver.solve, ConeProgram(S, data))
            newton, point = best(refine, S, data, found.x, found.y - found.s)
            left = B - int(accepted(S, data, point).sum())
            cells.append(f"{solve:.1f} + {newton:.1f} ({point.steps.mean():.1f})" + (f", {left} left" if left else ""))
        print(f"| {case.name}, B = {B} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
