"""Denoise handwritten digits with a quadratic program, and learn the program end to end.

A digit is a nonnegative mixture of strokes. For a noisy image y the layer finds the mixture h, and C h + c is its clean image:

    h*(y) = argmin_h  1/2 h'P h - q'h   subject to  h >= 0,         P = A'A + diag(rho),  q = B'y - lambda.

With A = B = C given and c = 0 this is nonnegative sparse coding of y. We start there, with strokes from a nonnegative matrix
factorization (NMF), and train A, B, C, c, lambda and rho by the squared error, differentiated through the solution h*(y).
Baselines: sparse coding with fixed NMF strokes, tuned on validation images; ridge regression from y to clean, tuned too.
"""

import argparse
from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF
from sklearn.linear_model import RidgeCV
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "quickstart.png"
SIGMA = 0.5  # standard deviation of the noise; pixels lie in [0, 1]
STROKES, BATCH, RATE, CHECK = 32, 48, 0.01, 25
FIXED, RIDGE, LAYER = "fixed QP", "ridge", "learned QP"
COLORS = {FIXED: "#8a8a8a", RIDGE: "#e08a1e", LAYER: "#1668b3"}


class Denoiser(torch.nn.Module):
    """Noisy images (batch, 64) -> denoised images (batch, 64), by one quadratic program per image."""

    def __init__(self, strokes, lam, rho):
        super().__init__()
        k = strokes.shape[1]
        h, P, q = cp.Variable(k), cp.Parameter((k, k), PSD=True), cp.Parameter(k)
        problem = cp.Problem(cp.Minimize(cp.quad_form(h, P) / 2 - q @ h), [h >= 0])
        self.layer = CvxpyLayer(problem, parameters=[P, q], variables=[h])
        self.A, self.B, self.C = (torch.nn.Parameter(strokes.clone()) for _ in range(3))
        self.c, self.lam = torch.nn.Parameter(strokes.new_zeros(64)), torch.nn.Parameter(strokes.new_full((k,), lam))
        self.log_rho = torch.nn.Parameter(strokes.new_full((k,), rho).log())  # the logarithm keeps rho positive

    def forward(self, y):
        P = self.A.T @ self.A + torch.diag(self.log_rho.exp())
        (h,) = self.layer(P, y @ self.B - self.lam)  # one P, one q for each image: the whole batch is solved in one call
        return h @ self.C.T + self.c


def noisy(x, generator):
    return x + SIGMA * torch.randn(x.shape, generator=generator, dtype=x.dtype)


@torch.no_grad()
def predict(denoise, y):
    return denoise(y).clamp(0, 1)  # the range of a pixel, for every method alike


def fixed_programs(x, y_val, x_val):
    """Nonnegative sparse coding with NMF strokes, for every setting of its knobs, best on the validation images first."""
    nmf = [NMF(k, init="nndsvda", tol=1e-3, max_iter=1000, random_state=0).fit(x.numpy()) for k in (12, 16, 24, STROKES)]
    strokes = [F.normalize(torch.from_numpy(model.components_.T), dim=0) for model in nmf]
    programs = [Denoiser(W, lam, rho) for W in strokes for lam in (0.0, 0.1) for rho in (0.1, 0.3, 0.6)]
    return sorted(programs, key=lambda program: F.mse_loss(predict(program, y_val), x_val))


def ridge(x, generator):
    """Linear regression from noisy to clean; its regularization weight is chosen by cross-validation."""
    x = x.repeat(12, 1)  # each image twelve times with new noise, as often as the layer gets to see it
    model = RidgeCV(np.geomspace(10, 1e4, 13)).fit(noisy(x, generator).numpy(), x.numpy())
    return lambda y: torch.from_numpy(model.predict(y.numpy()))


def train(model, x, y_val, x_val, steps, generator, bar):
    """Adam on fresh noise; returns rows (step, training loss, validation error)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history, losses = [(0, np.nan, F.mse_loss(predict(model, y_val), x_val).item())], []
    for step in range(1, steps + 1):
        clean = x[torch.randint(len(x), (BATCH,), generator=generator)]
        loss = F.mse_loss(model(noisy(clean, generator)), clean)
        optimizer.zero_grad()
        loss.backward()  # through the optimal solutions of the 48 quadratic programs
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % CHECK == 0:
            history.append((step, np.mean(losses[-CHECK:]), F.mse_loss(predict(model, y_val), x_val).item()))
            bar.set_postfix(loss=f"{history[-1][1]:.4f}", validation=f"{history[-1][2]:.4f}")
        bar.update()
    return history


def run_split(seed, steps, bar):
    """One random split: the test error of each method, the training history, and test images with what became of them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(1797, generator=generator)
    x, x_val, x_test = torch.from_numpy(load_digits().data / 16)[order].split([1000, 297, 500])
    y_val, y_test = noisy(x_val, generator), noisy(x_test, generator)
    bar.set_description(f"split {seed}, fixed programs")
    programs = fixed_programs(x, y_val, x_val)
    denoised = {FIXED: predict(programs[0], y_test), RIDGE: predict(ridge(x, generator), y_test)}
    model = next(program for program in programs if program.A.shape[1] == STROKES)
    bar.set_description(f"split {seed}, training")
    history = train(model, x, y_val, x_val, steps, generator, bar)
    denoised[LAYER] = predict(model, y_test)
    return [F.mse_loss(z, x_test).item() for z in denoised.values()], history, {"noisy": y_test, **denoised, "clean": x_test}


def draw(errors, histories, rows, path):
    """Learning curves, the test error of each method on each split (a line joins the results of a split), test images."""
    plt.rcParams.update({"backend": "Agg", "font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.5), width_ratios=[1, 1, 1.25], layout="constrained")
    step, training, validation = np.mean(histories, axis=0).T
    left.plot(step - CHECK / 2, 1e3 * training, ":", color=COLORS[LAYER], lw=2.5, label="training")  # a mean of CHECK steps
    left.plot(step, 1e3 * validation, color=COLORS[LAYER], lw=2.5, label="validation")
    left.set(title="training the QP", xlabel=f"step ({BATCH} images each)", ylabel="squared error per pixel, 1e-3")
    left.legend(frameon=False)
    middle.plot(1e3 * errors.T, color="#c8c8c8", zorder=1)
    for i, name in enumerate(COLORS):
        middle.scatter([i] * len(errors), 1e3 * errors[:, i], color=COLORS[name], s=50, zorder=2)
        middle.text(i, 1e3 * errors[:, i].max() + 0.4, f"{1e3 * errors[:, i].mean():.1f}", ha="center", weight="bold")
    middle.set(title=f"test error, {len(errors)} splits", xlim=(-0.5, 2.5), ymargin=0.15, xticks=range(3), xticklabels=COLORS)
    tiles = [np.hstack([np.pad(z.reshape(8, 8), 1, constant_values=0.25) for z in zs[:6].numpy()]) for zs in rows.values()]
    right.imshow(np.vstack(tiles), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
    right.set(title="test images of one split", xticks=[], yticks=4.5 + 10 * np.arange(len(rows)), yticklabels=rows)
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one split and a few steps, to see that it runs")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the figure goes")
    arguments = parser.parse_args()
    splits, steps = (1, 25) if arguments.quick else (5, 250)
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    shown = "{desc:<25} {percentage:3.0f}% |{bar}| {elapsed}{postfix}"  # no forecast: what goes before training is no step
    with tqdm(total=splits * steps, mininterval=0.5, bar_format=shown) as bar:
        errors, histories, rows = zip(*(run_split(seed, steps, bar) for seed in range(1, splits + 1)), strict=True)
    errors = np.array(errors)
    print(f"\nMean squared error per pixel on 500 test images, mean ± std over {splits} random splits:")
    for name, e in zip(COLORS, errors.T, strict=True):
        cut = 1 - errors[:, 2] / e
        note = f"   {LAYER} is lower by {cut.mean():.1%}, in {(cut > 0).sum()} of {splits} splits" if name != LAYER else ""
        print(f"  {name:<11} {e.mean():.4f} ± {e.std():.4f}{note}")
    draw(errors, histories, rows[0], arguments.figure)
    print(f"{bar.format_dict['elapsed']:.0f} s, figure: {arguments.figure}")


if __name__ == "__main__":
    main()
