"""Five guesses: a classifier that is trained for its top-5 accuracy (Amos, Koltun, Kolter: LML, 2019).

Under a softmax, several good guesses compete for a sum of one. The limited multi-label projection, LML, is for k of them:

    y*(x) = argmin_y  -x'y - sum_i H(y_i)    subject to  0 <= y <= 1,  sum(y) = k        H(y) = -y log y - (1-y) log(1-y)

Its entries are the sigmoids of scores with a common shift: y_i is high if i is among the k best. The loss -log y_label is low
as soon as the label is one of five; who is first among them does not matter.

Digits whose labels are often wrong, but never by much: with probability p a label is drawn anew from its group, 0 to 4 or 5
to 9. A good answer then is five guesses. On clean test labels the share of images with their label among the best five is
that of cross-entropy, within the noise of the seeds. What differs is what the numbers mean: five entries of y are near one,
that is, five guesses that all hold, where the softmax has a fifth for each. And the first guess is worse: nobody asked for it.

Try next: k = 3; tau; a k that is not whole, or one for each image; Visual Genome's scene graphs, as in the paper.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cvxlayers.torch import lml

FIGURE = Path(__file__).resolve().parent / "figures" / "topk.png"
STYLE = Path(__file__).with_name("style.mplstyle")
K, BATCH, RATE, EPOCHS = 5, 100, 3e-3, 60
CE, LML = "cross-entropy", "LML loss, k = 5"


def limited(scores, labels):
    """-log y_label, y the soft choice of five."""
    y = lml(scores, K).gather(1, labels[:, None])
    return -y.clamp_min(1e-12).log().mean()


LOSSES = {CE: F.cross_entropy, LML: limited}


def data(p, generator):
    """Images and noisy labels to train on, images and true labels to test on."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator)
    x, labels = torch.from_numpy(digits.data / 16).float()[order], torch.from_numpy(digits.target)[order]
    anew = labels // 5 * 5 + torch.randint(5, labels.shape, generator=generator)
    noisy = torch.where(torch.rand(labels.shape, generator=generator) < p, anew, labels)
    return x[:1000], noisy[:1000], x[1000:], labels[1000:]


def accuracies(loss, p, seed, epochs):
    """The share of test images whose label is among the best 1, ..., 9, after training with a loss; and the model."""
    generator = torch.Generator().manual_seed(seed)
    x, labels, x_test, labels_test = data(p, generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for pick in torch.randperm(len(x), generator=generator).split(BATCH):
            value = loss(model(x[pick]), labels[pick])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    with torch.no_grad():
        best = model(x_test).argsort(1, descending=True)
    return (best[:, :9] == labels_test[:, None]).double().mean(0).cumsum(0).numpy(), model


def draw(found, path):
    """Top-5 accuracy against noise, top-k accuracy at the highest noise, and both soft choices for an image."""
    noises = sorted({p for _, p in found})
    with plt.style.context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
        for k, name in enumerate(LOSSES):
            top = np.array([[a[K - 1] for a, _ in found[name, p]] for p in noises])
            left.plot(noises, 100 * top.mean(1), color=f"C{1 - k}", label=name)
            left.plot(noises, 100 * top, ".", color=f"C{1 - k}", alpha=0.4)
            for p, style in ((noises[0], "o:"), (noises[-1], "o-")):
                curve = np.mean([a for a, _ in found[name, p]], 0)
                middle.plot(range(1, 10), 100 * curve, style, color=f"C{1 - k}", ms=4, label=f"p = {p:g}" if k else None)
        left.set(xlabel="probability p of a new label", ylabel="top-5 accuracy, %", title="the label is among five guesses")
        left.legend()
        middle.set(xlabel="number of guesses", ylabel="accuracy, %", title="fewer guesses, and more", xticks=range(1, 10))
        middle.legend()
        middle.axvline(K, color="0.8", lw=1, zorder=0)
        digits = load_digits()
        image, label = digits.data[0] / 16, digits.target[0]
        with torch.no_grad():
            x = torch.from_numpy(image).float()[None]
            choices = {CE: torch.softmax(found[CE, noises[-1]][0][1](x), 1), LML: lml(found[LML, noises[-1]][0][1](x), K)}
        for k, (name, y) in enumerate(choices.items()):
            right.bar(np.arange(10) + 0.4 * k - 0.2, y[0].numpy(), 0.4, color=f"C{1 - k}", label=name)
        inset = right.inset_axes([0.72, 0.62, 0.25, 0.3])
        inset.imshow(image.reshape(8, 8), cmap="gray_r")
        inset.axis("off")
        right.set(xticks=range(10), xlabel="class", ylabel="softmax, and LML", title=f"an image of a {label}")
        figure.savefig(path)
        plt.close(figure)


def main(noises=(0.0, 0.3, 0.6, 0.9), seeds=5, epochs=EPOCHS, figure=FIGURE):
    """Train, print, draw; {(loss, p): mean top-5 accuracy}."""
    torch.set_num_threads(1)  # the matrices are small: a second thread gains nothing
    cases = [(name, p) for p in noises for name in LOSSES]
    found = {
        (name, p): [accuracies(LOSSES[name], p, seed, epochs) for seed in range(seeds)]
        for name, p in tqdm(cases, unit="case", mininterval=0.5)
    }
    top = {case: np.mean([a[K - 1] for a, _ in runs]) for case, runs in found.items()}
    print(f"top-{K} accuracy on clean labels, mean over {seeds} seeds (in brackets: of the first guess)")
    for p in noises:
        first = {name: np.mean([a[0] for a, _ in found[name, p]]) for name in LOSSES}
        print(f"  p = {p:g}: " + "   ".join(f"{name} {top[name, p]:.4f} ({first[name]:.2f})" for name in LOSSES))
    draw(found, figure)
    print(f"figure: {figure}")
    return top


if __name__ == "__main__":
    main()
