"""Where the dual variables of a constraint are in y, in the shapes and with the signs that CVXPY gives them.

y is the multiplier of s in K*: L = f + y'(Ax + s - b), so that d f*/d b = -y (f the minimized objective; a Maximize
problem has the duals of minimize -f). In geometric programs these are the multipliers of the log-log problem.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from .errors import ProblemError


def dual_matrix(constraint, k, pp, chain, rows) -> sp.coo_array:
    """The matrix W with vec(k-th dual variable of `constraint`) = W y, vec in C order."""
    shape = constraint.dual_variables[k].shape
    if any(a.is_complex() for a in constraint.args):
        raise ProblemError(f"the dual variable of the complex constraint {constraint} is not available as an output")
    final = chain.compose_constr_id_map().get(constraint.id, constraint.id)
    if final not in rows.start:
        raise ProblemError(f"CVXPY dropped the constraint {constraint} while compiling; its dual variable is not available")
    size = sum(a.size for a in next(c for c in pp.constraints if c.id == final).args)
    position = rows.start[final] + np.arange(size)
    scale = 1.0
    if isinstance(constraint, cp.SOC):
        cones = position.reshape(constraint.args[0].size, -1)
        position = cones[:, 0] if k == 0 else (cones[:, 1:] if constraint.axis == 1 else cones[:, 1:].T)
    elif isinstance(constraint, cp.PSD):
        position, scale = _unsvec(position, constraint.args[0].shape)
    elif isinstance(constraint, (cp.ExpCone, cp.PowCone3D)):
        position = np.reshape(position.reshape(-1, 3)[:, k], shape, order="F")
    elif isinstance(constraint, (cp.constraints.Equality, cp.constraints.Inequality, cp.Zero, cp.NonNeg, cp.NonPos)):
        position = np.reshape(position, shape, order="F")
    else:
        raise ProblemError(f"the dual variable of {type(constraint).__name__} {constraint} is not available as an output")
    position = position.reshape(shape).ravel()
    entry = np.arange(position.size)
    value = np.broadcast_to(scale, shape).ravel()
    return sp.coo_array((value, (entry, position)), shape=(position.size, rows.m))


def _unsvec(position, shape):
    n = shape[-1]
    col, row = np.tril_indices(n)
    index = np.zeros((n, n), np.int64)
    index[row, col] = index[col, row] = np.arange(row.size)
    scale = np.where(np.eye(n, dtype=bool), 1.0, np.sqrt(0.5))
    stacked = position.reshape(-1, row.size)[:, index]
    return stacked.reshape(shape), scale
