"""Sensitivity of a logistic regression: which data points move it, and where to.

The weights and the offset of a classifier are the solution of a program whose data are parameters:

    theta*(X, v) = argmin_{w, b}  1/n sum_i v_i (log(1 + e^(w'x_i + b)) - y_i (w'x_i + b)) + lambda |w|^2

`cvxlayers.sensitivity` has the derivatives of theta* in X and in the weights v, from the CVXPY problem alone. With the loss
L on test points, the gradient of L(theta*) in x_i is the direction in which moving that training point hurts most: the
arrows of the left panel, all from one linear solve, with the classifier that comes out if all points move along them. Minus
the derivative of theta* in v_i is how much theta* would change, to first order, without the point: its influence. The right
panel compares influences with the truth, the program solved again without each of the points: 30 programs, one batch of a
layer. Where a point counts much, the truth is more than its influence.

    d theta / d x_i = -1/n H^-1 (s_i (1 - s_i) z_i w' + (s_i - y_i) [I; 0]),    z_i = (x_i, 1),  s_i = 1 / (1 + e^(-theta'z_i))

is the Jacobian by hand, H the Hessian of the objective; the one from the program is the same up to rounding.

Influence functions: Koh, Liang, "Understanding black-box predictions via influence functions" (ICML 2017).

Try next: a point far from all others; a smaller lambda; hinge losses, where most points have no influence at all.
"""

from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import expit
from sklearn.datasets import make_blobs

from cvxlayers import sensitivity
from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "sensitivity.png"
STYLE = Path(__file__).with_name("style.mplstyle")
LAMBDA, STEP = 0.05, 2.0  # how far the point moves that counts most


class Classifier:
    """The program for n points (x_i, y_i); X and v are its parameters, w and b its variables."""

    def __init__(self, points, y):
        n, d = points.shape
        self.X, self.v = cp.Parameter((n, d), name="X"), cp.Parameter(n, nonneg=True, name="v")
        self.w, self.b, self.y = cp.Variable(d, name="w"), cp.Variable(name="b"), y
        self.X.value, self.v.value = points, np.ones(n)
        z = self.X @ self.w + self.b
        loss = self.v @ (cp.logistic(z) - cp.multiply(y, z)) / n
        self.problem = cp.Problem(cp.Minimize(loss + LAMBDA * cp.sum_squares(self.w)))

    def jacobian_by_hand(self, w, b):
        """(d w / d X, d b / d X) at v = 1."""
        X, n, d = self.X.value, *self.X.shape
        Z, E = np.c_[X, np.ones(n)], np.eye(d + 1)[:, :d]
        s = expit(X @ w + b)
        H = (Z.T * (s * (1 - s))) @ Z / n + 2 * LAMBDA * E @ E.T
        mixed = np.einsum("i,ij,k->jik", s * (1 - s), Z, w) + np.einsum("i,jk->jik", s - self.y, E)
        J = -np.linalg.solve(H, mixed.reshape(d + 1, -1)).reshape(d + 1, n, d) / n
        return J[:d], J[d]


def loss(w, b, points, y):
    """The mean loss on points."""
    z = points @ w + b
    return (np.logaddexp(0, z) - y * z).mean()


def draw(train, test, fits, moves, influence, truth, correlation, path):
    """The points with their arrows and both boundaries; the influences."""
    with plt.style.context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6))
        for k in (0, 1):
            left.plot(*train[0][train[1] == k].T, "o", color=f"C{k}", ms=6, label=f"class {k}, training")
            left.plot(*test[0][test[1] == k].T, "x", color=f"C{k}", ms=5, mew=1, alpha=0.5, label=f"class {k}, test")
        left.quiver(*train[0].T, *moves.T, angles="xy", scale_units="xy", scale=1, width=0.005, color="0.2", zorder=3)
        line = np.array([-10.0, 10.0])
        for (w, b), style, name in zip(fits, ("-", "--"), ("boundary", "after all moves"), strict=True):
            left.plot(line, -(w[0] * line + b) / w[1], style, color="0.2", lw=1.5, label=name)
        left.set(xlim=line, ylim=line, aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        left.set(xticks=range(-10, 11, 5), yticks=range(-10, 11, 5), title="arrows: moves that raise the test loss most")
        for k, name in enumerate(("$w_1$", "$w_2$", "$b$")):
            right.plot(influence[:, k], truth[:, k], "os^"[k], color=f"C{k + 2}", ms=5, alpha=0.8, label=name)
        ends = 1.1 * np.array([min(influence.min(), truth.min()), max(influence.max(), truth.max())])
        right.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0, label="equal")
        right.set(xlabel="change by first-order influence", ylabel="change after solving again")
        right.set(xlim=ends, ylim=ends, aspect="equal")
        right.set_title(f"leaving out one point, correlation {correlation:.3f}")
        right.legend(loc="upper left")
        figure.legend(*left.get_legend_handles_labels(), ncols=3, loc="outside lower left")
        figure.savefig(path)
        plt.close(figure)


def main(n=30, figure=FIGURE):
    """Print, draw; (error of the Jacobian against the one by hand, correlation of influences with solving again)."""
    points, classes = make_blobs(2 * n, 2, centers=[[2, 2], [-2, -2]], cluster_std=3, random_state=0)
    train, test = (points[:n], classes[:n]), (points[n:], classes[n:])
    fit = Classifier(*train)

    found = sensitivity(fit.problem)
    print(found)
    w, b = found.solution[fit.w], found.solution[fit.b]
    pairs = zip((fit.w, fit.b), fit.jacobian_by_hand(w, b), strict=True)
    error = max(np.abs(found.jacobian(variable, fit.X) - J).max() for variable, J in pairs)

    slope = (expit(test[0] @ w + b) - test[1]) / n
    arrows = found.vjp({fit.w: slope @ test[0], fit.b: slope.sum()})[fit.X]  # the gradient of the test loss
    influence = -np.c_[found.jacobian(fit.w, fit.v).T, found.jacobian(fit.b, fit.v)]

    layer = CvxpyLayer(fit.problem, [fit.X, fit.v], [fit.w, fit.b])
    W, B = (t.numpy() for t in layer(torch.tensor(train[0]), 1 - torch.eye(n, dtype=torch.float64)))
    truth = np.c_[W, B] - np.r_[w, b]
    correlation = np.corrcoef(influence.ravel(), truth.ravel())[0, 1]
    moves = STEP * arrows / np.linalg.norm(arrows, axis=1).max()
    moved = [t.numpy() for t in layer(torch.tensor(train[0] + moves), torch.ones(n, dtype=torch.float64))]
    before, after = loss(w, b, *test), loss(*moved, *test)

    print(f"\nJacobian against the one by hand: {error:.1e}")
    print(f"leaving out one of {n} points, predicted and solved again: correlation {correlation:.3f}")
    print(f"test loss {before:.3f}; after all moves, by {STEP:g} at most: {after:.3f}")
    draw(train, test, [(w, b), moved], moves, influence, truth, correlation, figure)
    print(f"figure: {figure}")
    return error, correlation


if __name__ == "__main__":
    main()
