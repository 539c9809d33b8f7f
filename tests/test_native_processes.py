"""The native engine in other processes: forks, new interpreters, its switch in the environment, no compiler; and its memory."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvxlayers import native
from cvxlayers.layer import ConeLayer

from .problems import CASES
from .support import flat

ROOT = Path(__file__).parents[1]
TIME = 60  # seconds after which a process counts as hanging
GROWTH = 2.0  # MB that allocators still take after warm-up
needs_engine = pytest.mark.skipif(not native.available(), reason="the native engine has not been built")


def python(code, folder=ROOT, **environment):
    """What a new interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=TIME)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


FORK = """
import os, signal, sys, threading
import numpy as np
from tests.qps import FAMILIES

family = FAMILIES["dense"]
values, plan = family.batch(count=64)[2], family.plan()
right = np.ones((64, 1, family.n + family.m))

def results():
    found = plan.solve(*values, threads=2)
    return [*found, *plan.linear(values[0], values[2], found.y - found.s, right, threads=2)]

expected = results()  # the pool has threads now

def forked():
    "A child computes the same: it exits with 0."
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs is killed
        same = all(np.array_equal(a, b, equal_nan=True) for _ in range(3) for a, b in zip(results(), expected))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0

for _ in range(3):
    forked()
stop = threading.Event()

def work():
    while not stop.is_set():
        results()

threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
try:
    for _ in range(30):
        forked()
finally:
    stop.set()
    [t.join() for t in threads]
assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results(), expected))
print("done")
"""


@needs_engine
def test_forks():
    """After the pool has been used, and while other threads are solving."""
    assert python(FORK) == "done\n"


def case():
    """A QP layer, and values of a batch for it."""
    problem = CASES["qp"]()
    layer = ConeLayer(problem.problem, problem.parameters, problem.variables)
    return layer, [np.repeat(v, 5, 0) for v in flat(problem.values)]


def answers(layer, theta):
    """Solutions and gradients."""
    outputs, saved = layer.forward(*theta)
    return [*outputs, *layer.vjp(saved, *(np.ones_like(x) for x in outputs))]


LAYER = """
import sys
import numpy as np
from cvxlayers import native
from tests.test_native_processes import answers, case

np.savez(sys.stdout.buffer, native.available(), *answers(*case()))
"""


def elsewhere(tmp_path, **environment):
    """(whether there is an engine, answers) in a new interpreter."""
    path = tmp_path / "answers.npz"
    python(LAYER.replace("sys.stdout.buffer", repr(str(path))), **environment)
    with np.load(path) as found:
        return found["arr_0"], [found[f"arr_{k}"] for k in range(1, len(found.files))]


def test_without_the_engine_the_numbers_are_the_same(tmp_path):
    available, found = elsewhere(tmp_path, CVXLAYERS_ENGINE="off")
    assert not available
    for a, b in zip(found, answers(*case()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@needs_engine
@pytest.mark.parametrize("build", native.builds()[-1:])
def test_a_build_that_is_forced(tmp_path, build):
    available, found = elsewhere(tmp_path, CVXLAYERS_ENGINE=build)
    assert available
    for a, b in zip(found, answers(*case()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@needs_engine
def test_structures_travel_without_their_plans():
    layer, theta = case()
    expected = answers(layer, theta)
    assert layer.structure.engine is not None
    for other in (copy.deepcopy(layer.structure), pickle.loads(pickle.dumps(layer.structure))):
        assert "engine" not in vars(other) and other.engine is not None and other.engine is not layer.structure.engine
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(np.array_equal(a, b) for a, b in zip(answers(other, theta), expected, strict=True))


def test_without_a_compiler(tmp_path):
    """Installing succeeds, with a warning, and everything works."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("cvxlayers", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=TIME)
    assert found.returncode == 0, found.stderr
    assert "cvxlayers works without it" in found.stdout + found.stderr
    assert not list(tmp_path.rglob("*.so"))
    code = "from cvxlayers import native\nfrom tests.test_native_processes import answers, case\nanswers(*case())"
    assert python(code + "\nprint(native.available())", tmp_path) == "False\n"


SOAK = """
import gc, os
import numpy as np
from tests.qps import FAMILIES

calls = {calls}
families = [FAMILIES[name] for name in ("dense", "sparse", "simplex", "no rows")]
batches = [family.batch(count=13)[2] for family in families]
plans = [family.plan() for family in families]

def step(k):
    family, (P, q, A, b) = families[k % 4], batches[k % 4]
    plan, B = family.plan() if k % 10 == 0 else plans[k % 4], 1 + k % 13
    found = plan.solve(P[:B], q[:B], A[:B], b[:B], threads=1 + k % 3)
    plan.linear(P[:B], A[:B], found.y - found.s, np.ones((B, k % 5, family.n + family.m)))

def resident():
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

for k in range(calls // 4):
    step(k)
before = resident()
for k in range(calls):
    step(k)
print(before, resident())
"""


@needs_engine
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("calls", [2000, pytest.param(20000, marks=pytest.mark.slow)])
def test_memory_is_flat(calls):
    before, after = map(float, python(SOAK.format(calls=calls)).split())
    print(f"{before:.1f} MB after warm-up, {after:.1f} MB after {calls} more calls")
    assert after - before <= GROWTH
