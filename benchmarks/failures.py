"""What a layer does where there is no good answer: ours, and cvxpylayers if it is installed (pip install cvxpylayers).

Each line is one input; a silent wrong answer is a returned number that solves no problem. Run: python benchmarks/failures.py
"""

from __future__ import annotations

import importlib.util
import math
import warnings

import cvxpy as cp
import torch

from cvxlayers.torch import CvxpyLayer


def infeasible(make):
    b, x = cp.Parameter(2), cp.Variable(2)
    layer = make(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1]), [b], [x])
    value = torch.tensor([[0.0, 0.5], [0.0, 2.0]], requires_grad=True)
    (out,) = layer(value)
    out.sum().backward()
    return f"item 1 = {numbers(out[1])}, gradient {numbers(value.grad[1])}"


def unbounded(make):
    c, x = cp.Parameter(2), cp.Variable(2)
    layer = make(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x])
    return numbers(layer(torch.tensor([-1.0, 1.0]))[0])


def not_a_number(make):
    b, x = cp.Parameter(2), cp.Variable(2)
    layer = make(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
    return numbers(layer(torch.tensor([math.nan, 1.0]))[0])


def redundant_equalities(make):
    A, b, x = cp.Parameter((3, 2)), cp.Parameter(3), cp.Variable(2)
    layer = make(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), [A, b], [x])
    (out,) = layer(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([1.0, 2, 3]))
    return f"{numbers(out)} (exact: 1, 2)"


def softmax_near_a_vertex(make):
    x, y = cp.Parameter(2), cp.Variable(2)
    layer = make(cp.Problem(cp.Maximize(x @ y + 0.5 * cp.sum(cp.entr(y))), [cp.sum(y) == 1]), [x], [y])
    value = torch.tensor([0.0, 8.0], requires_grad=True)
    layer(value)[0][1].backward()
    p = 1 / (1 + math.exp(16))
    return f"gradient {value.grad[1]:.4e} (exact: {2 * p * (1 - p):.4e})"


def tiny_cotangent(make):
    b, x = cp.Parameter(2), cp.Variable(2)
    layer = make(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
    value = torch.tensor([1.0, 1.0], requires_grad=True)
    (1e-12 * layer(value)[0].sum()).backward()
    return f"gradient {numbers(value.grad)} (exact: 1e-12, 1e-12)"


CASES = {
    "one infeasible item of two": infeasible,
    "an unbounded LP": unbounded,
    "NaN in a parameter": not_a_number,
    "redundant equality rows": redundant_equalities,
    "softmax of logits 0, 8 at temperature 0.5": softmax_near_a_vertex,
    "a cotangent of size 1e-12": tiny_cotangent,
}


def numbers(tensor):
    return "[" + ", ".join(f"{v:.6g}" for v in tensor.detach().reshape(-1).tolist()) + "]"


def main():
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    makers = {"cvxlayers": CvxpyLayer}
    if importlib.util.find_spec("cvxpylayers"):
        from cvxpylayers.torch import CvxpyLayer as Peer

        makers["cvxpylayers, diffcp"] = lambda *a: Peer(*a, solver="DIFFCP")
        makers["cvxpylayers, Moreau"] = lambda *a: Peer(*a, solver="MOREAU")
    else:
        print("cvxpylayers is not installed (pip install cvxpylayers): only ours")
    for title, case in CASES.items():
        print(title)
        for name, make in makers.items():
            try:
                result = case(make)
            except Exception as error:  # the point of the table: which error, and whether it tells
                result = f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
            print(f"    {name:22s} {result}")


if __name__ == "__main__":
    main()
