"""Layer against layer: forward, and backward with the gradients of all parameters, in float64, in milliseconds for a batch.

All that runs on one problem runs in turn (A B A B ...), in a process of its own; the best call counts. The reference is our
solution and its gradient. What stands for ours is, therefore, not a difference from it but its own verification: the
residual of the optimality conditions (relative, the one that accepts it), and the difference between the gradient and a
central difference of the layer along a random direction, in the median item (its own error is 1e-9 to 1e-7, and it means
nothing at kinks, where most items of Sudoku are).

Peers are the plug-ins of `peers.py`; those that are not installed are skipped, `make bench-layers` installs them. With
--docs the table and the figure go to docs/. Run: python benchmarks/layers.py [--quick] [--docs]
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import torch
from cases import CASES, CORES, DOCS, Entry, difference, in_turn, installed, limits, machine, parser, parts, write_section
from peers import PEERS, torch_calls
from report import OURS, Row, cell, figure, table

from cvxlayers.torch import CvxpyLayer


def measured(case, B, rounds, seconds):
    """One record for each layer: name, forward and backward in ms, the two errors, and what else there is to say."""
    problem, parameters, variables, sample = case.build(**case.arguments)
    leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
    layer = CvxpyLayer(problem, parameters, variables, on_error="nan")
    outputs, info = layer(*leaves, return_info=True)
    solved = info.status.numpy() == 0
    gx = [torch.tensor(np.random.default_rng(1).standard_normal(o.shape)) for o in outputs]
    symmetric = [any(p.attributes[a] is True for a in ("symmetric", "PSD", "NSD")) for p in parameters]
    entries = [_entry(OURS, torch_calls(layer, leaves), symmetric)]
    failed = []
    for package, plugin in PEERS.items():
        for name, make in plugin(case, leaves) if installed(package) else ():
            try:
                entry = _entry(name, make(), symmetric)
                entry.forward()
                entry.backward(gx)
                entries.append(entry)
            except Exception as error:  # which error, is part of the table
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:70]}".replace("|", "/")
                failed.append({"name": name, "reason": reason})
    results = in_turn(entries, gx, rounds, seconds)
    _, _, x0, g0 = results[entries[0]]
    own = float(info.residual[torch.tensor(solved)].max()), _central(layer, leaves, g0, gx, solved)
    for entry, (forward, backward, x, g) in results.items():
        errors = own if entry.name == OURS else [difference(*(_of(a, solved) for a in pair)) for pair in ((x, x0), (g, g0))]
        refused = int((~solved).sum()) if entry.name == OURS else 0
        yield {"name": entry.name, "times": [min(forward), min(backward)], "errors": errors, "refused": refused}
    yield from failed


def _of(arrays, items):
    return [a[items] for a in arrays]


def _entry(name, calls, symmetric):
    """An `Entry`. Of the gradient in a symmetric parameter the symmetric part counts: conventions differ."""
    forward, backward = calls

    def gradients(gx):
        return [(g + g.swapaxes(-1, -2)) / 2 if s else g for g, s in zip(backward(gx), symmetric, strict=True)]

    return Entry(name, CORES, forward, gradients)


def _central(layer, leaves, gradient, gx, accepted, step=1e-6):
    """The gradient against a central difference along a random direction, relative, in the median item: at a kink the
    difference is anything."""
    generator = torch.Generator().manual_seed(2)
    along = [torch.randn(v.shape, dtype=torch.float64, generator=generator) for v in leaves]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            outputs = layer(*(v + sign * step * d for v, d in zip(leaves, along, strict=True)), on_error="nan")
        values.append(_inner(gx, outputs))
    exact, found = _inner([torch.tensor(g) for g in gradient], along), (values[0] - values[1]) / (2 * step)
    solved = torch.isfinite(found) & torch.tensor(accepted)
    return float(((found - exact).abs() / exact.abs())[solved].median())


def _inner(a, b):
    """<a, b> of each item (B,)."""
    return sum((u * v).reshape(len(u), -1).sum(1) for u, v in zip(a, b, strict=True))


def main(options):
    """Measure all parts, each in a process of its own: thread pools disturb each other, and a crash is a line."""
    print(machine(), flush=True)
    flags = [f"--rounds={options.rounds}", f"--seconds={options.seconds}"]
    rows = []
    for k, B in parts(options.quick, options.only):
        command = [sys.executable, __file__, *flags, "--part", str(k), str(B)]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        records = [json.loads(line[1:]) for line in run.stdout.splitlines() if line.startswith("\t")]
        if run.returncode:
            print(f"{CASES[k].name}, B = {B}: the process ended with code {run.returncode}", flush=True)
        rows.append(Row(CASES[k].name, B, records, CASES[k].goals.get(B)))
        for r in records:
            print(f"{CASES[k].name}, B = {B}: {r['name']}: {r.get('reason') or cell(r)}", flush=True)
    print("\n" + table(rows))
    if options.docs:
        figure(rows, DOCS / "figures" / "layers.png")
        write_section("layers", table(rows))


def part(k, B, rounds, seconds):
    """Print the records of one part, each after a tab: packages print as well."""
    warnings.simplefilter("ignore")
    for record in measured(CASES[k], B, rounds, seconds):
        print("\t" + json.dumps(record), flush=True)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--docs", action="store_true", help="write the table and the figure into docs/")
    given = options.parse_args()
    given.rounds, given.seconds = limits(given)
    if given.part:
        part(*given.part, given.rounds, given.seconds)
    else:
        main(given)
