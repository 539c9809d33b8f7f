"""Soft sorting and ranking: forward + backward of a batch in milliseconds, float64, next to the errors.

    eps = 1, x standard normal (B, n); torch.sort to compare with, torchsort 0.1.10 (it compiles its kernel when it is
    installed, by `make peers`, which takes a PATH without nvcc), and the projection as a CvxpyLayer up to n = 100

All run in turn in one process; the best call counts. Errors are the largest entries relative to the projection by SciPy's
isotonic regression, for the first row, and to the derivative that its blocks have. Run: python benchmarks/sorting.py [--quick]
"""

from __future__ import annotations

import numpy as np
import torch
from cases import difference, installed
from report import Row, functions_in_turn, run
from scipy.optimize import isotonic_regression

from cvxlayers.torch import CvxpyLayer, soft_rank, soft_sort

SIZES = [(n, B) for n in (10, 100, 1000, 10000) for B in (1, 128)]
LARGEST = 100  # variables, for the form in CVXPY


def reference(x, c, rank):
    """y and the gradient of <c, y> in x, for one row, by SciPy."""
    n, order = x.size, np.argsort(x)
    z, w = (x[order], np.arange(1.0, n + 1)) if rank else (np.arange(1.0, n + 1), x[order])
    found = isotonic_regression(z - w)
    y, g = np.empty(n), np.empty(n)
    sizes = np.diff(found.blocks)

    def mean(a):
        return np.repeat(np.add.reduceat(a, found.blocks[:-1]) / sizes, sizes)

    if rank:
        y[order], g[order] = z - found.x, c[order] - mean(c[order])
    else:
        y, g[order] = z - found.x, mean(c)
    return y, g


def in_cvxpy(n, rank):
    """The projection, by the isotonic regression of the sorted entries: the QP in CVXPY, between torch's sort and gather."""
    import cvxpy as cp

    t, v = cp.Parameter(n), cp.Variable(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(v - t)), [v[:-1] <= v[1:]]), [t], [v])
    one_to_n = torch.arange(1.0, n + 1, dtype=torch.float64)

    def function(x):
        s, order = torch.sort(x)
        if not rank:
            return one_to_n - layer(one_to_n - s)[0]
        return (s - layer(s - one_to_n)[0]).gather(-1, torch.argsort(order))

    return function


def functions(n, rank):
    """name -> function of x."""
    found = {"cvxlayers": soft_rank if rank else soft_sort, "torch.sort": lambda x: torch.sort(x).values}
    if installed("torchsort"):
        import torchsort

        found["torchsort"] = torchsort.soft_rank if rank else torchsort.soft_sort
    if 1 < n <= LARGEST:
        found["CvxpyLayer"] = in_cvxpy(n, rank)
    return found


def rows(options):
    """A row for each function and size."""
    if not installed("torchsort"):
        print("torchsort is not installed, skipped: make peers")
    for rank in (True, False):
        for n, B in SIZES[:4] if options.quick else SIZES:
            rng = np.random.default_rng(n + B)
            x = torch.tensor(rng.standard_normal((B, n)), requires_grad=True)
            gx = torch.tensor(rng.standard_normal((B, n)))
            y, g = reference(x.detach().numpy()[0], gx.numpy()[0], rank)

            def errors(found, slope, y=y, g=g):
                return difference(found[0], y), difference(slope[0], g)

            records = list(functions_in_turn(functions(n, rank), x, gx, errors, options))
            yield Row(f"soft_{'rank' if rank else 'sort'} n={n}", B, records)


if __name__ == "__main__":
    run(__doc__, rows)
