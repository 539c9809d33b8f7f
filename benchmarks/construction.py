"""Seconds to construct a layer with large or many parameters, each in a process of its own, and the memory on top.

Run: python benchmarks/construction.py
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time

import cvxpy as cp

from cvxlayers.torch import CvxpyLayer


def least_squares(n):
    Q, b, x = cp.Parameter((n, n)), cp.Parameter(n), cp.Variable(n)
    return cp.Problem(cp.Minimize(cp.sum_squares(Q @ x - b))), [Q, b], [x]


def norm(n):
    Q, b, x = cp.Parameter((n, n)), cp.Parameter(n), cp.Variable(n)
    return cp.Problem(cp.Minimize(cp.norm(Q @ x - b))), [Q, b], [x]


def many_variables(n):
    b, x = cp.Parameter(n), cp.Variable(n)
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + b @ x)), [b], [x]


def many_parameters(n):
    x, prices, limits = cp.Variable(5), [cp.Parameter(5) for _ in range(n // 2)], [cp.Parameter() for _ in range(n // 2)]
    rows = [x >= -10, *(cp.sum(x) <= limit for limit in limits)]
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + sum(p @ x for p in prices)), rows), [*prices, *limits], [x]


CASES = ((least_squares, 300), (least_squares, 1000), (norm, 1000), (many_variables, 50_000), (many_parameters, 30))


def measure(k):
    """Print the line of one case."""
    make, n = CASES[k]
    CvxpyLayer(*least_squares(3))  # what is imported at the first one
    before, problem = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, make(n)
    gc.collect()  # a full collection of all that the packages have loaded takes a quarter of a second, sooner or later
    start = time.perf_counter()
    CvxpyLayer(*problem)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"| {make.__name__.replace('_', ' ')} | {n} | {seconds:.3f} | {(after - before) / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        print("| | n | s | MB |\n|---|---|---|---|", flush=True)
        for number in range(len(CASES)):
            subprocess.run([sys.executable, __file__, str(number)], check=True)
