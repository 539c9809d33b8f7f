"""Learning to sort, with a layer that makes soft permutations (Mena, Belanger, Linderman, Snoek, ICLR 2018).

A network gives each number x_i of a list ten scores X_ij, one for each place j that it may take: it looks at one number
at a time, and knows nothing of the others. The layer makes of the scores a doubly stochastic matrix, a soft permutation,

    P*(X) = argmax_P  <X, P> + tau H(P)    subject to  P 1 = 1,  P'1 = 1,        H(P) = -sum P log P,

and P'x is the softly sorted list. Its squared distance to the sorted list is differentiated through P*, implicitly: there is
nothing to unroll, and the rows and columns of P sum to one to rounding. The permutation itself comes from the same
scores: it is the P that maximizes <X, P> (scipy's linear_sum_assignment).

Try next: 20 numbers; lower tau; `gumbel_sinkhorn`, which samples permutations; another order to learn, such as by last digit.
"""

import copy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import sinkhorn

FIGURE = Path(__file__).resolve().parent / "figures" / "learn_to_sort.png"
STYLE = Path(__file__).with_name("style.mplstyle")
N, BATCH, RATE, TAU, CHECK = 10, 32, 0.03, 1.0, 50


def lists(count, generator):
    """Numbers, uniform in [0, 1] (count, 10)."""
    return torch.rand(count, N, generator=generator, dtype=torch.float64)


@torch.no_grad()
def errors(net, x):
    """The shares of numbers in a wrong place, and of lists with such a number."""
    scores = net(x[..., None]).numpy()
    places = torch.from_numpy(np.stack([linear_sum_assignment(X, maximize=True)[1] for X in scores]))
    wrong = torch.zeros_like(x).scatter(1, places, x) != x.sort(-1).values
    return wrong.double().mean().item(), wrong.any(-1).double().mean().item()


def softly_sorted(net, x):
    """P'x for lists x (..., 10)."""
    P = sinkhorn(net(x[..., None]), TAU)
    return (P.mT @ x[..., None])[..., 0]


def train(net, steps, test, generator):
    """Adam on fresh lists; rows (step, wrong places, wrong lists) on test lists."""
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = [(0, *errors(net, test))]
    with tqdm(range(1, steps + 1), unit="step", mininterval=0.5) as bar:
        for step in bar:
            x = lists(BATCH, generator)
            loss = F.mse_loss(softly_sorted(net, x), x.sort(-1).values)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % CHECK == 0 or step <= 40:
                history.append((step, *errors(net, test)))
                bar.set_postfix(loss=f"{loss.item():.1e}", wrong=f"{history[-1][2]:.1%}", refresh=False)
    return history


@torch.no_grad()
def draw(net, untrained, history, x, path):
    """The errors; the soft permutation of a list; softly sorted lists."""
    with plt.style.context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=[1.1, 1, 1])
        step, places, wrong = np.array(history).T
        left.plot(step, 100 * wrong, color="C0", label="lists")
        left.plot(step, 100 * places, color="C1", label="numbers")
        left.set_xscale("symlog", linthresh=1)
        left.set(xlabel=f"step ({BATCH} lists each)", ylabel="wrong in the test lists, %", title="learning", ylim=(-3, 103))
        left.set(xticks=[0, 1, 10, 100, 1000], xticklabels=[0, 1, 10, 100, 1000])
        left.legend()
        P = sinkhorn(net(x[0, :, None]), TAU)
        image = middle.imshow(P.numpy(), cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=middle, shrink=0.85)
        middle.set(title="the soft permutation of a list", xlabel="place", ylabel="number")
        middle.set(xticks=range(N), xticklabels=range(1, N + 1), yticks=range(N), yticklabels=[f"{v:.2f}" for v in x[0]])
        for network, color, label in ((untrained, "0.75", "before"), (net, "C0", "after")):
            right.plot(x.sort(-1).values.flatten(), softly_sorted(network, x).flatten(), ".", ms=3, color=color, label=label)
        right.set(title="100 test lists", xlabel="sorted number", ylabel="softly sorted number", aspect="equal")
        right.legend(markerscale=3)
        figure.savefig(path)
        plt.close(figure)


def main(steps=1000, test_count=1000, figure=FIGURE):
    """Train, print, draw; the shares of wrong test lists before and after."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, N)).double()
    untrained = copy.deepcopy(net)
    test = lists(test_count, generator)
    history = train(net, steps, test, generator)
    before, after = history[0], history[-1]
    print(f"numbers in a wrong place: {before[1]:.1%} -> {after[1]:.2%} of {test_count} new lists")
    print(f"lists with an error:      {before[2]:.1%} -> {after[2]:.2%}")
    draw(net, untrained, history, test[:100], figure)
    print(f"figure: {figure}")
    return before[2], after[2]


if __name__ == "__main__":
    main()
