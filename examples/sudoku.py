"""Sudoku, with the rules learned from solved puzzles (OptNet: Amos, Kolter, ICML 2017).

A 4x4 board is a vector z of 16 cells times 4 digits. The layer fills in a puzzle p, one where a digit is given, else zero:

    z*(p) = argmin_z  1/20 |z|^2 - p'z + 1/2 |A z - b|^2    subject to  z >= 0,        b = A z0, z0 > 0

The 40 rows of A are the rules, and z0 is a board, of fractions, that obeys them. Nobody tells the layer what a rule is: A
starts with random numbers, and A and z0 learn from the squared error of z*, differentiated through the programs. (With
A z = b as a constraint, as in the paper, this works, too; but the solutions of Sudoku's own rules are vertices where too
many constraints meet for multipliers to be unique, and the closer A comes to them, the harder the programs.)

There are 288 boards. Half of them are the solutions of the training puzzles, the other half of the test puzzles, and a
puzzle has one solution. What the layer learns is Sudoku: the rows of A come to span the 40-dimensional space of its rules (one
digit in each cell; each digit once in each row, column and block). The figure shows the projection on that space.

Try next: fewer rows than 40; the hard constraint; puzzles with 6 given digits or fewer only.
"""

from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "sudoku.png"
STYLE = Path(__file__).with_name("style.mplstyle")
RULES, BATCH, RATE = 40, 150, 0.1
BLOCKS = np.arange(16).reshape(2, 2, 2, 2).swapaxes(1, 2).reshape(4, 4)  # the cells of each block


class Sudoku(torch.nn.Module):
    """Puzzles (batch, 64) -> boards (batch, 64)."""

    def __init__(self, generator):
        super().__init__()
        z, p, A, b = cp.Variable(64), cp.Parameter(64), cp.Parameter((RULES, 64)), cp.Parameter(RULES)
        objective = cp.sum_squares(z) / 20 - p @ z + cp.sum_squares(A @ z - b) / 2
        self.layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [z >= 0]), [p, A, b], [z])
        self.A = torch.nn.Parameter(torch.rand(RULES, 64, generator=generator, dtype=torch.float64))
        self.log_z0 = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64))

    def forward(self, p):
        return self.layer(p, self.A, self.A @ self.log_z0.exp())[0]  # one A and one b for the whole batch


def boards():
    """All 288 of them (288, 16), with the digits 0 to 3."""
    rows = np.array([r for r in np.ndindex(4, 4, 4, 4) if len(set(r)) == 4])
    grids = rows[np.indices((24,) * 4).reshape(4, -1).T].reshape(-1, 16)
    for unit in (np.arange(16).reshape(4, 4).T, BLOCKS):
        grids = grids[(np.sort(grids[:, unit], -1) == np.arange(4)).all((1, 2))]
    return grids


def puzzles(solutions, count, everything, rng):
    """(p, z) of puzzles with 4 to 12 given digits: digits are taken away as long as one of all boards fits, not two."""
    z = solutions[rng.integers(len(solutions), size=count)]
    same = everything == z[:, None]  # (count, 288, 16)
    given, holes = np.ones((count, 16), bool), rng.integers(4, 13, size=count)
    for cells in rng.permuted(np.tile(np.arange(16), (count, 1)), axis=1).T:
        less = given.copy()
        less[np.arange(count), cells] = False
        unique = (same | ~less[:, None]).all(-1).sum(-1) == 1
        given = np.where((unique & ((~less).sum(1) <= holes))[:, None], less, given)
    onehot = np.eye(4)[z]
    return tuple(torch.from_numpy(a.reshape(count, 64)) for a in (onehot * given[..., None], onehot))


def wrong(model, p, z):
    """The share of boards with a wrong digit."""
    with torch.no_grad():
        found = model(p).reshape(-1, 16, 4).argmax(-1)
    return (found != z.reshape(-1, 16, 4).argmax(-1)).any(-1).double().mean().item()


def train(model, data, test, steps, generator):
    """Adam on the squared error; rows (step, wrong training boards, wrong test boards)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    p, z = data
    history = [(0, wrong(model, p[:300], z[:300]), wrong(model, *test))]
    with tqdm(range(1, steps + 1), unit="step", mininterval=0.5) as bar:
        for step in bar:
            pick = torch.randint(len(p), (BATCH,), generator=generator)
            loss = F.mse_loss(model(p[pick]), z[pick])
            optimizer.zero_grad()
            loss.backward()  # through the solutions of 150 quadratic programs, into the rules
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                history.append((step, wrong(model, p[:300], z[:300]), wrong(model, *test)))
                bar.set_postfix(loss=f"{loss.item():.4f}", wrong=f"{history[-1][2]:.1%}", refresh=False)
    return history


def true_rules():
    """Sudoku's rules (64, 64), of which 40 are independent: each row is a set of numbers whose sum is one."""
    units = np.concatenate([np.arange(16).reshape(4, 4), np.arange(16).reshape(4, 4).T, BLOCKS])
    cells = np.kron(np.eye(16), np.ones(4))
    digits = [np.kron(np.isin(np.arange(16), unit), np.eye(4)[d]) for unit in units for d in range(4)]
    return np.concatenate([cells, digits])


def projection(rules):
    """The orthogonal projection on the span of the rows (64, 64)."""
    return np.linalg.pinv(rules, rcond=1e-10) @ rules


def draw_board(axis, p, z):
    """The given digits black, the others blue."""
    for k in range(5):
        width = 1.8 if k % 2 == 0 else 0.7
        axis.plot([0, 4], [k, k], color="0.3", lw=width)
        axis.plot([k, k], [0, 4], color="0.3", lw=width)
    for cell, (given, digit) in enumerate(zip(p.reshape(16, 4), z.reshape(16, 4), strict=True)):
        known = bool(given.any())
        color, weight = ("black", "bold") if known else ("C0", "normal")
        row, column = divmod(cell, 4)
        text = str(int(digit.argmax()) + 1)
        axis.text(column + 0.5, row + 0.53, text, color=color, weight=weight, size=18, ha="center", va="center")
    axis.set(xlim=(-0.1, 4.1), ylim=(4.1, -0.1), aspect="equal")
    axis.axis("off")


def draw(history, model, p, z, path):
    """The errors; what a rule is, as learned and as it is; a puzzle."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(14, 3.7), width_ratios=[1.15, 1, 1, 0.85])
        step, training, test = np.array(history).T
        axes[0].plot(step, 100 * training, color="C1", ls=":", label="training puzzles")
        axes[0].plot(step, 100 * test, color="C0", label="test puzzles")
        axes[0].set(xlabel=f"step ({BATCH} puzzles each)", ylabel="boards with an error, %", title="learning", ylim=(-2, 102))
        axes[0].legend()
        for axis, rules, title in (
            (axes[1], model.A.detach().numpy(), "learned rules"),
            (axes[2], true_rules(), "rules of Sudoku"),
        ):
            axis.imshow(projection(rules), cmap="RdBu_r", vmin=-0.65, vmax=0.65)
            axis.set(title=title, xticks=range(0, 64, 16), yticks=range(0, 64, 16))
            axis.set(xlabel="cell and digit")
        draw_board(axes[3], p, z)
        axes[3].set_title("a test puzzle, solved")
        figure.savefig(path)
        plt.close(figure)


def main(steps=200, count=3000, figure=FIGURE):
    """Train, print, draw; the share of wrong test boards before and after, and the distance of the learned rules' space."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    everything = rng.permutation(boards())
    data = puzzles(everything[:144], count, everything, rng)
    test = puzzles(everything[144:], 300, everything, rng)
    model = Sudoku(generator)
    history = train(model, data, test, steps, generator)
    before, after = history[0][2], history[-1][2]
    distance = float(np.linalg.norm(projection(model.A.detach().numpy()) - projection(true_rules()), 2))
    print(f"test boards with an error: {before:.1%} -> {after:.1%}")
    print(f"sine of the largest angle between the learned rules and Sudoku's: {distance:.3f}")
    hardest = test[0].sum(1).argmin()
    with torch.no_grad():
        draw(history, model, test[0][hardest], model(test[0][hardest]), figure)
    print(f"figure: {figure}")
    return before, after, distance


if __name__ == "__main__":
    main()
