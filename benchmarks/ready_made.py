"""The ready-made layers against what people use for the same today: the four scripts below, each in a process of its own.

With --docs, what they print goes to docs/benchmarks.md. Run: python benchmarks/ready_made.py [--quick] [--docs]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cases import limits, machine, parser, write_section

SCRIPTS = {
    "selection": "Soft selection",
    "sorting": "Soft sorting and ranking",
    "transport": "Sinkhorn's map at low temperature",
    "qp_layer": "Dense quadratic programs",
}


def printed(name, flags):
    """What a script prints, without what it says of the machine."""
    script = Path(__file__).with_name(f"{name}.py")
    run = subprocess.run([sys.executable, script, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = run.stdout.replace(machine() + "\n", "").strip()
    return lines + (f"\nthe process ended with code {run.returncode}" if run.returncode else "")


def main(options):
    """Run all, print, and write the page if asked to."""
    rounds, seconds = limits(options)
    flags = [f"--rounds={rounds}", f"--seconds={seconds}", *(["--quick"] if options.quick else [])]
    print(machine(), flush=True)
    parts = []
    for name, title in SCRIPTS.items():
        parts.append(f"### {title}\n\n`benchmarks/{name}.py` says what is measured.\n\n```text\n{printed(name, flags)}\n```")
        print(f"\n{parts[-1]}", flush=True)
    if options.docs:
        write_section("ready-made", "\n\n".join(parts))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--docs", action="store_true", help="write the results into docs/")
    main(options.parse_args())
