"""Total variation denoising, with a differencing operator that a network adapts to the signal.

A signal y of 100 samples is a noisy step function. The layer fits one with few steps (Rudin, Osher, Fatemi 1992):

    z*(y, w) = argmin_z  1/2 |z - y|^2 + |diag(w) D z|_1        (D z)_i = z_{i+1} - z_i

With all weights w equal to one lambda this is the classical method. It pays for every step in proportion to its height, so it
lowers the high ones. Here a small convolutional network chooses w from y, and learns from the squared error of z*,
differentiated through the program: weights should be high where nothing happens and low where there is a step. All that
it knows of clean signals is that error; nobody tells it where the steps are.

Signals as in OptNet (Amos, Kolter, ICML 2017): 1 to 10 pieces, heights uniform in [10, 100), noise N(0, 10^2).

Try next: one learned matrix in place of diag(w) D, as in that paper, which takes many more steps; second differences; an
L1 norm in place of the square, for noise with outliers.
"""

from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "denoising.png"
STYLE = Path(__file__).with_name("style.mplstyle")
N, SIGMA, BATCH, RATE, CHECK = 100, 10.0, 32, 3e-3, 20
LAMBDAS = np.arange(10.0, 31.0, 2.0)


def signals(count, rng):
    """(noisy, clean), each (count, 100)."""
    clean = np.empty((count, N))
    for row in clean:
        pieces = rng.integers(1, 11)
        cuts = np.sort(rng.choice(np.arange(1, N), pieces - 1, replace=False))
        row[:] = np.repeat(rng.uniform(10, 100, pieces), np.diff([0, *cuts, N]))
    return torch.from_numpy(clean + SIGMA * rng.standard_normal(clean.shape)), torch.from_numpy(clean)


def total_variation():
    """The layer (y, w) -> z*."""
    z, y, w = cp.Variable(N), cp.Parameter(N), cp.Parameter(N - 1, nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - y) / 2 + cp.norm1(cp.multiply(w, cp.diff(z)))))
    return CvxpyLayer(problem, [y, w], [z])


class Denoiser(nn.Module):
    """Noisy signals (batch, 100) -> denoised signals (batch, 100)."""

    def __init__(self, layer, lam, channels=16):
        super().__init__()
        self.layer, self.lam = layer, lam
        same = {"padding": 4, "padding_mode": "replicate", "dtype": torch.float64}
        last = nn.Conv1d(channels, 1, 2, dtype=torch.float64)  # a weight between each sample and the next
        self.net = nn.Sequential(
            nn.Conv1d(1, channels, 9, **same), nn.ReLU(), nn.Conv1d(channels, channels, 9, **same), nn.ReLU(), last
        )
        nn.init.zeros_(last.weight)  # it starts as the classical method
        nn.init.zeros_(last.bias)

    def weights(self, y):
        return self.lam * self.net((y[:, None] - 55) / SIGMA)[:, 0].exp()

    def forward(self, y):
        return self.layer(y, self.weights(y))[0]


@torch.no_grad()
def error(denoise, data):
    return F.mse_loss(denoise(data[0]), data[1]).item()


def train(model, data, test, steps, generator):
    """Adam; rows (step, test error)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = [(0, error(model, test))]
    with tqdm(range(1, steps + 1), unit="step", mininterval=0.5) as bar:
        for step in bar:
            pick = torch.randint(len(data[0]), (BATCH,), generator=generator)
            loss = F.mse_loss(model(data[0][pick]), data[1][pick])
            optimizer.zero_grad()
            loss.backward()  # through the solutions of 32 programs, into the network
            optimizer.step()
            schedule.step()
            if step % CHECK == 0:
                history.append((step, error(model, test)))
                bar.set_postfix(test=f"{history[-1][1]:.2f}", refresh=False)
    return history


def draw(history, classical, model, lam, y, clean, path):
    """The test error; one signal, denoised both ways, and the weights for it."""
    with plt.style.context(STYLE), torch.no_grad():
        figure = plt.figure(figsize=(12, 4.6))
        grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.9], height_ratios=[2.2, 1])
        left, signal = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
        below = figure.add_subplot(grid[1, 1], sharex=signal)
        step, test = np.array(history).T
        left.plot(step, test, color="C0", label="learned weights")
        left.axhline(classical, color="C1", ls="--", label=f"one $\\lambda$, the best: {lam:g}")
        left.set(xlabel=f"step ({BATCH} signals each)", ylabel="squared error on test signals", ylim=(0, None))
        left.set_title(f"noise {SIGMA**2:.0f}, total variation {classical:.1f}, learned {test[-1]:.1f}")
        left.legend(loc="lower left")
        constant = torch.full((1, N - 1), lam, dtype=y.dtype)
        at = np.arange(N)
        signal.plot(at, y, ".", color="0.7", label="noisy")
        signal.step(at, clean, where="mid", color="0.2", lw=1, label="clean")
        signal.step(at, model.layer(y[None], constant)[0][0], where="mid", color="C1", label="one $\\lambda$")
        signal.step(at, model(y[None])[0], where="mid", color="C0", label="learned weights")
        signal.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
        signal.tick_params(labelbottom=False)
        signal.set_ylabel("signal")
        below.semilogy(at[:-1] + 0.5, model.weights(y[None])[0], ".-", color="C0", lw=1, ms=4)
        below.axhline(lam, color="C1", ls="--")
        below.yaxis.set_minor_formatter("")
        below.set(xlabel="sample", ylabel="weight", ylim=(1, 100))
        figure.savefig(path)
        plt.close(figure)


def main(steps=400, count=4000, test_count=400, figure=FIGURE):
    """Train, print, draw; {method: squared error on test signals}."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    torch.manual_seed(0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    data, validation, test = (signals(k, rng) for k in (count, test_count, test_count))
    layer = total_variation()
    classical = {lam: lambda y, lam=lam: layer(y, torch.full((N - 1,), lam, dtype=y.dtype))[0] for lam in LAMBDAS}
    lam = min(LAMBDAS, key=lambda lam: error(classical[lam], validation))
    model = Denoiser(layer, lam)
    history = train(model, data, test, steps, generator)
    errors = {
        "noisy": error(lambda y: y, test),
        "total variation": error(classical[lam], test),
        "learned weights": history[-1][1],
    }
    print(f"squared error on {test_count} test signals:")
    for name, value in errors.items():
        print(f"  {name:<16} {value:6.2f}")
    pieces = (test[1].diff(dim=1) != 0).sum(1)
    shown = torch.nonzero(pieces == 5)[0, 0]
    draw(history, errors["total variation"], model, lam, test[0][shown], test[1][shown], figure)
    print(f"figure: {figure}")
    return errors


if __name__ == "__main__":
    main()
