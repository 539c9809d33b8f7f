"""What show_config prints."""

import os
import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers import native


def test_it_names_versions_solvers_and_frameworks(capsys):
    cvxlayers.show_config()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("native engine", "engine").splitlines())
    assert lines["cvxlayers"] == cvxlayers.__version__
    assert "clarabel" in lines["solvers"] and "torch" in lines["frameworks"]
    assert int(lines["threads"].split(",")[0]) >= 1
    assert lines["engine"].startswith(native.builds()[0] if native.available() else "none (not built")


def test_a_build_that_there_is_not_is_an_error(monkeypatch):
    if not native.available():
        pytest.skip("the native engine has not been built")
    monkeypatch.setenv("CVXLAYERS_ENGINE", "v9_9")
    x, b = cp.Variable(2), cp.Parameter(2)
    layer = cvxlayers.ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
    with pytest.raises(cvxlayers.ProblemError, match="CVXLAYERS_ENGINE is 'v9_9'; expected off, or a build that runs here: v"):
        layer.forward(np.array([[1.0, -1.0]]))


@pytest.mark.parametrize(("engine", "says"), [("off", "none (switched off"), ("v2_2", "v2_2 (CVXLAYERS_ENGINE)")])
def test_the_environment_chooses_the_engine(engine, says):
    if engine != "off" and engine not in native.builds():
        pytest.skip(f"this installation has no build {engine} of the native engine")
    environment = {**os.environ, "CVXLAYERS_ENGINE": engine, "CVXLAYERS_NUM_THREADS": "3"}
    code = "import cvxlayers; cvxlayers.show_config()"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    engine_line, threads = run.stdout.splitlines()[1:3]
    assert says in engine_line and threads.split()[1] == "3,"
