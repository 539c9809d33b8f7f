"""Units: each item is solved in units in which its b and its q are of size one.

    b = beta b',  q = gamma q',  P = (gamma / beta) P',  A = A'      x = beta x',  s = beta s',  y = gamma y'

All cones are cones, so this is the same problem. Solvers and the residual test compare with one: without this, a problem
in small units would be accepted unsolved, and one in large units reported infeasible. The units are powers of two, so
that nothing is rounded, and one wherever the data are within a factor of 1000 of one, so that nothing is copied.
"""

from __future__ import annotations

import numpy as np

from .program import ConeData

RANGE = 2.0**10
POWERS = {"P": (1, -1), "q": (0, -1), "A": (0, 0), "b": (-1, 0)}  # of beta and gamma, in data' = data * beta^. * gamma^.


def units(data: ConeData) -> np.ndarray:
    """(beta, gamma) of each item, as an array (1|B, 2)."""
    q, b = np.abs(data.q), np.abs(data.b)
    if _ordinary(q.max(-1, initial=0)) and _ordinary(b.max(-1, initial=0)):
        return np.ones((1, 2))
    beta, gamma, curvature = _size(b), _size(q), np.abs(data.P).max(-1, initial=0)
    beta, gamma, curvature = np.broadcast_arrays(beta, gamma, curvature)
    # What a missing b or q leaves open is chosen such that P' is of size one.
    ratio = np.where(curvature > 0, curvature, 1)
    free_beta = np.where(gamma > 0, gamma / ratio, 1)
    beta = np.where(beta > 0, beta, np.where(curvature > 0, free_beta, 1))
    gamma = np.where(gamma > 0, gamma, np.where(curvature > 0, ratio * beta, 1))
    found = np.stack([beta, gamma], -1)
    return np.where((found > RANGE) | (found < 1 / RANGE), np.exp2(np.round(np.log2(found))), 1.0)


def _ordinary(size):
    return ((size <= RANGE) & (size >= 1 / RANGE)).all()


def _size(a):
    """The median of the nonzero entries of each row, 0 if there are none: one bound of 1e20 must not set the unit."""
    if not a.shape[-1]:
        return np.zeros(a.shape[:-1])
    ordered = np.sort(a, -1)
    zeros = (ordered == 0).sum(-1)
    middle = zeros + (a.shape[-1] - zeros) // 2
    inside = np.minimum(middle, a.shape[-1] - 1)[..., None]
    return np.where(zeros < a.shape[-1], np.take_along_axis(ordered, inside, -1)[..., 0], 0.0)


def rescale(name: str, values, unit):
    """Block `name` of the data, its tangent or its cotangent (a diagonal map is its own adjoint), in the units (..., 2)."""
    beta, gamma = POWERS[name]
    if values.shape[-1] == 0 or (beta == gamma == 0) or (unit == 1).all():
        return values
    return values * unit[..., :1] ** beta * unit[..., 1:] ** gamma
