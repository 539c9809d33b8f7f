"""The ready-made layers against what people use for the same today: the scripts below, each in a process of its own.

With --docs, the tables and the figure go to docs/. Run: python benchmarks/ready_made.py [--quick] [--docs]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cases import DOCS, limits, machine, parser, write_section
from report import figure, rows_of, table

SCRIPTS = ("selection", "sorting", "transport", "qp_layer")


def main(options):
    """Run all, print, and write the page if asked to."""
    rounds, seconds = limits(options)
    flags = [f"--rounds={rounds}", f"--seconds={seconds}", "--json", *(["--quick"] if options.quick else [])]
    print(machine(), flush=True)
    rows, tables = [], []
    for name in SCRIPTS:
        command = [sys.executable, Path(__file__).with_name(f"{name}.py"), *flags]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = rows_of(run.stdout)
        tables.append(table(found))
        print(f"\n{tables[-1]}", flush=True)
        if run.returncode:
            print(f"{name}: the process ended with code {run.returncode}", flush=True)
        rows += found
    if options.docs:
        figure(rows, DOCS / "figures" / "ready_made.png")
        write_section("ready-made", "\n\n".join(tables))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--docs", action="store_true", help="write the tables and the figure into docs/")
    main(options.parse_args())
