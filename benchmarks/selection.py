"""Soft selection, function against function: forward and backward in ms, on the CPU, next to the errors.

    sparsemax           y = argmin |y - x|^2 on the simplex             entmax.sparsemax
    sparse_topk, lml    k of n, by distance and by entropy              entmax.budget_bisect, the official lml
    all of them         the same problem as a CvxpyLayer                torch.softmax: what a function of scores costs at least

All that has one size runs in turn (A B A B ...) in this process; the best of the rounds counts. Errors are the largest ones
of y and of the gradient, against float64 by bisection to the last bit. Packages that are not installed are skipped: entmax
comes with `make peers`; the official lml has no package, put its lml.py on the path as lml_official.py.
Run: python benchmarks/selection.py [--quick]
"""

from __future__ import annotations

import cvxpy as cp
import torch
from cases import installed
from report import Row, functions_in_turn, run

import cvxlayers.torch as ours

SIZES = ((10, 1), (10, 128), (1000, 128), (10000, 16), (10000, 128))
K = 5
CVXPY_LARGEST = 10_000  # scores of a batch up to which the CVXPY form is measured


def reference(name, x):
    """y in float64, by bisection for the scalar that all of these problems are left with."""
    x = x.detach().double()
    total = 1 if name == "sparsemax" else K
    low, high = x.amin(-1, keepdim=True) - 50, x.amax(-1, keepdim=True) + 50

    def at(t):
        return {"sparsemax": (x - t).clip(0), "sparse_topk": (x - t).clip(0, 1), "lml": torch.sigmoid(x - t)}[name]

    for _ in range(100):
        middle = (low + high) / 2
        above = at(middle).sum(-1, keepdim=True) > total
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return at((low + high) / 2)


def gradient(name, y, c):
    """That of <c, y> at y, from the formula of the Jacobian."""
    w = y * (1 - y) if name == "lml" else ((y > 0) & ((y < 1) | (name == "sparsemax"))).double()
    return w * (c.double() - (w * c).sum(-1, keepdim=True) / w.sum(-1, keepdim=True).clip(min=1e-300))


def cvxpy_form(name, n):
    """The same problem by its definition."""
    x, y = cp.Parameter(n), cp.Variable(n)
    if name == "lml":
        objective = -x @ y - cp.sum(cp.entr(y)) - cp.sum(cp.entr(1 - y))
    else:
        objective = cp.sum_squares(y) / 2 - x @ y
    bounds = [y >= 0] if name == "sparsemax" else [y >= 0, y <= 1] if name == "sparse_topk" else []
    layer = ours.CvxpyLayer(
        cp.Problem(cp.Minimize(objective), [*bounds, cp.sum(y) == (1 if name == "sparsemax" else K)]), [x], [y]
    )
    return lambda x: layer(x)[0]


def contestants(name, n, B, dtype):
    """Functions by their names; ours first."""
    found = {"cvxlayers": {"sparsemax": ours.sparsemax, "sparse_topk": lambda x: ours.sparse_topk(x, K)}.get(name)}
    found["cvxlayers"] = found["cvxlayers"] or (lambda x: ours.lml(x, K))
    found["torch.softmax"] = lambda x: torch.softmax(x, -1)
    if installed("entmax"):
        import entmax

        if name == "sparsemax":
            found["entmax"] = lambda x: entmax.sparsemax(x, -1)
        if name == "sparse_topk":
            budgets = torch.full((B,), K, dtype=dtype)
            found["entmax"] = lambda x: entmax.budget_bisect(x, budgets[:, None], dim=-1)
    if name == "lml" and installed("lml_official"):
        from lml_official import LML

        found["lml"] = LML(K)
    if n * B <= CVXPY_LARGEST:
        found["CvxpyLayer"] = cvxpy_form(name, n)
    return found


def rows(options):
    """A row for each function and size."""
    for package, hint in (("entmax", "make peers"), ("lml_official", "lml.py of github.com/locuslab/lml by this name")):
        if not installed(package):
            print(f"{package} is not installed, skipped ({hint})")
    for name in ("sparsemax", "sparse_topk", "lml"):
        for dtype in (torch.float64, torch.float32) if options.only in name else ():
            for n, B in SIZES[:: 2 if options.quick else 1]:
                generator = torch.Generator().manual_seed(n + B)
                x = torch.randn(B, n, dtype=dtype, generator=generator).requires_grad_()
                c = torch.randn(B, n, dtype=dtype, generator=generator)
                exact = reference(name, x)
                y, g = exact.numpy(), gradient(name, exact, c).numpy()

                def errors(found, slope, y=y, g=g):
                    return float(abs(found - y).max()), float(abs(slope - g).max())

                records = list(functions_in_turn(contestants(name, n, B, dtype), x, c, errors, options))
                double = dtype is torch.float64
                yield Row(f"{name} n={n}" + ("" if double else ", float32"), B, records, drawn=double)


if __name__ == "__main__":
    run(__doc__, rows)
