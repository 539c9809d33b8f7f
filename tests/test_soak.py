"""Tens of thousands of calls: memory stays flat. `make soak`; minutes, so `make test` leaves it out.

Measured is the resident memory of a fresh process: after warm-up, when all caches are as full as they get, and at the end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = 5000
GROWTH = 16.0  # MB: what allocators still take after warm-up; 3 kB for each call

COMMON = """
import gc, os, sys
import cvxpy as cp, numpy as np
from cvxlayers import SolverError

def resident():
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

b, x = cp.Parameter(4), cp.Variable(4)
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0, cp.sum(x) <= b[0] + 1, cp.norm(x) <= 2])
rng = np.random.default_rng(0)

def value(k):
    "Batches of 1 to 9 items; every seventh call has an item that is infeasible, b[0] < -1."
    v = rng.random((1 + k % 9, 4))
    if k % 7 == 0:
        v[-1, 0] = -3.0
    return v

def options(k):
    "Every fifth call has options of its own: 40 different ones, more than are kept."
    return {"solver_args": {"max_iter": 100 + k % 200}} if k % 5 == 0 else {}

def soak(step, calls):
    failed = 0
    for k in range(2000):  # the period of `value` and `options` is 1800 calls
        failed += step(k)
    before = resident()
    for k in range(calls):
        failed += step(k)
    after = resident()
    assert failed >= calls // 7, failed
    print(before, after)
"""

STEPS = {
    "torch": """
import torch
from cvxlayers.torch import CvxpyLayer
layer = CvxpyLayer(problem, [b], [x])

def step(k):
    v = torch.tensor(value(k), requires_grad=True)
    try:
        layer(v, **options(k))[0].sum().backward()
    except SolverError:
        outputs = layer(v, on_error="nan", **options(k))
        outputs[0].nansum().backward()
        assert v.grad.isfinite().all()
        return True
    return False
""",
    "jax": """
import jax
from cvxlayers.jax import CvxpyLayer
jax.config.update("jax_enable_x64", True)
layer = CvxpyLayer(problem, [b], [x])

def step(k):
    v = value(k)
    try:
        jax.grad(lambda v: layer(v, **options(k))[0].sum())(jax.numpy.asarray(v))
    except SolverError:
        return True
    return False
""",
    "jax-jit": """
import jax, jax.numpy as jnp, logging
from cvxlayers.jax import CvxpyLayer
jax.config.update("jax_enable_x64", True)
logging.disable(logging.CRITICAL)  # JAX logs the traceback of every callback that raises
layer = CvxpyLayer(problem, [b], [x])
gradient = jax.jit(jax.grad(lambda v: layer(v)[0].sum()))
tolerant = jax.jit(jax.grad(lambda v: jnp.nansum(layer(v, on_error="nan")[0])))

def step(k):
    v = value(k)
    try:
        jax.block_until_ready(gradient(v))
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter where the result is waited for
        assert "infeasible" in str(error)
        assert np.isfinite(tolerant(v)).all()
        return True
    return False
""",
    "tensorflow": """
import tensorflow as tf
from cvxlayers.tensorflow import CvxpyLayer
layer = CvxpyLayer(problem, [b], [x])

@tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float64)])
def compiled(v):
    with tf.GradientTape() as tape:
        tape.watch(v)
        loss = tf.reduce_sum(layer(v)[0])
    return tape.gradient(loss, v)

def eager(v, k):
    with tf.GradientTape() as tape:
        tape.watch(v)
        loss = tf.reduce_sum(layer(v, **options(k))[0])
    return tape.gradient(loss, v)

def step(k):
    v = tf.constant(value(k))
    try:
        compiled(v) if k % 2 else eager(v, k)
    except (SolverError, tf.errors.OpError):
        return True
    return False
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("name", STEPS)
def test_memory_is_flat(name):
    code = COMMON + STEPS[name] + f"\nsoak(step, {CALLS})\n"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr[-3000:]
    before, after = map(float, found.stdout.split())
    print(f"{name}: {before:.1f} MB after warm-up, {after:.1f} MB after {CALLS} more calls")
    assert after - before <= GROWTH
