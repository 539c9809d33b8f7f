"""Optimal transport between two handwritten digits.

The gray values of a 3 are masses a, those of an 8 are masses b, both of sum one, on the 64 pixels of a grid. Moving a unit of
mass from pixel i to pixel j costs C_ij, the squared distance of the two, in widths of the grid. What is the cheapest way to
make the 8 of the 3?

    P*(eps) = argmin_P  <C, P> - eps H(P)    subject to  P >= 0,  P 1 = a,  P'1 = b,        H(P) = -sum P log P

With eps = 0 this is a linear program, the answer of which is a vertex, and jumps. With eps > 0 it is smooth in C, a and b,
and the value has simple derivatives: P in C, the prices of mass f and g in a and b. A large eps blurs the plan: it moves some
mass farther than is needed. Here eps goes down from 0.1 to 0.001, and <C, P> to the value of the linear program.

Above: where the 3 has more (orange) and where the 8 has more (blue), and the plans, as lines from pixel to pixel: the darker,
the more mass moves. Below: the 3 on its way to the 8, each bit of mass on its straight line (displacement interpolation).

Try next: other digits; the gradient in a, to move a digit; unequal masses; `torch.optim` on C, to learn the cost from plans.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from scipy.optimize import linprog
from sklearn.datasets import load_digits

from cvxlayers.torch import optimal_transport

FIGURE = Path(__file__).resolve().parent / "figures" / "digits_transport.png"
STYLE = Path(__file__).with_name("style.mplstyle")
PIXELS = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(64, 2)  # (row, column)


def problem():
    """The cost C (64, 64), the masses a and b (64)."""
    digits = load_digits()
    a, b = (digits.data[np.flatnonzero(digits.target == d)[0]] for d in (3, 8))
    C = ((PIXELS[:, None] - PIXELS) ** 2).sum(-1) / 49
    return tuple(torch.from_numpy(v) for v in (C, a / a.sum(), b / b.sum()))


def linear_program(C, a, b):
    """The cost of the best plan, without entropy."""
    n = len(a)
    sums = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    return linprog(C.numpy().ravel(), A_eq=sums, b_eq=np.concatenate([a, b])).fun


def between(P, t, fine=4):
    """The mass of the plan at time t, from 0 to 1, as an image with `fine` times as many pixels a side, a little blurred."""
    centers = np.arange(8 * fine) / fine - 0.5 + 0.5 / fine
    image = np.zeros((8 * fine, 8 * fine))
    for i, j in zip(*np.nonzero(P > 1e-6), strict=True):
        row, column = (1 - t) * PIXELS[i] + t * PIXELS[j]
        bump = [np.exp(-(((centers - c) / 0.6) ** 2)) for c in (row, column)]
        image += P[i, j] * np.outer(*bump)
    return image


def draw(plans, a, b, exact, path):
    """The plans for each eps, and the way with the last one."""
    colors = LinearSegmentedColormap.from_list("", ["#e08a1e", "white", "#1668b3"])
    top = 1.2 * np.abs(b - a).max()
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(12, 6.8))
        figure.suptitle(f"plans; the linear program costs {exact:.5f}")
        above, below = figure.subfigures(2, 1, height_ratios=[2.1, 1])
        for axis, (eps, (P, cost)) in zip(above.subplots(1, len(plans)), plans.items(), strict=True):
            axis.imshow((b - a).reshape(8, 8), cmap=colors, vmin=-top, vmax=top)
            moved = P * (1 - np.eye(64))
            i, j = np.nonzero(moved > 1e-3 * moved.max())
            ends = np.stack([PIXELS[i], PIXELS[j]], 1)[..., ::-1]  # (lines, 2 ends, x and y)
            strength = (moved[i, j] / moved.max()).clip(0.03, 1)
            axis.add_collection(LineCollection(ends, colors="0.15", lw=2.5, alpha=strength))
            axis.set_title(f"$\\varepsilon$ = {eps:g}: cost {cost:.5f}")
            axis.axis("off")
        P = list(plans.values())[-1][0]
        for axis, t in zip(below.subplots(1, 7), np.linspace(0, 1, 7), strict=True):
            axis.imshow(between(P, t), cmap="gray_r", vmin=0)
            axis.axis("off")
        figure.savefig(path)
        plt.close(figure)


def main(figure=FIGURE):
    """Compute, print, draw; the exact cost, {eps: cost}, and the largest error of the gradients of the values in C."""
    C, a, b = problem()
    exact, plans, error = linear_program(C, a, b), {}, 0.0
    print(f"linear program:  cost {exact:.7f}")
    for eps in (0.1, 0.01, 0.001):
        costs = C.clone().requires_grad_()
        value, P = optimal_transport(costs, a, b, eps)
        (gradient,) = torch.autograd.grad(value, costs)
        P = P.detach()
        error = max(error, (gradient - P).abs().max().item())
        plans[eps] = P.numpy(), (P * C).sum().item()
        sums = max((P.sum(1) - a).abs().max().item(), (P.sum(0) - b).abs().max().item())
        print(f"eps = {eps:<9g}  cost {plans[eps][1]:.7f}   error of the masses {sums:.0e}")
    draw(plans, a.numpy(), b.numpy(), exact, figure)
    print(f"figure: {figure}")
    return exact, {eps: cost for eps, (_, cost) in plans.items()}, error


if __name__ == "__main__":
    main()
