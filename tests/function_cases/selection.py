"""sparsemax and its relatives."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(7)


def scores(*shape):
    return RNG.standard_normal(shape)


CASES = {
    "sparsemax": Case("sparsemax", tuple((scores(6),) for _ in range(3)), axis=True, second=True),
}
