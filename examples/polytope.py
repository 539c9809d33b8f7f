"""Learning a set from projections on it: a polygon and an ellipse.

Somebody projects points p on a set that we cannot see, and shows us the results y:

    polygon    y*(p) = argmin_y  1/2 |y - p|^2    subject to  G y <= h
    ellipse    y*(p) = argmin_y  1/2 |y - p|^2    subject to  1/2 (y - z)'A (y - z) <= 1,        A = L L'

The programs are layers, and their constraints are what is learned: G and h, L and z follow the gradient of the squared
distance of y* to what was shown, differentiated through the solutions. Points inside the set are their own projections and say
nothing; those outside tell where its edge is. The program with quad_form(y - z, A) is written as in a textbook: CVXPY
would not take two parameters there (it is not DPP), the layer rewrites it.

Try next: three dimensions; too few or too many edges; projections with noise; a norm of your own in the objective.
"""

from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "polytope.png"
STYLE = Path(__file__).with_name("style.mplstyle")
EDGES, RATE = 8, 0.05


def directions(angles):
    return torch.stack([angles.cos(), angles.sin()], -1)


class Polygon(torch.nn.Module):
    """Points (batch, 2) -> their projections on G y <= h."""

    def __init__(self, G, h):
        super().__init__()
        self.G, self.h = torch.nn.Parameter(G), torch.nn.Parameter(h)
        y, p, G, h = cp.Variable(2), cp.Parameter(2), cp.Parameter(G.shape), cp.Parameter(len(h))
        self.layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - p) / 2), [G @ y <= h]), [p, G, h], [y])

    def forward(self, p):
        return self.layer(p, self.G, self.h)[0]

    @staticmethod
    def hidden(generator):
        """Edges in irregular directions, at irregular distances of a center."""
        turn = 0.4 * torch.rand(EDGES, generator=generator, dtype=torch.float64)
        G = directions(2 * np.pi * (torch.arange(EDGES) + turn) / EDGES)
        center = torch.tensor([0.3, -0.2], dtype=torch.float64)
        return Polygon(G, 1 + 0.25 * torch.rand(EDGES, generator=generator, dtype=torch.float64) + G @ center)

    @staticmethod
    def start():
        """A small regular one."""
        G = directions(2 * np.pi * torch.arange(EDGES, dtype=torch.float64) / EDGES)
        return Polygon(G, torch.full((EDGES,), 0.5, dtype=torch.float64))

    def contains(self, points):
        return (points @ self.G.T <= self.h).all(-1)


class Ellipse(torch.nn.Module):
    """Points (batch, 2) -> their projections on 1/2 (y - z)'A (y - z) <= 1."""

    def __init__(self, L, z):
        super().__init__()
        self.L, self.z = torch.nn.Parameter(L), torch.nn.Parameter(z)
        y, p, A, z = cp.Variable(2), cp.Parameter(2), cp.Parameter((2, 2), PSD=True), cp.Parameter(2)
        inside = 0.5 * cp.quad_form(y - z, A) <= 1
        self.layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - p) / 2), [inside]), [p, A, z], [y])

    def forward(self, p):
        return self.layer(p, self.L @ self.L.T, self.z)[0]

    @staticmethod
    def hidden(generator):
        L = torch.tensor([[1.0, 0.0], [-0.9, 1.6]], dtype=torch.float64)
        return Ellipse(L, torch.tensor([0.3, -0.2], dtype=torch.float64))

    @staticmethod
    def start():
        """A small circle."""
        return Ellipse(3 * torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))

    def contains(self, points):
        return ((points - self.z) @ self.L).square().sum(-1) <= 2


def learn(kind, steps, count, bar):
    """The hidden set, the first, the middle and the last guess as fields of `contains`, pairs, and the losses."""
    generator = torch.Generator().manual_seed(0)
    truth, model = kind.hidden(generator), kind.start()
    p = 1.6 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = truth(p)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, guesses = [], [field(model)]
    for step in range(steps):
        loss = F.mse_loss(model(p), y)
        optimizer.zero_grad()
        loss.backward()  # through the projections, into the set
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.1e}", refresh=False)
        bar.update()
        if step == steps // 10:
            guesses.append(field(model))
    return field(truth), [*guesses, field(model)], (p, y), losses


STYLES = {"start": ":", "a tenth of the way": "--", "learned": "-"}
GRID = torch.linspace(-2.6, 2.6, 400, dtype=torch.float64)


@torch.no_grad()
def field(model):
    """Which points of the grid are in the set."""
    return model.contains(torch.stack(torch.meshgrid(GRID, GRID, indexing="xy"), -1)).double()


def draw(found, path):
    """The sets, with the pairs; the losses."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), width_ratios=[1, 1, 1.1])
        for k, (name, (truth, guesses, (p, y), losses)) in enumerate(found.items()):
            axis = axes[k]
            axis.contourf(GRID, GRID, truth, levels=[0.5, 1.5], colors=["0.88"])
            segments = torch.stack([p, y], 1)[:60]
            axis.plot(*segments.permute(2, 1, 0), color="0.7", lw=0.6, zorder=1)
            axis.plot(*y[:60].T, ".", color="0.4", ms=5)
            for guess, style in zip(guesses, STYLES.values(), strict=True):
                axis.contour(GRID, GRID, guess, levels=[0.5], colors=[f"C{k}"], linestyles=style, linewidths=2)
            axis.set(title=name, aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
            axes[2].semilogy(losses, color=f"C{k}", label=name)
        axes[2].set(title="training", xlabel="step", ylabel="squared error of the projections")
        axes[2].legend()
        lines = [Line2D([], [], color="0.3", ls=style, label=label) for label, style in STYLES.items()]
        hidden = Patch(color="0.88", label="hidden set")
        pair = Line2D([], [], color="0.5", lw=0.8, marker=".", label="a point and its projection")
        figure.legend(
            handles=[hidden, pair, *lines], ncols=5, columnspacing=1.5, loc="outside lower left", bbox_to_anchor=(0, 0)
        )
        figure.savefig(path)
        plt.close(figure)


def main(steps=300, count=200, figure=FIGURE):
    """Learn both, print, draw; {name: (squared error before, after, the share of the area where the sets differ)}."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    with tqdm(total=2 * steps, unit="step", mininterval=0.5) as bar:
        found = {name: learn(kind, steps, count, bar) for name, kind in (("polygon", Polygon), ("ellipse", Ellipse))}
    results = {}
    for name, (truth, guesses, _, losses) in found.items():
        off = ((guesses[-1] != truth).sum() / truth.sum()).item()
        results[name] = losses[0], losses[-1], off
        print(f"{name}: squared error {losses[0]:.3f} -> {losses[-1]:.1e}; area where the sets differ: {off:.2%}")
    draw(found, figure)
    print(f"figure: {figure}")
    return results


if __name__ == "__main__":
    main()
