"""What the PyTorch tests share: layers of the cases, and functions of them."""

import torch

from cvxlayers.torch import CvxpyLayer

from .conic import conic
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


def conic_loss(cone):
    """(values of P, q, A, b, a smooth function of them through the solution and its dual)."""
    case = conic(cone)
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)

    def loss(*values):
        return sum(
            (torch.sin(o) * torch.linspace(1, 2, o.numel(), dtype=o.dtype).reshape(o.shape)).sum() for o in layer(*values)
        )

    return [torch.tensor(v) for v in case.values], loss
