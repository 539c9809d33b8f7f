"""Learning features with which a support vector machine learns from one example (MetaOptNet: Lee et al., CVPR 2019).

A task has five classes that were never seen before, and a few examples of each (the support). A linear multi-class support
vector machine is trained on their features z_i, by its dual program, and classifies the queries:

    alpha* = argmin_alpha  1/2 sum_m |sum_i alpha_im z_i|^2 - sum_i alpha_{i,y_i}
             subject to    alpha_im <= C [m = y_i],  sum_m alpha_im = 0            score of class m: sum_i alpha*_im z_i'z

The features z = W x are what all tasks share. W learns from the cross-entropy of the scores of the queries, differentiated
through alpha*: features are good if the machine that is trained on them is.

Here x has 40 entries. Class means differ in a hidden 4-dimensional space, and the other 36 dimensions are noise, as strong
as the differences. With one example, the noise decides; W has to find the space where it does not.

Try next: `ridge_head`, which has a closed form; C; more ways; features from a network with a layer more; your own data.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import svm_crammer_singer

FIGURE = Path(__file__).resolve().parent / "figures" / "few_shot_svm.png"
STYLE = Path(__file__).with_name("style.mplstyle")
DIM, SIGNAL, FEATURES, WAYS, QUERIES = 40, 4, 8, 5, 6
SPREAD, WITHIN, NUISANCE = 3.0, 0.7, 3.0  # standard deviations: of class means, within a class, of all other dimensions
C, TASKS, RATE, CHECK = 0.1, 8, 0.02, 10


def tasks(basis, count, shots, generator):
    """support (count, 5 shots, 40), queries (count, 5 * 6, 40), and the labels of both (the same for all tasks)."""
    each = shots + QUERIES

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    signal = SPREAD * normal(count, WAYS, 1, SIGNAL) + WITHIN * normal(count, WAYS, each, SIGNAL)
    x = torch.cat([signal, NUISANCE * normal(count, WAYS, each, DIM - SIGNAL)], -1) @ basis
    support, queries = x[:, :, :shots].flatten(1, 2), x[:, :, shots:].flatten(1, 2)
    ways = torch.arange(WAYS)
    return support, queries, ways.repeat_interleave(shots), ways.repeat_interleave(QUERIES)


def scores(W, support, queries, labels):
    """What the machines say of the queries (count, queries, 5)."""
    return svm_crammer_singer(queries @ W.mT, support @ W.mT, labels, WAYS, C)


@torch.no_grad()
def accuracy(W, task):
    support, queries, labels, truth = task
    return (scores(W, support, queries, labels).argmax(-1) == truth).double().mean().item()


def train(W, scale, basis, tests, steps, generator):
    """Adam on fresh tasks; rows (step, accuracy on each of the tests)."""
    optimizer = torch.optim.Adam([W, scale], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = [(0, *(accuracy(W, test) for test in tests.values()))]
    with tqdm(range(1, steps + 1), unit="step", mininterval=0.5) as bar:
        for step in bar:
            support, queries, labels, truth = tasks(basis, TASKS, 5, generator)
            logits = scale * scores(W, support, queries, labels)
            loss = F.cross_entropy(logits.flatten(0, 1), truth.repeat(TASKS))
            optimizer.zero_grad()
            loss.backward()  # through the support vector machines, into the features
            optimizer.step()
            schedule.step()
            if step % CHECK == 0:
                history.append((step, *(accuracy(W, test) for test in tests.values())))
                bar.set_postfix({name: f"{a:.2f}" for name, a in zip(tests, history[-1][1:], strict=True)}, refresh=False)
    return history


def draw(history, before, after, tests, baseline, path):
    """The accuracies, and the features of one test task before and after."""
    with plt.style.context(STYLE), torch.no_grad():
        figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=[1.1, 1, 1])
        step, *curves = np.array(history).T
        for k, (name, curve) in enumerate(zip(tests, curves, strict=True)):
            axes[0].plot(step, 100 * curve, color=f"C{k}")
            axes[0].axhline(100 * baseline[name], color=f"C{k}", ls=":", lw=1.5)
            for y, text in ((curve[-1], name), (baseline[name], f"{name}, on x itself")):
                axes[0].text(step[-1], 100 * y + 1, text, color=f"C{k}", ha="right", va="bottom", size=10)
        axes[0].axhline(100 / WAYS, color="0.6", lw=1)
        axes[0].text(step[-1], 100 / WAYS + 1, "by chance", color="0.4", ha="right", va="bottom", size=10)
        axes[0].set(
            xlabel=f"step ({TASKS} tasks each)", ylabel="right queries in new tasks, %", title="learning", ylim=(0, 104)
        )
        support, queries, labels, truth = list(tests.values())[-1]
        for axis, W, title in ((axes[1], before, "features of a new task, before training"), (axes[2], after, "and after it")):
            z, z_query = support[0] @ W.mT, queries[0] @ W.mT
            center = z.mean(0)
            axes_2d = torch.linalg.svd(torch.cat([z, z_query]) - center, full_matrices=False)[2][:2].mT
            for m in range(WAYS):
                style = {"color": plt.get_cmap("Dark2")(m)}
                axis.plot(*((z[labels == m] - center) @ axes_2d).T, "o", ms=9, mec="white", **style)
                axis.plot(*((z_query[truth == m] - center) @ axes_2d).T, "x", ms=5, mew=1.2, **style)
            axis.set(title=title, xlabel="1st principal component", xticks=[], yticks=[])
        axes[1].set_ylabel("2nd principal component")
        axes[2].plot([], [], "o", color="0.4", label="support")
        axes[2].plot([], [], "x", color="0.4", label="query")
        axes[2].legend(loc="best")
        figure.savefig(path)
        plt.close(figure)


def main(steps=200, test_count=100, figure=FIGURE):
    """Train, print, draw; {shots: (accuracy before, after)}."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))[0]
    tests = {f"{shots}-shot": tasks(basis, test_count, shots, generator) for shots in (1, 5)}
    W = (torch.randn(FEATURES, DIM, generator=generator, dtype=torch.float64) / DIM**0.5).requires_grad_()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    before = W.detach().clone()
    baseline = {name: accuracy(torch.eye(DIM, dtype=torch.float64), test) for name, test in tests.items()}
    history = train(W, scale, basis, tests, steps, generator)
    results = {name: (history[0][k], history[-1][k]) for k, name in enumerate(tests, 1)}
    for name, (first, last) in results.items():
        print(f"{name}: right queries in {test_count} new tasks {first:.1%} -> {last:.1%}; on x itself {baseline[name]:.1%}")
    draw(history, before, W, tests, baseline, figure)
    print(f"figure: {figure}")
    return results


if __name__ == "__main__":
    main()
