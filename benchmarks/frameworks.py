"""What each framework adds to the NumPy core, and what second derivatives cost; float64, milliseconds.

Part 1, the dense QP of `single_call.py`, n = m = 10: the core's forward and vjp by themselves; forward, and forward with
gradient, in torch, in JAX under jit and eager, and in TensorFlow under tf.function; for one item and for 128, in JAX by
vmap. The peer is cvxpylayers' JAX layer, if it is installed; it runs eagerly, since it does not run under jit with its
default solver.

Part 2: a gradient and a Hessian-vector product, both with their forward solve, at growing n.

Each framework has a process of its own (their thread pools disturb each other), in which all entries of a row run in turn
(A B A B ...), the core among them; medians count. Run: python benchmarks/frameworks.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from functools import partial

import cvxpy as cp
import numpy as np
from single_call import data, problem

from cvxlayers.layer import ConeLayer

WEIGHTS = np.random.default_rng(0).standard_normal(10)


def rounds(entries, repeat):
    """Median milliseconds of each function, all of them in turn."""
    times = {name: [] for name in entries}
    for k in range(repeat + 2):
        for name, function in entries.items():
            start = time.perf_counter()
            function()
            if k > 1:
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(t)) for name, t in times.items()}


def in_torch(parts, values):
    """(forward, forward and gradient) of a layer as functions without arguments."""
    import torch

    from cvxlayers.torch import CvxpyLayer

    layer, leaves, w = CvxpyLayer(*parts), [torch.tensor(v, requires_grad=True) for v in values], torch.tensor(WEIGHTS)
    plain = [v.detach() for v in leaves]
    return lambda: layer(*plain), lambda: torch.autograd.grad((layer(*leaves)[0] * w).sum(), leaves)


def in_jax(parts, values, eager=False):
    """The same under jit or eager, a batch by vmap."""
    import jax
    import jax.numpy as jnp

    from cvxlayers.jax import CvxpyLayer

    jax.config.update("jax_enable_x64", True)
    layer, device, compiler = CvxpyLayer(*parts), [jnp.asarray(v) for v in values], (lambda f: f) if eager else jax.jit
    solve = (lambda *v: layer(*v)[0]) if values[1].ndim == 1 else jax.vmap(lambda *v: layer(*v)[0])
    forward, gradient = compiler(solve), compiler(jax.grad(lambda *v: jnp.sum(solve(*v) * WEIGHTS), (0, 1, 2, 3)))
    return lambda: jax.block_until_ready(forward(*device)), lambda: jax.block_until_ready(gradient(*device))


def in_tensorflow(parts, values):
    """The same in tf.function."""
    import tensorflow as tf

    from cvxlayers.tensorflow import CvxpyLayer

    layer, tensors = CvxpyLayer(*parts), [tf.constant(v) for v in values]

    @tf.function
    def gradient(*values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(layer(*values)[0] * WEIGHTS)
        return tape.gradient(loss, values)

    forward = tf.function(lambda *values: layer(*values)[0])
    return lambda: forward(*tensors), lambda: gradient(*tensors)


def in_peer(parts, values):
    """The same with cvxpylayers' JAX layer, eager."""
    import jax
    import jax.numpy as jnp
    from cvxpylayers.jax import CvxpyLayer

    jax.config.update("jax_enable_x64", True)
    layer, device = CvxpyLayer(*parts), [jnp.asarray(v) for v in values]
    gradient = jax.grad(lambda *v: jnp.sum(layer(*v)[0] * WEIGHTS), (0, 1, 2, 3))
    return lambda: jax.block_until_ready(layer(*device)), lambda: jax.block_until_ready(gradient(*device))


FRAMEWORKS = {
    "torch": in_torch,
    "JAX, jit": in_jax,
    "JAX, eager": partial(in_jax, eager=True),
    "TensorFlow, tf.function": in_tensorflow,
    "cvxpylayers, JAX eager": in_peer,
}


def part1(name):
    """Rows of one framework."""
    core = ConeLayer(*problem())
    for B, repeat in ((1, 400), (128, 40)):
        values = [v.detach().numpy() for v in data(B)]
        flat = [v.reshape(B, -1) for v in values]
        (z,), saved = core.forward(*flat)
        c = np.broadcast_to(WEIGHTS, z.shape)
        forward, gradient = FRAMEWORKS[name](problem(), values)
        entries = {"core": partial(core.forward, *flat), "vjp": partial(core.vjp, saved, c), "f": forward, "g": gradient}
        t = rounds(entries, 8 if name.startswith("cvxpylayers") else repeat)
        both = t["core"] + t["vjp"]
        print(f"{name:25s} {B:4d} {t['core']:8.2f} {both:8.2f} {t['f']:10.2f} {t['g']:8.2f} ", end="")
        print(f"{t['f'] - t['core']:9.2f} {t['g'] - both:8.2f}", flush=True)


def socp(n):
    """A random SOCP whose q, A and b are parameters: n variables, two cones of n / 2 rows and n / 4 inequalities."""
    rng, k = np.random.default_rng(0), n // 2
    q, A, b = cp.Parameter(n), cp.Parameter((2 * k, n)), cp.Parameter(n // 4)
    G, x = rng.standard_normal((n // 4, n)), cp.Variable(n)
    s = A @ x
    constraints = [cp.norm(s[:k]) <= 1, cp.norm(s[k:]) <= x[0] + 2, G @ x <= b]
    values = [rng.standard_normal(n), rng.standard_normal((2 * k, n)) / np.sqrt(n), rng.random(n // 4)]
    return (cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), constraints), [q, A, b], [x]), values


def second_in_torch(parts, values, t):
    """(gradient, Hessian-vector product along t) of a sum of sines of the solution."""
    import torch

    from cvxlayers.torch import CvxpyLayer

    layer, leaves, t = CvxpyLayer(*parts), [torch.tensor(v, requires_grad=True) for v in values], [torch.tensor(d) for d in t]

    def gradient(create_graph=False):
        return torch.autograd.grad(torch.sin(layer(*leaves)[0]).sum(), leaves, create_graph=create_graph)

    def hvp():
        return torch.autograd.grad(sum((g * d).sum() for g, d in zip(gradient(True), t, strict=True)), leaves)

    return gradient, hvp


def second_in_jax(parts, values, t):
    """The same under jit, forward over reverse."""
    import jax
    import jax.numpy as jnp

    from cvxlayers.jax import CvxpyLayer

    jax.config.update("jax_enable_x64", True)
    layer, device, t = CvxpyLayer(*parts), tuple(map(jnp.asarray, values)), tuple(map(jnp.asarray, t))
    grad = jax.grad(lambda *v: jnp.sum(jnp.sin(layer(*v)[0])), (0, 1, 2))
    gradient, hvp = jax.jit(grad), jax.jit(lambda v, t: jax.jvp(grad, v, t)[1])
    return lambda: jax.block_until_ready(gradient(*device)), lambda: jax.block_until_ready(hvp(device, t))


def second_in_tensorflow(parts, values, t):
    """The same in tf.function, tape over tape."""
    import tensorflow as tf

    from cvxlayers.tensorflow import CvxpyLayer

    layer, tensors = CvxpyLayer(*parts), [tf.constant(v) for v in values]

    @tf.function
    def gradient(*values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(tf.sin(layer(*values)[0]))
        return tape.gradient(loss, values)

    @tf.function
    def hvp(*values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            product = sum(tf.reduce_sum(g * d) for g, d in zip(gradient(*values), t, strict=True))
        return tape.gradient(product, values)

    return lambda: gradient(*tensors), lambda: hvp(*tensors)


SECOND = {"torch": second_in_torch, "JAX, jit": second_in_jax, "TensorFlow, tf.function": second_in_tensorflow}


def part2(name):
    """Rows of one framework."""
    for n in (10, 60, 100, 200):
        parts, values = socp(n)
        rng = np.random.default_rng(1)
        gradient, hvp = SECOND[name](parts, values, [rng.standard_normal(v.shape) for v in values])
        t = rounds({"gradient": gradient, "hvp": hvp}, 15)
        ratio = t["hvp"] / t["gradient"]
        print(f"{f'SOCP, n = {n}: {name}':40s} {t['gradient']:9.2f} {t['hvp']:9.2f} {ratio:7.2f}", flush=True)


def run(*args):
    """This script in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, __file__, *args], check=True, env=environment, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"1": part1, "2": part2}[sys.argv[1]](sys.argv[2])
        sys.exit()
    print(
        f"{'dense QP, n = m = 10':25s} {'B':>4s} {'core':>8s} {'+ vjp':>8s} {'framework':>10s} {'+ grad':>8s} {'overhead':>10s}"
    )
    for framework in FRAMEWORKS:
        if framework.startswith("cvxpylayers") and not importlib.util.find_spec("cvxpylayers"):
            print("cvxpylayers is not installed (pip install cvxpylayers): no peer to compare with")
        else:
            run("1", framework)
    print(f"\n{'with their forward solves':40s} {'gradient':>9s} {'HVP':>9s} {'ratio':>7s}")
    for framework in SECOND:
        run("2", framework)
