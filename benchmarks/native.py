"""The native engine against other engines: milliseconds for a batch, next to the accuracy.

On the conic data that cvxlayers compiles: forward is the solution of the batch, backward the linear solve of the derivative
with one right-hand side (Moreau's also forms dP and dA). The error of x is the worst KKT residual over the batch, absolute and
unscaled; that of the gradient is of dL/dq for a random dL/dx, relative to ours. "singular": systems that the engine gives
back to the layer.

All that runs on one problem runs in turn (A B A B ...). "x ours" compares the best forward + backward with our engine on as
many threads; of engines without a derivative, forward alone. Below 1 (bold) the peer is faster. Peers that are not
installed are skipped; `make bench-native` installs them. Run: python benchmarks/native.py [--quick]
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import engines
import numpy as np
from cases import CASES, difference, in_turn, limits, machine, parser, parts, times

from cvxlayers.layer import ConeLayer

HEAD = "| problem | B | engine | threads | forward, ms | backward, ms | error of x | of gradient | x ours |"


def line(case, B, entry, forward, backward, errors, ratio):
    """One line of the table; times as best / median."""
    ahead = f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.1f}"
    cells = [case.name, B, entry.name + entry.note(), entry.threads, times(forward)]
    cells += [times(backward) if entry.backward else "-", *("-" if e is None else f"{e:.0e}" for e in errors), ahead]
    return "| " + " | ".join(str(c) for c in cells) + " |"


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
        yield line(case, B, entry, forward, backward, errors, ratio)


def _total(forward, backward, entry):
    return min(forward) + (min(backward) if entry.backward else 0)


def main(options):
    """Print the table. Each part has a process of its own: thread pools disturb each other, and a crash is a line."""
    print(f"{machine()}\n\n{HEAD}\n|---|---|---|---|---|---|---|---|---|", flush=True)
    flags = [f"--rounds={options.rounds}", f"--seconds={options.seconds}"]
    for k, B in parts(options.quick, options.only):
        code = subprocess.run([sys.executable, __file__, *flags, "--part", str(k), str(B)]).returncode
        if code:
            print(f"| {CASES[k].name} | {B} | the process ended with code {code} | - | - | - | - | - | - |", flush=True)


def part(k, B, rounds, seconds):
    """Print the lines of one part."""
    warnings.simplefilter("ignore")
    case = CASES[k]
    for text in engine_lines(case, B, rounds, seconds) if case.kind == "both" else ():
        print(text, flush=True)


if __name__ == "__main__":
    options = parser(__doc__)
    given = options.parse_args()
    given.rounds, given.seconds = limits(given)
    if given.part:
        part(*given.part, given.rounds, given.seconds)
    else:
        main(given)
