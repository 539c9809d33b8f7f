"""Tables and figures of what takes how long, and how exact it is.

A record is what a benchmark says of one contestant on one problem: {"name", "times": (forward, backward) in ms, backward None
where there is none, "errors": (of the result, of the gradient), not there for what does something simpler,
"refused": items without an answer}, or {"name", "reason"} of a contestant that failed.
"""

from __future__ import annotations

import json
import warnings
from typing import NamedTuple

import torch
from cases import CORES, Entry, in_turn, limits, machine, parser

OURS, EXACT = "cvxlayers", 1e-6


class Row(NamedTuple):
    """The records of one problem, with a batch of B. goal: forward + backward in ms; drawn: whether figures show it."""

    title: str
    B: int
    records: list
    goal: float | None = None
    drawn: bool = True

    def named(self):
        """{name: record}."""
        return {r["name"]: r for r in self.records}

    def fastest(self):
        """The least forward + backward of what gives a result."""
        return min((sum(r["times"]) for r in self.records if r.get("errors") and None not in r["times"]), default=0)


def columns(rows):
    """All names, ours first."""
    return sorted(dict.fromkeys(r["name"] for row in rows for r in row.records), key=lambda name: name != OURS)


def table(rows):
    """Markdown: a row for each problem, a column for each contestant that has a number. The fastest one is bold."""
    names = columns(rows)
    goals = any(row.goal for row in rows)
    head = ["problem", "B", *(["goal"] if goals else []), *names]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        found, goal = row.named(), [f"{row.goal:g}" if row.goal else ""] if goals else []
        cells = [cell(found.get(name), row.fastest()) for name in names]
        lines.append(f"| {' | '.join([row.title, str(row.B), *goal, *cells])} |")
    return "\n".join(lines)


def cell(record, fastest=None):
    """A record in words."""
    if record is None:
        return ""
    if "reason" in record:
        return "not DPP" if "DPP" in record["reason"] else record["reason"].split(":")[0]
    text = " + ".join(f"{t:.3g}" for t in record["times"] if t is not None)
    if None not in record["times"] and sum(record["times"]) == fastest:
        text = f"**{text}**"
    said = [f"{e:.0e}" for e in record.get("errors", ()) if e is not None]
    if record.get("refused"):
        said.append(f"{record['refused']} refused")
    return f"{text} ({', '.join(said)})" if said else text


def figure(rows, path):
    """Times of all, a line for each problem; hollow where the gradient is wrong by more than `EXACT`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.drawn and row.fastest()][::-1]
    fig, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.8), layout="constrained")
    for k, name in enumerate(columns(rows)):
        color, own = f"C{k % 10}", name == OURS
        marker = "D" if own else "o" if k < 10 else "s"
        for height, row in enumerate(rows):
            record = row.named().get(name, {})
            if None in record.get("times", [None]):
                continue
            if "errors" not in record:
                axes.plot(sum(record["times"]), height, "|", color="0.5", ms=10)
                continue
            good = own or record["errors"][1] <= EXACT
            axes.plot(sum(record["times"]), height, marker, color=color, ms=7 if own else 6, mfc=color if good else "white")
        if any("errors" in row.named().get(name, {}) for row in rows):
            axes.plot([], [], marker, color=color, label=name)
    simpler = dict.fromkeys(r["name"] for row in rows for r in row.records if "times" in r and "errors" not in r)
    if simpler:
        axes.plot([], [], "|", color="0.5", ms=10, label=", ".join(simpler))
    axes.plot([], [], "o", color="gray", mfc="white", label=f"gradient off by more than {EXACT:.0e}")
    axes.set_yticks(range(len(rows)), [f"{row.title}, B = {row.B}" for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.set_xlabel(f"forward + backward of the batch, ms ({CORES} cores, float64)")
    axes.grid(axis="both", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    fig.savefig(path, dpi=130)


def functions_in_turn(functions, x, gx, errors, options):
    """Records of functions of one tensor, {name: function}. errors(y, g): those of the result and of the gradient, in NumPy;
    what is torch's own does something simpler, and has none."""
    results = in_turn([_entry(*item, x) for item in functions.items()], gx, options.rounds, options.seconds)
    for entry, (forward, backward, y, g) in results.items():
        record = {"name": entry.name, "times": (min(forward), min(backward))}
        yield record if entry.name.startswith("torch.") else {**record, "errors": errors(y, g)}


def _entry(name, function, x):
    last = []

    def forward():
        last[:] = [function(x)]
        return last[0].detach().numpy()

    return Entry(name, CORES, forward, lambda gx: torch.autograd.grad(last[0], x, gx)[0].numpy())


def run(doc, rows):
    """The program of a script: print rows(options) as they come; with --json, for a parent, as lines after a tab."""
    given = parser(doc)
    given.add_argument("--json", action="store_true", help="rows for another program")
    options = given.parse_args()
    options.rounds, options.seconds = limits(options)
    warnings.simplefilter("ignore")
    print(machine(), flush=True)
    for row in rows(options):
        if options.json:
            print("\t" + json.dumps(row), flush=True)
            continue
        print(f"\n{row.title}, B = {row.B}: forward + backward, ms (errors of the result and of the gradient)")
        for record in row.records:
            print(f"    {record['name']:20} {record.get('reason') or cell(record)}", flush=True)


def rows_of(printed):
    """The rows in what a script has printed with --json."""
    return [Row(*json.loads(line[1:])) for line in printed.splitlines() if line.startswith("\t")]
