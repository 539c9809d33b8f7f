"""Three activation functions, as the convex programs that they are.

    relu(x)     argmin_y  1/2 |y - x|^2          subject to  y >= 0
    sigmoid(x)  argmin_y  -x'y - sum_i H(y_i)    H(y) = -y log y - (1 - y) log(1 - y), which keeps y in [0, 1]
    softmax(x)  argmin_y  -x'y + sum_i y_i log y_i    subject to  sum(y) = 1

Nobody should compute them that way. But their closed forms are known, so they show what the layers are worth: a solution, and a
derivative that comes from the conditions of optimality. Those stay right where the units saturate, at 1 - y = 1e-13, where
the derivative of an approximate solution would be noise.

Try next: other entropies; a row of constraints of your own, for which there is no closed form; `torch.func.hessian`.
"""

from pathlib import Path

import cvxpy as cp
import matplotlib.pyplot as plt
import torch

from cvxlayers.torch import CvxpyLayer

FIGURE = Path(__file__).resolve().parent / "figures" / "closed_forms.png"
STYLE = Path(__file__).with_name("style.mplstyle")
RANGE = 30.0


def programs():
    """{name: (layer, closed form, its inputs for numbers t)}; softmax has three inputs, t, 1 and 0."""
    x, y = cp.Parameter(1), cp.Variable(1)
    relu = cp.Problem(cp.Minimize(cp.sum_squares(y - x) / 2), [y >= 0])
    sigmoid = cp.Problem(cp.Minimize(-x @ y - cp.sum(cp.entr(y) + cp.entr(1 - y))))
    x3, y3 = cp.Parameter(3), cp.Variable(3)
    softmax = cp.Problem(cp.Minimize(-x3 @ y3 - cp.sum(cp.entr(y3))), [cp.sum(y3) == 1])
    return {
        "relu": (CvxpyLayer(relu, [x], [y]), torch.relu, lambda t: t[:, None]),
        "sigmoid": (CvxpyLayer(sigmoid, [x], [y]), torch.sigmoid, lambda t: t[:, None]),
        "softmax": (
            CvxpyLayer(softmax, [x3], [y3]),
            lambda v: torch.softmax(v, -1),
            lambda t: torch.stack([t, torch.ones_like(t), torch.zeros_like(t)], -1),
        ),
    }


def curves(function, inputs, t):
    """The first output and its derivative in t."""
    t = t.clone().requires_grad_()
    value = function(inputs(t))[:, 0]
    (derivative,) = torch.autograd.grad(value.sum(), t)
    return value.detach(), derivative


def draw(t, found, path):
    """Above: values and derivatives, over the closed forms. Below: the errors, over the whole range; none is drawn as 1e-20."""
    near = t.abs() <= 6
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(12, 6))
        for (name, (ours, exact)), (top, bottom) in zip(found.items(), axes.T, strict=True):
            for k, what in enumerate(("value", "derivative")):
                top.plot(t[near], exact[k][near], color="0.85", lw=8, zorder=0, label=None if k else "closed form")
                top.plot(t[near], ours[k][near], color=f"C{k}", label=f"{what} of the layer")
                bottom.semilogy(t, (ours[k] - exact[k]).abs().clamp_min(1e-20), ".", ms=4, color=f"C{k}")
            top.set_title(name if name != "softmax" else "softmax of (x, 1, 0), first entry")
            bottom.set(xlabel="x", ylim=(1e-20, 1e-12))
            bottom.axhline(torch.finfo(t.dtype).eps, color="0.4", lw=1, ls=":", label="machine epsilon")
        axes[0, 0].legend()
        axes[1, 0].legend(loc="upper right")
        axes[1, 0].set_ylabel("error of the layer")
        figure.savefig(path)
        plt.close(figure)


def main(points=601, figure=FIGURE):
    """Compare, print, draw; {name: (largest error of the value, of the derivative)}."""
    t = torch.linspace(-RANGE, RANGE, points, dtype=torch.float64)
    found = {}
    for name, (layer, closed_form, inputs) in programs().items():
        found[name] = curves(lambda v, layer=layer: layer(v)[0], inputs, t), curves(closed_form, inputs, t)
    errors = {name: [(a - b).abs().max().item() for a, b in zip(*pair, strict=True)] for name, pair in found.items()}
    for name, (value, derivative) in errors.items():
        print(f"{name:<8} largest error over [-{RANGE:g}, {RANGE:g}]: value {value:.0e}, derivative {derivative:.0e}")
    draw(t, found, figure)
    print(f"figure: {figure}")
    return errors


if __name__ == "__main__":
    main()
