"""Soft sorting and ranking, where some entries are in blocks and some are alone."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(11)
ITEMS = tuple((RNG.standard_normal(4), np.array(eps)) for eps in (0.7, 0.3, 1.5))

CASES = {
    "soft_sort": Case("soft_sort", ITEMS, axis=True, second=True),
    "soft_sort, descending": Case("soft_sort", ITEMS, {"descending": True}, axis=True, second=True),
    "soft_rank": Case("soft_rank", ITEMS, axis=True, second=True),
    "soft_rank, odd length, one eps": Case(
        "soft_rank", tuple((x[:5],) for x, _ in ITEMS), {"eps": 0.4}, axis=True, second=True
    ),
}
