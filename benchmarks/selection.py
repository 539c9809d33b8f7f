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

import time
import warnings

import cvxpy as cp
import torch
from cases import installed, limits, machine, parser

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
        found["CVXPY form"] = cvxpy_form(name, n)
    return found


def measured(functions, x, c, most, seconds):
    """{name: (forward ms, backward ms, y, gradient)}, all in turn."""
    best = {}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or (rounds < most and time.perf_counter() < end):
        for name, function in functions.items():
            repeat = 1 if name == "CVXPY form" else max(1, min(50, 200_000 // x.numel()))
            start = time.perf_counter()
            ys = [function(x) for _ in range(repeat)]
            middle = time.perf_counter()
            for y in ys:
                (g,) = torch.autograd.grad(y, x, c)
            finish = time.perf_counter()
            f, b = 1e3 * (middle - start) / repeat, 1e3 * (finish - middle) / repeat
            last = best.get(name, (f, b))
            best[name] = (min(f, last[0]), min(b, last[1]), ys[-1].detach(), g)
        rounds += 1
    return best


def main():
    """Print a line for each function and size."""
    given = parser(__doc__).parse_args()
    rounds, seconds = limits(given)
    warnings.simplefilter("ignore")
    print(machine())
    for package, hint in (("entmax", "make peers"), ("lml_official", "lml.py of github.com/locuslab/lml by this name")):
        if not installed(package):
            print(f"{package} is not installed, skipped ({hint})")
    for name in ("sparsemax", "sparse_topk", "lml"):
        for dtype in (torch.float32, torch.float64) if given.only in name else ():
            for n, B in SIZES[:: 2 if given.quick else 1]:
                generator = torch.Generator().manual_seed(n + B)
                x = torch.randn(B, n, dtype=dtype, generator=generator).requires_grad_()
                c = torch.randn(B, n, dtype=dtype, generator=generator)
                y = reference(name, x)
                g = gradient(name, y, c)
                print(f"{name}, n = {n}, B = {B}, {str(dtype)[6:]}: forward + backward (errors of y and of the gradient)")
                for who, (f, b, found, slope) in measured(contestants(name, n, B, dtype), x, c, 10 * rounds, seconds).items():
                    errors = (
                        f" ({(found - y).abs().max():.0e}, {(slope - g).abs().max():.0e})" if who != "torch.softmax" else ""
                    )
                    print(f"    {who:14} {f:8.3f} + {b:.3f}{errors}", flush=True)


if __name__ == "__main__":
    main()
