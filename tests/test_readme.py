"""Every code block of the README and of the guides runs, in order, in one session for each; their links lead somewhere.

A `text` block after a python block is what that one prints, numbers to the third digit.
"""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import cvxlayers.info
import cvxlayers.ladder
from cvxlayers.solvers import SOLVERS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", CONTRIBUTING, *DOCS]
NUMBER = re.compile(r"[-+]?\b\d+\.?\d*(?:e[-+]?\d+)?")


@pytest.fixture(autouse=True)
def _default_dtype():
    dtype = torch.get_default_dtype()
    with np.printoptions():
        yield
    torch.set_default_dtype(dtype)
    torch.set_printoptions(profile="default")


def blocks(text):
    return re.findall(r"```(\w+)\n(.*?)```", text, re.S)


def run(path, after=lambda session: None):
    """What the blocks leave behind. after: called with that after each of them."""
    session, parts = {}, blocks(path.read_text())
    for (language, code), (following, shown) in zip(parts, [*parts[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, path.name, "exec"), session)
            if following == "text":
                assert alike(printed.getvalue(), shown), f"prints\n{printed.getvalue()}and not\n{shown}"
            else:
                print(printed.getvalue(), end="")
            after(session)
    return session


def alike(a, b):
    a, b = (
        re.sub(r"\[ +", "[", re.sub(r"-(0\.0*)(?!\d)", r"\1", text)) for text in (a, b)
    )  # rounding decides on the sign of 0
    words = [NUMBER.sub("0", text).split() for text in (a, b)]
    numbers = [np.array(NUMBER.findall(text), float) for text in (a, b)]
    return words[0] == words[1] and np.allclose(*numbers, atol=1e-3)


def test_alike():
    assert alike("x 0.500 -0.000\n", "x  0.5001 0.000")
    assert not alike("x 0.5", "x 0.6") and not alike("x 0.5", "y 0.5") and not alike("1 2", "1")


def test_python_blocks(capsys):
    session = run(ROOT / "README.md")
    promised = re.findall(r"print\(\w[\w.]*\)\s+# (.*)", TEXT)
    assert capsys.readouterr().out.splitlines() == promised and len(promised) == 2
    assert session["probabilities"].shape == (8, 4)
    assert session["price"].shape == () and session["H"].shape == (4, 4)
    assert session["gradients"].shape == session["gradient"].shape == (8, 4)
    assert session["blocks"][1].tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    "command",
    [
        line.split("#")[0].split()
        for k, code in blocks(TEXT + CONTRIBUTING.read_text())
        if k == "bash"
        for line in code.splitlines()
    ],
)
def test_commands_exist(command):
    assert command[0] == "make"
    subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_custom_layers():
    session = run(ROOT / "docs" / "custom_layers.md")
    assert session["x"].tolist() == [[1.0, 2.5, 2.5, 4.0]]
    assert session["jacobian"].tolist() == [[[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]]
    assert session["gradient"].tolist() == [[0, 0.5, 0.5, 0]]
    assert np.allclose(session["hessian"], np.diag([-12 / 13**3, 6 / 4**3, 0]), atol=1e-6)  # the roots are 2, -1, 0


def test_frameworks():
    model = run(ROOT / "docs" / "frameworks.md")["model"]
    assert np.allclose(model.predict(np.ones((5, 2)), verbose=0).sum(1), 1, atol=1e-5)


def test_degenerate(capsys):
    session = run(ROOT / "docs" / "degenerate.md")
    assert capsys.readouterr().out.strip() == "tensor([False,  True])"
    assert all(str(session[kind]._handle.map.derivative).startswith(kind) for kind in ("smoothed", "lpgd"))


def test_dpp(capsys):
    path = ROOT / "docs" / "dpp.md"
    session = run(path)
    assert np.allclose(session["solution"], [0.6, 0.8], atol=1e-9)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == re.findall(r"^# (.* -> .*)$", path.read_text(), re.M)
    assert "compute lambda_max(S) before the call" in printed[-1]


def test_layers():
    session = run(ROOT / "docs" / "layers.md")
    assert np.allclose(session["sparse"].detach(), [[0, 0, 1], [1 / 3] * 3]) and np.allclose(session["two"].sum(1).detach(), 2)
    assert np.allclose(session["capped"].detach(), [0.3, 0.4, 0.3])
    assert np.allclose(session["ranks"], [3.875, 1, 4.875, 5.875, 3.375, 2])
    assert session["samples"].shape == (3, 4, 5, 5) and session["plan"].shape == (3, 4) and session["radius"].grad > 0
    assert np.allclose(session["on_plane"] @ session["A"][0], 1) and (session["on_plane"] >= -1e-12).all()
    assert np.allclose(session["z"], session["same"]) and np.allclose(session["z"], (-session["p"]).clip(0))
    assert np.allclose(session["w"], [1, 0]) and session["logits"].shape == (5, 2)


def test_migrating():
    session = run(ROOT / "docs" / "migrating.md")
    assert np.allclose(session["solution"].detach(), [0, 1]), "the normal equations are 2 x1 + x2 = 1, x1 + 2 x2 = 2"
    assert np.allclose(session["z"], [[1, 1], [-1, 1]]) and np.allclose(session["same"], session["z"])
    assert np.allclose([session[name].sum() for name in ("soft", "distribution", "chosen")], [2, 1, 2])
    assert np.allclose(session["x_star"], [0, 1]) and np.allclose(session["y"], [3, 0, 2])
    assert np.allclose(session["dx"], [-1, 2]) and np.allclose(session["db"], [0, 0, 1])  # x = (-b1, b1 + b3) near b
    assert np.allclose(session["primal"], [1, 0]) and np.allclose(session["dual"], 1)
    assert np.allclose(session["sensitivity"], [[-0.5, 0.5], [0.5, -0.5]], atol=1e-6)


def test_custom_solvers(monkeypatch):
    """With the solver of the guide in place, as it is when its file stands in the folder."""
    rungs = (*cvxlayers.info.RUNGS, "highs", "highs (tight)")

    def install(session):
        monkeypatch.setitem(SOLVERS, "highs", session["Highs"])
        for module in (cvxlayers.info, cvxlayers.ladder):
            monkeypatch.setattr(module, "RUNGS", rungs)

    run(ROOT / "docs" / "custom_solvers.md", after=install)


TESTED = {name.removeprefix("test_") for name in list(globals()) if name.startswith("test_")}


@pytest.mark.parametrize(
    "path", [p for p in DOCS if p.stem not in TESTED and "```python" in p.read_text()], ids=lambda p: p.stem
)
def test_guides(path):
    run(path)


def _links():
    for path in PAGES:
        for link in re.findall(r"\]\((?!http)([^)]+)\)", path.read_text()):
            yield path.parent / link.partition("#")[0]
    for link in re.findall(r"`((?:benchmarks|examples)/\w+\.py)`", TEXT):
        yield ROOT / link


@pytest.mark.parametrize("path", list(_links()), ids=lambda p: str(p.relative_to(ROOT)))
def test_links(path):
    assert path.exists()
