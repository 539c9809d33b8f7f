"""Convex sets to project onto: `project(x, set)` of cvxlayers.torch, cvxlayers.jax and cvxlayers.tensorflow.

A set holds its definition and nothing else. Its parameters are numbers, NumPy arrays, or arrays of the framework that x is
of; project is differentiable in these. Vectors of a set have their entries in the last axis, whatever axis x has them in;
leading dimensions broadcast against those of x, so that there may be one set for all items or one for each.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from .errors import ProblemError


@dataclass(frozen=True, eq=False, repr=False)
class Set:
    """What all sets are."""

    def values(self) -> tuple:
        """The parameters and the options, in the order of the constructor."""
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of what is a choice, no array: after the parameters."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.metadata.get("option"))

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata.get("option"))

    def __repr__(self):
        parts = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(parts)})"


def _shown(value):
    """Numbers as they are, arrays by their shapes."""
    return f"<array {tuple(value.shape)}>" if getattr(value, "shape", ()) else repr(value)


@dataclass(frozen=True, eq=False, repr=False)
class Hyperplane(Set):
    """{x: a'x = b} for a (..., n) and b (...)."""

    a: Any
    b: Any = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Halfspace(Set):
    """{x: a'x <= b} for a (..., n) and b (...)."""

    a: Any
    b: Any = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Box(Set):
    """{x: low <= x <= high}, each a number or (..., n). Bounds may be infinite."""

    low: Any = 0.0
    high: Any = math.inf


@dataclass(frozen=True, eq=False, repr=False)
class Simplex(Set):
    """{x: x >= 0, sum(x) = total} for total (...). Source: Held, Wolfe, Crowder, Mathematical Programming 1974."""

    total: Any = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class CappedSimplex(Set):
    """{x: 0 <= x <= upper, sum(x) = k} for k (...), and upper a number or (..., n): the hull of the subsets of k elements.
    Source: Kiwiel, "Breakpoint searching algorithms for the continuous quadratic knapsack problem", 2008."""

    k: Any
    upper: Any = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class Ball(Set):
    """{x: |x| <= radius} for radius (...) and norm 1, 2 or inf. Raises ProblemError for another norm. Source: Duchi,
    Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball", ICML 2008."""

    radius: Any = 1.0
    norm: float = dataclasses.field(default=2, metadata={"option": True})

    def __post_init__(self):
        if self.norm not in (1, 2, math.inf):
            raise ProblemError(f"Ball has norm={self.norm!r}; expected 1, 2 or math.inf")


@dataclass(frozen=True, eq=False, repr=False)
class SecondOrderCone(Set):
    """{(t, z): |z| <= t}, t the first entry of a vector (..., n). Source: Busseti, Moursi, Boyd, "Solution refinement at
    regular points of conic problems", 2019."""


@dataclass(frozen=True, eq=False, repr=False)
class PSD(Set):
    """The symmetric positive semidefinite matrices (..., n, n). Of any matrix, the symmetric part is projected.
    Source: Malick, Sendov, "Clarke generalized Jacobian of the projection onto the cone of PSD matrices", 2006."""


@dataclass(frozen=True, eq=False, repr=False)
class Birkhoff(Set):
    """The doubly stochastic matrices (..., n, n): {X: X >= 0, X 1 = 1, X'1 = 1}. Source: Li, Sun, Toh, "On the efficient
    computation of a projector over the Birkhoff polytope", SIAM J. Optim. 2020."""


@dataclass(frozen=True, eq=False, repr=False)
class Polyhedron(Set):
    """{x: A x = b, G x <= h} for A (..., m, n), b (..., m), G (..., k, n), h (..., k); either pair may be None.

    Projected by `qp`: values that are not finite are errors, and rows that are active with multiplier 0 count as inactive in
    derivatives.
    """

    A: Any = None
    b: Any = None
    G: Any = None
    h: Any = None


SETS = {
    c.__name__: c
    for c in (Hyperplane, Halfspace, Box, Simplex, CappedSimplex, Ball, SecondOrderCone, PSD, Birkhoff, Polyhedron)
}
