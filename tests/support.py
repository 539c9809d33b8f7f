"""What several test files share: NumPy access to a compiled case, and CVXPY's own solution of it."""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np
import scipy.sparse as sp

from cvxlayers.layer import ConeLayer

from .problems import CASES


def flat(values):
    """Values as a layer's inputs: (1, size), complex ones as pairs."""
    out = []
    for v in map(np.asarray, values):
        v = np.stack([v.real, v.imag], -1) if np.iscomplexobj(v) else v
        out.append(np.asarray(v, np.float64).reshape(1, -1))
    return out


@functools.cache
def compiled(name, solver=None):
    """(case, ConeLayer, theta, outputs, saved) of a case, solved once."""
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp, solver=solver)
    theta = flat(case.values)
    return case, layer, theta, *layer.forward(*theta)


def tangents(layer):
    """Random directions for the parameters."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, k)) for k in layer.in_sizes]


def assign(parameters, values):
    """Set the values of CVXPY parameters."""
    for p, v in zip(parameters, values, strict=True):
        if p.attributes["sparsity"]:
            p.value_sparse = sp.coo_array((v[p.sparse_idx], p.sparse_idx), shape=v.shape)
        else:
            p.value = v


def cvxpy_solution(case, tol=1e-11):
    """CVXPY's values of the case's variables, by Clarabel at a tight tolerance."""
    assign(case.parameters, case.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.problem.solve(solver="CLARABEL", gp=case.gp, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
        values = [v.value for v in case.variables]
    return [
        np.asarray(v.toarray() if sp.issparse(v) else v).reshape(x.shape) for v, x in zip(values, case.variables, strict=True)
    ]


def central(function, values, directions, e=1e-4):
    """The derivative of function(values), a list of arrays, along the directions: differences, extrapolated once."""

    def difference(e):
        up, down = (function([v + k * e * d for v, d in zip(values, directions, strict=True)]) for k in (1, -1))
        return [(np.asarray(a) - np.asarray(b)) / (2 * e) for a, b in zip(up, down, strict=True)]

    return [(4 * fine - coarse) / 3 for fine, coarse in zip(difference(e / 2), difference(e), strict=True)]


class Calculus:
    """The QP as a function of its second parameter, by the core, and the calculus of sum(sin(x) w) written out in NumPy."""

    def __init__(self, core, values, w):
        self.core, self.w = core, np.asarray(w, np.float64)
        self.values = flat(values)

    def _solved(self, p):
        L, _, G, h = self.values
        return self.core.forward(L, *flat([p]), G, h)

    def solution(self, p):
        """x(p)."""
        return self._solved(p)[0][0][0]

    def jacobian(self, p):
        """dx/dp."""
        n, m = self.core.out_sizes
        return self.core.vjp(self._solved(p)[1], np.eye(n), np.zeros((n, m)))[1]

    def gradient(self, p):
        """The gradient of sum(sin(x) w)."""
        return (np.cos(self.solution(p)) * self.w) @ self.jacobian(p)

    def hessian(self, p):
        """Its Hessian, by differences."""
        p = np.asarray(p, np.float64)
        return np.stack([central(lambda v: [self.gradient(v[0])], [p], [d])[0] for d in np.eye(p.size)])


def largest(found, expected):
    """Largest difference in lists of arrays, relative to the largest entry of all that are expected."""
    size = max(np.abs(np.asarray(b)).max(initial=0) for b in expected)
    worst = max(np.abs(np.asarray(a) - np.asarray(b)).max(initial=0) for a, b in zip(found, expected, strict=True))
    return worst / (size if size > 1e-9 else 1)


def batch_size(arrays):
    """How many items a call has with these inputs (..., k)."""
    return math.prod(np.broadcast_shapes(*(a.shape[:-1] for a in arrays)))


def relative(a, b):
    """Largest difference relative to the largest entry of b."""
    a, b = np.asarray(a), np.asarray(b)
    return np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300)


def factored(monkeypatch):
    """Layers from here on are as if they were large, and without the native engine: K is factorized item by item."""
    without_engine(monkeypatch)
    monkeypatch.setattr("cvxlayers.linsolve.DENSE", 0)


def without_engine(monkeypatch):
    """Layers from here on are as if the native engine had not been built."""
    monkeypatch.setattr("cvxlayers.native.available", lambda: False)
