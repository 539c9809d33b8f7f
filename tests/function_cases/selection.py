"""sparsemax and its relatives."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(7)


def scores(*shape):
    return RNG.standard_normal(shape)


def bounds(n):
    """Upper bounds of which some hold."""
    u = RNG.uniform(0.05, 0.6, n)
    return u * max(1.0, 1.2 / u.sum())


def some(value):
    return np.array(value)


CASES = {
    "sparsemax": Case("sparsemax", tuple((scores(6),) for _ in range(3)), axis=True, second=True),
    "constrained sparsemax": Case(
        "constrained_sparsemax", tuple((scores(6), bounds(6)) for _ in range(3)), axis=True, second=True
    ),
    "constrained softmax": Case("constrained_softmax", tuple((scores(6), bounds(6)) for _ in range(3)), axis=True, second=True),
    "lml": Case(
        "lml",
        tuple((2 * scores(7), some(k), some(tau)) for k, tau in ((2.0, 1.0), (1.5, 0.4), (6.0, 2.0))),
        axis=True,
        second=True,
    ),
    "lml, k and tau fixed": Case("lml", tuple((scores(6),) for _ in range(3)), {"k": 2, "tau": 0.5}, axis=True, second=True),
    "sparse top-k": Case("sparse_topk", tuple((scores(6), some(k)) for k in (2.0, 1.3, 4.0)), axis=True, second=True),
    "sparse top-k, k fixed": Case("sparse_topk", tuple((scores(6),) for _ in range(3)), {"k": 2}, axis=True, second=True),
}
