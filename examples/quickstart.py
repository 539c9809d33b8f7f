"""Denoise handwritten digits with a quadratic program, and learn the program end to end.

A digit is a nonnegative mixture of strokes: x = C h with h >= 0. For a noisy image y, a layer finds the mixture

    h*(y) = argmin_h  1/2 h'P h - q'h   subject to  h >= 0,         P = A'A + diag(rho),  q = B'y - lambda,

and the denoised image is x = C h*(y) + c. If A = B = C are given strokes, this is classical nonnegative sparse coding,
1/2 |y - A h|^2 + lambda'h + 1/2 rho'h^2. We start there, with strokes from a nonnegative matrix factorization (NMF), and
train A, B, C, c, lambda and rho together: the loss |x - clean|^2 is differentiated through the optimal solution h*.

Everything is compared on images that took no part in training (train / validation / test, several random splits) with
the same program with fixed NMF strokes, tuned on the validation images, and with ridge regression from y to x, tuned too.
"""

import itertools
from pathlib import Path

import cvxpy as cp
import matplotlib
import numpy as np
import torch
from sklearn.decomposition import NMF
from sklearn.linear_model import RidgeCV
from torch import nn

from cvxlayers.torch import CvxpyLayer

matplotlib.use("Agg")

FIGURE = Path(__file__).resolve().parent / "figures" / "quickstart.png"
SIGMA = 0.5  # standard deviation of the noise; pixels lie in [0, 1]
STROKES, BATCH, RATE, CHECK_EVERY = 32, 64, 0.01, 20
FIXED, RIDGE, LEARNED = "same QP, fixed NMF strokes", "ridge regression", "learned QP layer"
COLORS = {FIXED: "#999999", RIDGE: "#e08a1e", LEARNED: "#1668b3"}


class Denoiser(nn.Module):
    """Noisy images (batch, 64) -> denoised images (batch, 64), by one quadratic program per image."""

    def __init__(self, strokes, lam, rho):
        super().__init__()
        k = strokes.shape[1]
        h, P, q = cp.Variable(k), cp.Parameter((k, k), PSD=True), cp.Parameter(k)
        problem = cp.Problem(cp.Minimize(cp.quad_form(h, P) / 2 - q @ h), [h >= 0])
        self.layer = CvxpyLayer(problem, parameters=[P, q], variables=[h])

        self.A, self.B, self.C = (nn.Parameter(strokes.clone()) for _ in range(3))
        self.c = nn.Parameter(strokes.new_zeros(64))
        self.lam = nn.Parameter(strokes.new_full((k,), lam))
        self.log_rho = nn.Parameter(strokes.new_full((k,), rho).log())  # the logarithm keeps rho positive

    def forward(self, y):
        P = self.A.T @ self.A + torch.diag(self.log_rho.exp())
        h, = self.layer(P, y @ self.B - self.lam)  # one P for the batch, one q for each image: all solved in one call
        return h @ self.C.T + self.c


def noisy(x, generator):
    return x + SIGMA * torch.randn(x.shape, generator=generator, dtype=x.dtype)


@torch.no_grad()
def error(denoise, y, x):
    """Mean squared error per pixel, after clipping to the range of a pixel, for every method alike."""
    return (denoise(y).clamp(0, 1) - x).square().mean().item()


def nmf_strokes(x, k):
    components = NMF(k, init="nndsvda", max_iter=150, tol=1e-3).fit(x.numpy()).components_
    return nn.functional.normalize(torch.from_numpy(components.T.copy()), dim=0)


def best_fixed(x, y_val, x_val, sizes):
    """The fixed program whose number of strokes, lambda and rho do best on the validation images."""
    strokes = {k: nmf_strokes(x, k) for k in sizes}
    grid = itertools.product(sizes, (0.0, 0.2), (0.1, 0.4, 1.6))
    candidates = [Denoiser(strokes[k], lam, rho) for k, lam, rho in grid]
    return min(candidates, key=lambda d: error(d, y_val, x_val))


def ridge(x, generator):
    """Linear regression from noisy to clean; its one regularization weight is chosen by cross-validation."""
    x = x.repeat(10, 1)  # about as many noisy copies as the layer sees
    model = RidgeCV(np.geomspace(1, 1e4, 17)).fit(noisy(x, generator).numpy(), x.numpy())
    return lambda y: torch.from_numpy(model.predict(y.numpy()))


def train(model, x, y_val, x_val, steps, generator, bar):
    """Train by Adam, keep the parameters of the best validation loss; returns [(step, training loss, validation loss)]."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history, losses, best = [(0, np.nan, error(model, y_val, x_val))], [], np.inf
    for step in range(1, steps + 1):
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        loss = (model(noisy(batch, generator)) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()  # through the optimal solution of each of the quadratic programs
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % CHECK_EVERY == 0:
            history.append((step, np.mean(losses[-CHECK_EVERY:]), error(model, y_val, x_val)))
            if history[-1][2] < best:
                best, state = history[-1][2], {name: p.clone() for name, p in model.state_dict().items()}
        bar.update()
        bar.set_postfix(loss=f"{np.mean(losses[-CHECK_EVERY:]):.4f}")
    model.load_state_dict(state)
    return history
