"""Support vector machines and heads."""

import numpy as np

from .case import Case

RNG = np.random.default_rng(12)


def binary():
    y = np.array([1, 1, 1, -1, -1, -1])
    return RNG.standard_normal((6, 3)) + 0.7 * y[:, None], y, np.float64(RNG.uniform(4, 6))


def task(*more):
    labels = np.array([0, 1, 2, 0, 1, 2])
    return RNG.standard_normal((2, 4)), RNG.standard_normal((6, 4)) + np.eye(3, 4)[labels], labels, *more


CASES = {
    "svm_binary": Case("svm_binary", tuple(binary() for _ in range(3)), fixed=(1,), second=True),
    "svm_crammer_singer": Case("svm_crammer_singer", tuple(task() for _ in range(3)), {"n_way": 3}, fixed=(2,), second=True),
    "ridge_head": Case("ridge_head", tuple(task() for _ in range(3)), {"n_way": 3, "lam": 2.0}, fixed=(2,), second=True),
}
