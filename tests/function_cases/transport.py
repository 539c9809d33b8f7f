"""Soft assignment and optimal transport."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(11)


def scores(*shape):
    return RNG.standard_normal(shape)


def masses(n):
    a = RNG.random(n) + 0.1
    return a / a.sum()


CASES = {
    "sinkhorn": Case("sinkhorn", tuple((scores(4, 4), np.array(tau)) for tau in (0.2, 0.5, 1.0)), tolerance=1e-5, second=True),
    "optimal_transport": Case(
        "optimal_transport",
        tuple((RNG.random((5, 3)), masses(5), masses(3), np.array(eps)) for eps in (0.05, 0.1, 0.5)),
        tolerance=1e-5,
        second=True,
    ),
}
