"""The examples run."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart(tmp_path):
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package, reason="the examples need matplotlib, scikit-learn and tqdm")
    figure = tmp_path / "figure.png"
    command = [sys.executable, EXAMPLES / "quickstart.py", "--quick", "--figure", figure]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "learned QP" in out
    assert figure.stat().st_size > 10_000
