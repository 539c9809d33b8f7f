"""One layer, three frameworks: the same classifier trained in PyTorch, JAX and TensorFlow.

The probabilities of an image x are the Euclidean projection of linear scores on the simplex (sparsemax): most are zero.

    p*(z) = argmin_p  |p - z|^2   subject to  p >= 0,  sum(p) = 1,         z = x W

W is trained by gradient descent on the squared distance of p* to the label, from the same start on the same digits. What
the frameworks compute agrees to rounding: the loss curves lie on each other.

Try next: `jax.vmap` in place of the batch, another problem in place of the projection, `torch.compile`.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="1", TF_ENABLE_ONEDNN_OPTS="0")  # else TensorFlow speaks of itself, oneDNN at any level

import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import torch
from sklearn.datasets import load_digits

import cvxlayers.jax
import cvxlayers.tensorflow
import cvxlayers.torch

FIGURE = Path(__file__).resolve().parent / "figures" / "swap_frameworks.png"
RATE = 2.0
STYLES = {"PyTorch": ("#ee4c2c", 7, "-"), "JAX": ("#f2b705", 3.5, "-"), "TensorFlow": ("#1d3557", 1.2, "--")}

jax.config.update("jax_enable_x64", True)  # 64-bit numbers, as in the other two


def sparsemax():
    """The problem, its parameters and its variables."""
    z, p = cp.Parameter(10), cp.Variable(10)
    return cp.Problem(cp.Minimize(cp.sum_squares(p - z)), [p >= 0, cp.sum(p) == 1]), [z], [p]


def train_torch(x, labels, steps):
    """Losses of every step, and the last probabilities."""
    layer = cvxlayers.torch.CvxpyLayer(*sparsemax())
    x, labels = torch.tensor(x), torch.tensor(labels)
    W, losses = torch.zeros(64, 10, dtype=x.dtype, requires_grad=True), []
    for _ in range(steps):
        (p,) = layer(x @ W)
        loss = ((p - labels) ** 2).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, W)
        W = (W - RATE * gradient).detach().requires_grad_()
        losses.append(loss.item())
    return losses, p.detach().numpy()


def train_jax(x, labels, steps):
    """Losses of every step, and the last probabilities."""
    layer = cvxlayers.jax.CvxpyLayer(*sparsemax())

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(W):
        (p,) = layer(x @ W)
        return ((p - labels) ** 2).sum(1).mean()

    W, losses = jnp.zeros((64, 10)), []
    for _ in range(steps):
        loss, gradient = value_and_gradient(W)
        last, W = W, W - RATE * gradient
        losses.append(float(loss))
    return losses, np.asarray(layer(x @ last)[0])


def train_tensorflow(x, labels, steps):
    """Losses of every step, and the last probabilities."""
    layer = cvxlayers.tensorflow.CvxpyLayer(*sparsemax())
    W, losses = tf.Variable(tf.zeros((64, 10), tf.float64)), []

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            (p,) = layer(x @ W)
            loss = tf.reduce_mean(tf.reduce_sum((p - labels) ** 2, 1))
        W.assign_sub(RATE * tape.gradient(loss, W))
        return loss, p

    for _ in range(steps):
        loss, p = step()
        losses.append(float(loss))
    return losses, p.numpy()


def draw(curves, path):
    """The loss curves, and how far they are from torch's."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, losses in curves.items():
        color, width, dashes = STYLES[name]
        left.plot(losses, color=color, linewidth=width, linestyle=dashes, label=name, solid_capstyle="round")
        if name != "PyTorch":
            gap = np.abs(np.array(losses) - curves["PyTorch"])
            right.semilogy(np.maximum(gap, 1e-18), color=color, linewidth=1.8, label=f"|{name} - PyTorch|")
    right.axhline(np.finfo(float).eps, color="#8a8a8a", linewidth=1, linestyle=":", label="machine epsilon")
    left.set(title="training loss", xlabel="step of gradient descent", ylabel="squared distance to the label")
    right.set(title="distance between the curves", xlabel="step of gradient descent", ylim=(1e-18, 1e-8))
    left.legend(frameon=False)
    right.legend(frameon=False)
    fig.savefig(path, dpi=150)


def main():
    """Train three times, print a table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args()

    digits = load_digits()
    x, labels = digits.data[: args.images] / 160, np.eye(10)[digits.target[: args.images]]
    curves = {}
    for name, train in (("PyTorch", train_torch), ("JAX", train_jax), ("TensorFlow", train_tensorflow)):
        start = time.perf_counter()
        curves[name], p = train(x, labels, args.steps)
        seconds = time.perf_counter() - start
        right, zeros = (p.argmax(1) == labels.argmax(1)).mean(), (p < 1e-9).mean()
        first, last = curves[name][0], curves[name][-1]
        print(
            f"{name:10s} loss {first:.6f} -> {last:.12f}   right {right:.1%}   zero probabilities {zeros:.0%}   {seconds:.1f} s"
        )
    gap = max(np.abs(np.array(losses) - curves["PyTorch"]).max() for losses in curves.values())
    print(f"largest distance between the loss curves: {gap:.0e}")
    draw(curves, args.figure)
    print(f"figure: {args.figure}")


if __name__ == "__main__":
    main()
