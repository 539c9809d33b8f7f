"""What each framework adds to the NumPy core, and what second derivatives cost; float64, milliseconds.

Part 1, the dense QP of `single_call.py`, n = m = 10: the core's forward and vjp by themselves; forward, and forward with
gradient, in torch, in JAX under jit and in TensorFlow under tf.function; for one item and for 128, in JAX by vmap. The peer
is cvxpylayers' JAX layer, if it is installed; it runs eagerly, since it does not run under jit with its default solver.

Part 2: a gradient and a Hessian-vector product, both with their forward solve, at growing n, in torch and JAX.

All entries of a row run in turn (A B A B ...), the median of the rounds counts. Run: python benchmarks/frameworks.py
"""

from __future__ import annotations

import importlib.util
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch
from single_call import data, problem

import cvxlayers.jax
import cvxlayers.tensorflow
import cvxlayers.torch

jax.config.update("jax_enable_x64", True)


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


def calls(layers, values):
    """(forward, forward and gradient) of every entry, by name."""
    arrays = [v.detach().numpy() for v in values]
    batched = arrays[1].ndim > 1
    core = layers["torch"]._handle.map
    flat = [a.reshape(len(a) if batched else 1, -1) for a in arrays]
    (z,), saved = core.forward(*flat)
    weights = np.random.default_rng(0).standard_normal(z.shape[-1])

    leaves = [v.detach().clone().requires_grad_() for v in values]
    w = torch.tensor(weights)
    forward, gradient = {}, {}
    forward["core"] = lambda: core.forward(*flat)
    gradient["core"] = lambda: core.vjp(core.forward(*flat)[1], np.broadcast_to(weights, z.shape))
    forward["torch"] = lambda: layers["torch"](*values)
    gradient["torch"] = lambda: torch.autograd.grad((layers["torch"](*leaves)[0] * w).sum(), leaves)

    device = [jnp.asarray(a) for a in arrays]

    def solve(*values):
        return layers["jax"](*values)[0]

    def loss(*values):
        return jnp.sum((jax.vmap(solve) if batched else solve)(*values) * weights)

    jit, jit_grad = jax.jit(jax.vmap(solve) if batched else solve), jax.jit(jax.grad(loss, (0, 1, 2, 3)))
    forward["JAX, jit"] = lambda: jax.block_until_ready(jit(*device))
    gradient["JAX, jit"] = lambda: jax.block_until_ready(jit_grad(*device))

    tensors = [tf.constant(a) for a in arrays]
    run = tf.function(lambda *values: layers["tensorflow"](*values)[0])

    @tf.function
    def run_grad(*values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(layers["tensorflow"](*values)[0] * weights)
        return tape.gradient(loss, values)

    forward["TensorFlow, tf.function"] = lambda: run(*tensors)
    gradient["TensorFlow, tf.function"] = lambda: run_grad(*tensors)

    if "peer" in layers:
        peer_grad = jax.grad(lambda *values: jnp.sum(layers["peer"](*values)[0] * weights), (0, 1, 2, 3))
        forward["cvxpylayers, JAX eager"] = lambda: jax.block_until_ready(layers["peer"](*device))
        gradient["cvxpylayers, JAX eager"] = lambda: jax.block_until_ready(peer_grad(*device))
    return forward, gradient


def part1():
    """The table of calls."""
    layers = {name: getattr(cvxlayers, name).CvxpyLayer(*problem()) for name in ("torch", "jax", "tensorflow")}
    if importlib.util.find_spec("cvxpylayers"):
        from cvxpylayers.jax import CvxpyLayer as Peer

        layers["peer"] = Peer(*problem())
    else:
        print("cvxpylayers is not installed (pip install cvxpylayers): no peer to compare with")
    print(f"{'dense QP, n = m = 10':28s} {'B':>4s} {'forward':>9s} {'+ gradient':>11s}   over the core")
    for B, repeat in ((1, 400), (128, 30)):
        forward, gradient = calls(layers, data(B))
        f, g = rounds(forward, repeat), rounds(gradient, repeat)
        for name in f:
            over = "" if name == "core" else f"   {f[name] - f['core']:+.2f} {g[name] - g['core']:+.2f}"
            print(f"{name:28s} {B:4d} {f[name]:9.2f} {g[name]:11.2f}{over}")


def socp(n):
    """A random SOCP whose q, A and b are parameters: n variables, two cones of n / 2 rows and n / 4 inequalities."""
    rng, k = np.random.default_rng(0), n // 2
    q, A, b = cp.Parameter(n), cp.Parameter((2 * k, n)), cp.Parameter(n // 4)
    G, x = rng.standard_normal((n // 4, n)), cp.Variable(n)
    s = A @ x
    constraints = [cp.norm(s[:k]) <= 1, cp.norm(s[k:]) <= x[0] + 2, G @ x <= b]
    values = [rng.standard_normal(n), rng.standard_normal((2 * k, n)) / np.sqrt(n), rng.random(n // 4)]
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), constraints), [q, A, b], [x], values


def part2():
    """Gradients and Hessian-vector products."""
    print(f"\n{'SOCP, all of q, A, b':28s} {'N':>4s} {'gradient':>9s} {'HVP':>11s}   ratio")
    for n in (10, 60, 100, 200):
        *parts, values = socp(n)
        ours, theirs = cvxlayers.torch.CvxpyLayer(*parts), cvxlayers.jax.CvxpyLayer(*parts)
        rng = np.random.default_rng(1)
        t = [rng.standard_normal(v.shape) for v in values]
        leaves = [torch.tensor(v, requires_grad=True) for v in values]

        def gradient(create_graph=False, ours=ours, leaves=leaves):
            return torch.autograd.grad(torch.sin(ours(*leaves)[0]).sum(), leaves, create_graph=create_graph)

        def hvp(leaves=leaves, t=t, gradient=gradient):
            product = sum((g * torch.tensor(d)).sum() for g, d in zip(gradient(True), t, strict=True))
            return torch.autograd.grad(product, leaves)

        grad = jax.grad(lambda *v, layer=theirs: jnp.sum(jnp.sin(layer(*v)[0])), (0, 1, 2))
        device, tangents = tuple(map(jnp.asarray, values)), tuple(map(jnp.asarray, t))
        jit_grad, jit_hvp = jax.jit(grad), jax.jit(lambda v, t, grad=grad: jax.jvp(grad, v, t)[1])
        entries = {
            "torch": gradient,
            "torch, HVP": hvp,
            "JAX, jit": lambda f=jit_grad, v=device: jax.block_until_ready(f(*v)),
            "JAX, jit, HVP": lambda f=jit_hvp, v=device, t=tangents: jax.block_until_ready(f(v, t)),
        }
        found = rounds(entries, 15)
        S = ours._handle.map.structure
        for name in ("torch", "JAX, jit"):
            g, h = found[name], found[f"{name}, HVP"]
            print(f"{f'n = {n}: {name}':28s} {S.n + S.m:4d} {g:9.2f} {h:11.2f}   {h / g:.2f}")


if __name__ == "__main__":
    part1()
    part2()
