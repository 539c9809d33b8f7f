"""Euclidean projections onto convex sets."""

from __future__ import annotations

import numpy as np

from .. import sets
from ..errors import ProblemError, ShapeError
from ..layers.balls import Diamond, Euclidean, Maximum
from ..layers.birkhoff import Birkhoff
from ..layers.box import Box
from ..layers.cones import SecondOrder, Semidefinite
from ..layers.halfspace import Halfspace, Hyperplane
from ..layers.simplex import CappedSimplex, Simplex
from .base import axis_of, size_of
from .quadratic import Quadratic

BALLS: dict[float, type] = {1: Diamond, 2: Euclidean, np.inf: Maximum}
MATRICES: dict[type, type] = {sets.PSD: Semidefinite, sets.Birkhoff: Birkhoff}
VECTORS: dict[type, tuple] = {  # sets of vectors: the map, and its parameters as they come: vectors and scalars
    sets.Hyperplane: (Hyperplane, ("a",), ("b",)),
    sets.Halfspace: (Halfspace, ("a",), ("b",)),
    sets.Box: (Box, ("low", "high"), ()),
    sets.Simplex: (Simplex, (), ("total",)),
    sets.CappedSimplex: (CappedSimplex, ("upper",), ("k",)),
    sets.SecondOrderCone: (SecondOrder, (), ()),
}


class Projections(Quadratic):
    """project."""

    def project(self, x, set, axis=-1, *, dim=None):
        """The point of a set that is nearest to x: argmin |y - x| subject to y in the set.

        x: vectors, with any leading dimensions; for sets of matrices (..., n, n). set: one of `cvxlayers.sets`, whose
        parameters are numbers or arrays with leading dimensions that broadcast against those of x; vectors in them are in their
        last axis. axis, or dim: that of the vectors in x. Returns an array like x, differentiable in x and in the parameters.

        The Jacobian in x is symmetric, with eigenvalues in [0, 1]. Where there is none, on a boundary and at ties, it is that
        of the smaller face: the projection onto a ball of radius 0 has the derivative 0 in x. A row with NaN is NaN. Raises
        ProblemError for what is no set, ShapeError for vectors of another length, and SolverError, naming the items, for sets
        that are empty (NaN in compiled code). The sources of the methods are with the sets.
        """
        if not isinstance(set, sets.Set):
            raise ProblemError(
                f"project got the set {set!r}; expected one of cvxlayers.sets, such as sets.Simplex(): {', '.join(sets.SETS)}"
            )
        x = self._all(x)[0]
        if type(set) in MATRICES:
            return self._project_matrices(MATRICES[type(set)], x, set, axis, dim)
        axis = axis_of(x, axis, dim)
        last = self._last(x, size_of(x, axis, 1), axis)
        y = self._project_polyhedron(last, set) if isinstance(set, sets.Polyhedron) else self._project_vectors(last, set)
        return y if axis == -1 else self._arrays.moveaxis(y, -1, axis)

    def _project_vectors(self, x, set):
        make, vectors, scalars = (BALLS[set.norm], (), ("radius",)) if isinstance(set, sets.Ball) else VECTORS[type(set)]
        n = size_of(x, -1)
        own = [self._parameter(x, set, name, n) for name in vectors]
        return self._apply(make(n), x, *own, *(self._with_axis(self._beside(x, getattr(set, name))) for name in scalars))[0]

    def _beside(self, x, value):
        """A parameter as an array; numbers and NumPy arrays in the dtype of x."""
        return self._arrays.asarray(value, x if isinstance(value, (bool, int, float, list, tuple, np.ndarray)) else None)

    def _parameter(self, x, set, name, n):
        v = self._beside(x, getattr(set, name))
        found = size_of(v, -1) if v.shape else 1
        if found not in (1, n):
            raise ShapeError(f"{type(set).__name__}: {name!r} has vectors of length {found}; expected {n}, as x has")
        return v if found == n and v.shape else self._arrays.broadcast_to(v, (*self._arrays.shape(v)[:-1], n))

    def _project_matrices(self, make, x, set, axis, dim):
        if axis != -1 or dim is not None:
            raise ShapeError(f"{type(set).__name__} is a set of matrices, in the last two axes of x; leave out axis and dim")
        if len(x.shape) < 2 or size_of(x, -1) != size_of(x, -2):
            raise ShapeError(f"{type(set).__name__}: x has the shape {tuple(x.shape)}; expected (..., n, n)")
        n = size_of(x, -1, 1)
        return self._split(self._apply(make(n), self._merged(x, 2))[0], (n, n))

    def _project_polyhedron(self, x, set):
        rows = [None if v is None else self._beside(x, v) for v in set.values()]
        return self.qp(self._beside(x, np.eye(size_of(x, -1))), -x, *rows)
