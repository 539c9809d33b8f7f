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

from cvxlayers.torch import CvxpyLayer

OURS, EXACT = "cvxlayers", 1e-6


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


def table(rows):
    """The records as Markdown: a row for each problem, a column for each layer that has a number."""
    names = list(dict.fromkeys(r["name"] for _, _, records in rows for r in records))
    lines = [f"| problem | B | goal | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    for case, B, records in rows:
        by_name = {r["name"]: r for r in records}
        fastest = min((sum(r["times"]) for r in records if "times" in r), default=0)
        goal = f"{case.goals[B]:g}" if B in case.goals else ""
        lines.append(f"| {case.name} | {B} | {goal} | {' | '.join(_cell(by_name.get(n), fastest) for n in names)} |")
    return "\n".join(lines)


def _cell(record, fastest):
    if record is None:
        return ""
    if "reason" in record:
        return "not DPP" if "DPP" in record["reason"] else record["reason"].split(":")[0]
    forward, backward = record["times"]
    text = f"{forward:.3g} + {backward:.3g}"
    text = f"**{text}**" if forward + backward == fastest else text
    more = f", {record['refused']} refused" if record["refused"] else ""
    return f"{text} ({record['errors'][0]:.0e}, {record['errors'][1]:.0e}{more})"


def figure(rows, path):
    """Times of all layers, a line for each problem; hollow where the gradient is wrong by more than `EXACT`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if any("times" in r for r in row[2])][::-1]
    names = list(dict.fromkeys(r["name"] for _, _, records in rows for r in records if "times" in r))
    names = [OURS, *(n for n in names if n != OURS)]
    fig, axes = plt.subplots(figsize=(8, 0.33 * len(rows) + 1.6), layout="constrained")
    for k, name in enumerate(names):
        for height, (_, _, records) in enumerate(rows):
            for r in records:
                if r["name"] == name and "times" in r:
                    good = name == OURS or r["errors"][1] <= EXACT
                    axes.plot(
                        sum(r["times"]), height, "D" if name == OURS else "o", color=f"C{k}", ms=7 if name == OURS else 6,
                        mfc=f"C{k}" if good else "white", zorder=3,
                    )  # fmt: skip
        axes.plot([], [], "D" if name == OURS else "o", color=f"C{k}", label=name)
    axes.plot([], [], "o", color="gray", mfc="white", label=f"gradient off by more than {EXACT:.0e}")
    axes.set_yticks(range(len(rows)), [f"{case.name}, B = {B}" for case, B, _ in rows])
    axes.set_xscale("log")
    axes.set_xlabel(f"forward + backward of the batch, ms ({CORES} cores, float64)")
    axes.grid(axis="both", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    fig.savefig(path, dpi=130)


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
        rows.append((CASES[k], B, records))
        for r in records:
            print(f"{CASES[k].name}, B = {B}: {r['name']}: {r.get('reason') or _cell(r, None)}", flush=True)
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
