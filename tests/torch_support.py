"""What the PyTorch tests share: layers of the cases, one function of a QP, and the smallest custom map."""

import torch

from cvxlayers import DiffMap, Saved
from cvxlayers.torch import CvxpyLayer

from .problems import CASES


def make(name):
    """(layer, values) of a case."""
    case = CASES[name]()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp)
    return layer, [torch.tensor(v) for v in case.values]


def leaves(values):
    """Copies that require gradients."""
    return [v.clone().requires_grad_() for v in values]


def qp_function():
    """(f, values, weights): one output of the QP as a function, its parameters, and a cotangent."""
    layer, values = make("qp")
    return (lambda *a: layer(*a)[0]), values, torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Cube(DiffMap):
    """x -> x^3."""

    in_sizes, out_sizes, saved = (3,), (3,), (Saved(3, (0,)),)

    def forward(self, x):
        return (x**3,), (x,)

    def jvp(self, saved, t):
        return (3 * saved[0] ** 2 * t,)

    vjp = jvp
