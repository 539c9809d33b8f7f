"""The talk, examples/talk: each part runs, quietly, which is the check of what it says; and no slide is forgotten."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TALK = ROOT / "examples" / "talk"
PARTS = sorted(TALK.glob("[1-9]*.py"))
SLIDES = """
Differentiable optimization-based modeling for machine learning
Can we throw big neural networks at every problem?
Optimization-based modeling for machine learning
Why optimization-based modeling?
Optimization layers model hard constraints
This talk: differentiable optimization-based models
Convex optimization is expressive
The ReLU is a convex optimization layer
The sigmoid is a convex optimization layer
The soft-argmax is a convex optimization layer
How can we generalize this?
The Implicit Function Theorem
Implicitly differentiating a convex quadratic program
Background: cones and conic programs
Implicitly differentiating a conic program
Applications of differentiable convex optimization
From the softmax to soft/differentiable top-k
Differentiable permutations, sorting and SVMs
Optimization layers need to be carefully implemented
Why should practitioners care?
Differentiable convex optimization layers
A new way of rapidly prototyping optimization layers
Code example: OptNet QP
Code example: the sigmoid
Code example: constraint modeling
Connections to sensitivity and perturbation analysis
How do we handle non-convex optimization layers?
Should RL policies have a system dynamics model or not?
Model Predictive Control
Why model predictive control?
Model Predictive Control with SQP
Challenge: complex systems are difficult to model
Standard model-based control training pipeline
Standard model-based control training pipeline objective mismatch: dynamics unaware of reward
Potential solutions to objective mismatch
Differentiable Model Predictive Control
Differentiating LQR control is easy
Objective Mismatch: Optimizing the task loss is often better than SysID in the unrealizable case
Another control optimizer: the cross-entropy method
The Differentiable Cross-Entropy Method (DCEM)
DCEM can learn the solution space structure
DCEM fine-tunes highly non-convex controllers
Closing thoughts and future directions
""".strip().splitlines()


@pytest.mark.parametrize("part", PARTS, ids=lambda path: path.stem)
def test_part(part):
    pytest.importorskip("matplotlib", reason="the talk needs matplotlib")
    headless = {**os.environ, "MPLBACKEND": "agg", "DISPLAY": ":0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, part], env=headless, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr, "a user would have to ignore this"


def words(path):
    """The text: of a script, that of its markdown cells."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    cells = re.split(r"^# %%", text, flags=re.M)
    return "\n".join(re.sub(r"^# ?", "", cell, flags=re.M) for cell in cells if cell.startswith(" [markdown]"))


def headings(path):
    return re.findall(r"^##? (.+)$", words(path), re.M)


def test_slides():
    shown = [title for path in (TALK / "README.md", *PARTS) for title in headings(path)]
    _, _, after = words(TALK / "README.md").partition("## What does not exist yet")
    table, _, _ = after.partition("\n## ")
    missing = re.findall(r"^\| (.+?) \|", table, re.M)[1:]  # below the head
    assert missing
    assert set(missing) <= set(SLIDES)
    for slide in SLIDES:
        assert (shown + missing).count(slide) == 1, slide


def test_order():
    """The parts go through the slides as the talk does."""
    places = [SLIDES.index(title) for path in PARTS for title in headings(path) if title in SLIDES]
    assert places == sorted(places)


@pytest.mark.parametrize("path", [TALK / "README.md", *PARTS], ids=lambda path: path.stem)
def test_links(path):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", words(path)):
        name, _, place = target.partition("#")
        assert (TALK / name).exists(), target
        slugs = [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in headings(TALK / name)] if place else [""]
        assert place in slugs, target
