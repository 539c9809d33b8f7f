"""Gradients where there are none: vertices of linear programs and changes of the active set.

A linear program answers with a vertex. A small change of the costs does not move it, so its exact derivative is zero, and
at the costs where it jumps there is none. A quadratic program with inequalities has a kink wherever its active set
changes. Both are right, and useless to train with: what a layer can be asked for instead is

    derivative="smoothed"   the derivative of x_mu, the solution with a logarithmic barrier of weight mu in place of x >= 0
    derivative="lpgd"       (grad L at z(tau) - grad L at z(-tau)) / (2 tau), z(e) the solution with e times the loss
                            added to the objective, L the Lagrangian

The outputs stay the exact solution. Left: x*(c) of min c x over [-1, 1], and what each derivative says. Middle: of
min 1/2 (x - c)^2 over x >= 0. Right: the linear program that chooses the 3 of 12 items with the highest scores learns the
scores from choices that it is shown; the exact gradient is zero from the first step to the last.

Try next: other mu and tau; a loss of your own; `info.degenerate`, which tells where the exact derivative is not unique.
"""

import argparse
from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import torch

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "degenerate_gradients.png"
COLORS = {"implicit": "#1d3557", "smoothed": "#e07a2f", "lpgd": "#2a9d8f"}
OPTIONS = {"implicit": {}, "smoothed": {"mu": 0.2}, "lpgd": {"tau": 0.5}}
LABELS = {"implicit": "exact", "smoothed": "smoothed, $\\mu$ = 0.2", "lpgd": "lpgd, $\\tau$ = 0.5"}


def one_dimensional(build):
    """{derivative: (c, x*(c), gradient of x* there)} for a problem in one variable, build(c, x)."""
    curves = {}
    for derivative, options in OPTIONS.items():
        parameter, x = cp.Parameter(), cp.Variable()
        layer = CvxpyLayer(build(parameter, x), [parameter], [x], derivative=derivative, **options)
        c = torch.linspace(-1.5, 1.5, 302, dtype=torch.float64, requires_grad=True)
        (out,) = layer(c)
        (gradient,) = torch.autograd.grad(out.sum(), c)
        curves[derivative] = c.detach(), out.detach(), gradient
    return curves


def choices(generator, count, n=12, features=4):
    """Features of `count` lists of n items, and the choices of a hidden linear score: the 3 best of each list."""
    items = torch.randn(count, n, features, dtype=torch.float64, generator=generator)
    hidden = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64)
    chosen = torch.zeros(count, n, dtype=torch.float64)
    return items, chosen.scatter(1, (items @ hidden).topk(3, 1).indices, 1.0)


def learn(derivative, steps, lists):
    """The share of right choices on new lists, before every step of gradient descent on the squared error."""
    score, x = cp.Parameter(12), cp.Variable(12)
    problem = cp.Problem(cp.Maximize(score @ x), [x >= 0, x <= 1, cp.sum(x) == 3])
    layer = CvxpyLayer(problem, [score], [x], derivative=derivative, **OPTIONS[derivative])
    generator = torch.Generator().manual_seed(0)
    (items, chosen), (new_items, new_chosen) = choices(generator, lists), choices(generator, 200)
    weights = 0.1 * torch.randn(4, dtype=torch.float64, generator=generator)
    weights.requires_grad_()
    optimizer, right = torch.optim.Adam([weights], lr=0.1), []
    for _ in range(steps):
        with torch.no_grad():
            right.append(((layer(new_items @ weights)[0] * new_chosen).sum(1) / 3).mean().item())
        loss = ((layer(items @ weights)[0] - chosen) ** 2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return right


def draw(linear, quadratic, learned, path):
    """The figure."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, curves, place, title in (
        (axes[0], linear, "upper right", "a linear program: min $c\\,x$, $-1 \\leq x \\leq 1$"),
        (axes[1], quadratic, "upper left", "a change of the active set: min $(x-c)^2/2$, $x \\geq 0$"),
    ):
        c, solution, _ = curves["implicit"]
        axis.plot(c, solution, color="0.75", lw=4, label="solution $x^*(c)$")
        for derivative, (c, _, gradient) in curves.items():
            axis.plot(c, gradient, color=COLORS[derivative], label=f"$dx/dc$, {LABELS[derivative]}")
        axis.set(xlabel="c", title=title)
        axis.margins(y=0.25 if curves is linear else 0.05)
        axis.legend(fontsize=8, loc=place)
    for derivative, right in learned.items():
        axes[2].plot([100 * r for r in right], color=COLORS[derivative], label=LABELS[derivative])
    axes[2].set(xlabel="step", ylabel="right choices on new lists, %", title="learning to choose 3 of 12", ylim=(0, 103))
    axes[2].axhline(25, color="0.75", lw=1, ls=":", label="by chance")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main():
    """Compute, print, draw."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--lists", type=int, default=100)
    arguments.add_argument("--figure", type=Path, default=FIGURE)
    options = arguments.parse_args()
    linear = one_dimensional(lambda c, x: cp.Problem(cp.Minimize(c * x), [x >= -1, x <= 1]))
    quadratic = one_dimensional(lambda c, x: cp.Problem(cp.Minimize(0.5 * cp.square(x - c)), [x >= 0]))
    learned = {derivative: learn(derivative, options.steps, options.lists) for derivative in OPTIONS}
    for derivative, right in learned.items():
        print(f"{derivative}: right choices on new lists {100 * right[0]:.1f} % -> {100 * right[-1]:.1f} %")
    draw(linear, quadratic, learned, options.figure)


if __name__ == "__main__":
    main()
