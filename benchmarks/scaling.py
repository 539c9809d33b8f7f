"""How the time of the layer grows: with the batch, with the number of variables, and with the threads; float64, torch.

Each series is one problem at growing sizes: forward + backward in ms, the best of several calls, and the exponent p of
time ~ size^p, fitted over the last three sizes. A series runs in a process of its own for each number of threads. With --docs
the tables and the figure go to docs/. Run: python benchmarks/scaling.py [--docs]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings

import cvxpy as cp
import numpy as np
import problems
import torch
from cases import CORES, DOCS, write_section

from cvxlayers.torch import CvxpyLayer

BATCHES, SIZES = (1, 4, 16, 64, 256, 1024, 4096), (10, 30, 100, 300, 1000, 3000, 10_000)


def chain(n):
    """min 1/2 |z - p|^2 subject to |z_(i+1) - z_i| <= w_i: a signal of bounded slope; sparse at any size."""
    p, w, z = cp.Parameter(n), cp.Parameter(n - 1, nonneg=True), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - p) / 2), [cp.abs(z[1:] - z[:-1]) <= w])
    return problem, [p, w], [z], lambda B, rng: [rng.standard_normal((B, n)), rng.random((B, n - 1))]


SERIES = {  # name: (what grows, its values, the problem and the batch for one of them)
    "dense QP n=m=10": ("B", BATCHES, lambda k: (problems.dense_qp(10), k)),
    "MPC 8/4/20": ("B", BATCHES[:6], lambda k: (problems.mpc(), k)),
    "softmax n=100 (exp cones)": ("B", BATCHES[:6], lambda k: (problems.softmax(100), k)),
    "dense QP, n=m, B=8": ("n", (10, 20, 50, 100, 200, 500), lambda k: (problems.dense_qp(k), 8)),
    "chain, B=8": ("n", SIZES, lambda k: (chain(k), 8)),
}


def measured(problem, B):
    """(forward, backward) in ms."""
    problem, parameters, variables, sample = problem
    layer = CvxpyLayer(problem, parameters, variables)
    leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
    best, began = [np.inf, np.inf], time.perf_counter()
    for k in range(50):
        start = time.perf_counter()
        (out,) = layer(*leaves)
        middle = time.perf_counter()
        torch.autograd.grad(out, leaves, torch.ones_like(out))
        end = time.perf_counter()
        best = [min(best[0], middle - start), min(best[1], end - middle)] if k or end - began > 5 else best
        if end - began > 2 and k:
            break
    return [1e3 * t for t in best]


def exponent(sizes, found):
    """p of time ~ size^p over the last three sizes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(found[-3:]), 1)[0])


def table(rows):
    """The series as Markdown, one table for each of what grows."""
    out = []
    for grows in ("B", "n"):
        chosen = {key: value for key, value in rows.items() if SERIES[key[0]][0] == grows}
        sizes = sorted({k for times in chosen.values() for k in times})
        out += [f"| {grows} = | threads | {' | '.join(map(str, sizes))} | exponent |", "|---|---|" + "---|" * (len(sizes) + 1)]
        for (name, threads), times in chosen.items():
            cells = [f"{sum(times[k]):.3g}" if k in times else "" for k in sizes]
            p = exponent(list(times), [sum(t) for t in times.values()])
            out.append(f"| {name} | {threads} | {' | '.join(cells)} | {p:.2f} |")
        out.append("")
    return "\n".join(out)


def figure(rows, path):
    """Times against the size, in two panels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    names = list(SERIES)
    for (name, threads), times in rows.items():
        grows = SERIES[name][0]
        style = "-o" if threads > 1 else "--"
        label = name if threads > 1 or CORES == 1 else None
        values = [sum(t) for t in times.values()]
        axes[int(grows == "n")].plot(list(times), values, style, color=f"C{names.index(name)}", ms=4, label=label)
    for ax, label in zip(axes, ("items in the batch", "variables"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel=label)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("forward + backward, ms")
    fig.suptitle(f"solid: {CORES} threads, dashed: 1", fontsize=10)
    fig.savefig(path, dpi=130)


def main(options):
    """Measure all series, print the tables, and write them where asked for."""
    rows = {}
    for name in SERIES:
        for threads in sorted({1, CORES}):
            environment = {**os.environ, "CVXLAYERS_NUM_THREADS": str(threads)}
            command = [sys.executable, __file__, "--series", name]
            run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            rows[name, threads] = {int(k): v for k, v in json.loads(run.stdout.splitlines()[-1]).items()}
            print(name, threads, {k: f"{f:.3g} + {b:.3g}" for k, (f, b) in rows[name, threads].items()}, flush=True)
    text = table(rows)
    print(text)
    if options.docs:
        figure(rows, DOCS / "figures" / "scaling.png")
        write_section("scaling", text)


def series(name):
    """Print the times of one series as JSON."""
    warnings.simplefilter("ignore")
    _, sizes, make = SERIES[name]
    print(json.dumps({k: measured(*make(k)) for k in sizes}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write the tables and the figure into docs/")
    parser.add_argument("--series", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.series:
        series(given.series)
    else:
        main(given)
