"""Where the dual variables of a constraint are in y, in the shapes and with the signs that CVXPY gives them.

y is the multiplier of s in K*: L = f + y'(Ax + s - b), so that d f*/d b = -y (f the minimized objective; a Maximize
problem has the duals of minimize -f). In geometric programs these are the multipliers of the log-log problem.

A complex dual variable Y belongs to the inner product Re tr(Y^H E): L = f + Re tr(Y^H E) for E == 0, and
L = f - Re tr(Y^H E) for E >> 0. CVXPY compiles the latter as [Re E, -Im E; Im E, Re E] >> 0, of dual D, whence
Y = D11 + D22 + i (D21 - D12). D itself is not unique; Y is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import PowConeND
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.cone2cone.exact import ExactCone2Cone, PowNDConversion

from .errors import ProblemError

_ROWS = (cp.constraints.Equality, cp.constraints.Inequality, cp.Zero, cp.NonNeg, cp.NonPos)
_CONES = (cp.SOC, cp.PSD, cp.ExpCone, cp.PowCone3D, PowConeND)
_COMPLEX = (cp.constraints.Equality, cp.Zero, cp.PSD)


def has_duals(constraint) -> bool:
    """Whether the dual variables of a constraint can be outputs."""
    return isinstance(constraint, _COMPLEX if constraint.is_complex() else (*_ROWS, *_CONES))


class Compiled(NamedTuple):
    """What CVXPY made of a problem: its cone program, the reductions that led there, and the inverse data of each."""

    program: Any
    chain: Any
    inverse: list

    def inverse_of(self, reduction):
        """The inverse data of the reduction of this type; None if it was not needed."""
        pairs = zip(self.chain.reductions, self.inverse, strict=True)
        return next((data for r, data in pairs if isinstance(r, reduction)), None)


def dual_matrix(constraint, k, compiled, rows) -> sp.coo_array:
    """The matrix W with vec(k-th dual variable of `constraint`) = W y, vec in C order, complex ones as (re, im) pairs."""
    shape = constraint.dual_variables[k].shape
    parts = _complex(constraint, compiled, rows) if constraint.is_complex() else [[_real(constraint, k, compiled, rows)]]
    entry = np.arange(math.prod(shape))
    W = sp.coo_array((entry.size * len(parts), rows.m))
    for i, terms in enumerate(parts):
        for position, scale in terms:
            value, column = np.broadcast_to(scale, shape).ravel(), np.reshape(position, shape).ravel()
            W += sp.coo_array((value, (entry * len(parts) + i, column)), shape=W.shape)
    return W


def _real(constraint, k, compiled, rows):
    """(positions in y, scale) of the k-th dual variable of a real constraint."""
    shape = constraint.dual_variables[k].shape
    position = _positions(constraint, constraint.id, compiled, rows)
    if isinstance(constraint, _ROWS):
        return np.reshape(position, shape, order="F"), 1.0
    if isinstance(constraint, cp.SOC):
        cones = position.reshape(constraint.args[0].size, -1)
        return cones[:, 0] if k == 0 else (cones[:, 1:] if constraint.axis == 1 else cones[:, 1:].T), 1.0
    if isinstance(constraint, cp.PSD):
        return _unsvec(position, constraint.args[0].shape)
    if isinstance(constraint, (cp.ExpCone, cp.PowCone3D)):
        return np.reshape(position.reshape(-1, 3)[:, k], shape, order="F"), 1.0
    if isinstance(constraint, PowConeND):  # a tree of cones: CVXPY finds the leaves, of which W is made, and the root, z
        tree = position.reshape(-1, 3).T.astype(float)
        found = PowNDConversion.recover_dual(constraint, tree, compiled.inverse_of(ExactCone2Cone), None).astype(np.int64)
        return found[-1] if k == 1 else (found[:-1].T if constraint.axis == 1 else found[:-1]), 1.0
    raise ProblemError(f"the dual variable of {type(constraint).__name__} {constraint} is not available as an output")


def _complex(constraint, compiled, rows):
    """For the real and the imaginary part, the terms (positions in y, scale) that add up to it."""
    if isinstance(constraint, cp.PSD):
        n = constraint.args[0].shape[-1]
        D, scale = _unsvec(_positions(constraint, constraint.id, compiled, rows), (2 * n, 2 * n))
        a, b = slice(n), slice(n, None)
        real = [(D[a, a], scale[a, a]), (D[b, b], scale[b, b])]
        return real, [(D[b, a], scale[b, a]), (D[a, b], -scale[a, b])]
    if isinstance(constraint, (cp.constraints.Equality, cp.Zero)):  # a real one, unless all is imaginary, and an imaginary one
        shape, imaginary = constraint.dual_variables[0].shape, compiled.inverse_of(Complex2Real).real2imag[constraint.id]
        return [
            [(np.reshape(_positions(constraint, number, compiled, rows), shape, order="F"), 1.0)] if present else []
            for number, present in ((constraint.id, not constraint.is_imag()), (imaginary, True))
        ]
    raise ProblemError(f"CVXPY defines no dual variable for the complex constraint {constraint} ({type(constraint).__name__})")


def _positions(constraint, number, compiled, rows):
    """The rows of the constraint that had this id when the compilation began; it is, or is a part of, `constraint`."""
    final = compiled.chain.compose_constr_id_map().get(number, number)
    if final not in rows.start:
        raise ProblemError(f"CVXPY dropped the constraint {constraint} while compiling; its dual variable is not available")
    size = sum(a.size for a in next(c for c in compiled.program.constraints if c.id == final).args)
    return rows.start[final] + np.arange(size)


def _unsvec(position, shape):
    n = shape[-1]
    col, row = np.tril_indices(n)
    index = np.zeros((n, n), np.int64)
    index[row, col] = index[col, row] = np.arange(row.size)
    scale = np.where(np.eye(n, dtype=bool), 1.0, np.sqrt(0.5))
    stacked = position.reshape(-1, row.size)[:, index]
    return stacked.reshape(shape), scale
