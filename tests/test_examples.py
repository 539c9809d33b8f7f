"""The examples run."""

import importlib.util
import re
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


def test_degenerate_gradients(tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, EXAMPLES / "degenerate_gradients.py", "--steps", "12", "--lists", "40", "--figure", figure]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    right = {name: (float(a), float(b)) for name, a, b in re.findall(r"^(\w+): .* ([\d.]+) % -> ([\d.]+) %", out, re.M)}
    assert right["implicit"][0] == right["implicit"][1] < 30
    assert right["smoothed"][1] > 70 and right["lpgd"][1] > 70
    assert figure.stat().st_size > 10_000


def test_swap_frameworks(tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, EXAMPLES / "swap_frameworks.py", "--steps", "15", "--images", "60", "--figure", figure]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    out = run.stdout
    assert "oneDNN" not in run.stderr and "AVX" not in run.stderr  # TensorFlow on itself
    losses = re.findall(r"^(\w+) .*-> ([\d.]+)", out, re.M)
    assert [name for name, _ in losses] == ["PyTorch", "JAX", "TensorFlow"]
    assert len({loss for _, loss in losses}) == 1  # to twelve digits
    assert float(losses[0][1]) < 0.9
    assert figure.stat().st_size > 10_000


def test_distributed():
    command = [sys.executable, EXAMPLES / "distributed.py", "--items", "60", "--steps", "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    out = run.stdout  # the exit status says whether they agree
    assert "2 workers" in out
    if importlib.util.find_spec("ray"):
        assert "to the last bit: True" in out
