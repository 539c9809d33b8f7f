"""K solved by the native engine, for a whole batch, in refinement and in the derivatives.

For polyhedral cones K is the KKT matrix of the active set a, the rows with d = 1 (see `linsolve`):

    [ P    A_a' ] [u  ]     [r1  ]
    [ A_a  0    ] [w_a] = - [r2_a]        w = 0 elsewhere

For others it is P, B'A and the weights 1 - d, B = U diag(sqrt d), with B'A on a pattern of its own (see `turned`).
Where K is singular the engine finds the least-norm solution, and where it cannot, `linsolve` does.
"""

from __future__ import annotations

import math

import numpy as np

from .linsolve import ItemFactors, System, apply_dense, dense_inverse, is_small
from .memory import empty
from .native import chosen_build
from .threads import blas_for, workers


def engine_solve(structure, P, A, v, r1, r2):
    """(u, Bw, rank): the solutions with the engine alone, and what it says of each system (see `native.Plan.linear`).

    P (..., nnz), A (..., nnz), v (..., m), r1 (..., n), r2 (..., m): leading dimensions broadcast, as many of them in each
    array; those of r1 and r2 beyond the others are columns of one solve. rank has the leading dimensions of P, A and v.
    """
    if structure.K.polyhedral:
        return _linear(structure, P, A, v, None, r1, r2)
    system = System(structure, P, A, v)
    turned, weights = _turned(system)
    u, w, rank = _linear(structure, P, turned, v, weights, r1, system.root_transposed(r2))
    return u, system.root_times(w), rank


def _turned(system):
    """The values of B'A and the weights 1 - d."""
    values = system.structure.turned.values(system.spectrum, system.root, system.A)
    return values, 1 - system.spectrum.d


def _linear(structure, P, A, v, weights, r1, r2):
    n, lead = structure.n, np.broadcast_shapes(P.shape[:-1], A.shape[:-1], v.shape[:-1])
    right = np.broadcast_shapes(r1.shape[:-1], r2.shape[:-1], lead)
    own = [d for d, k in enumerate(lead) if k != 1]  # the dimensions of the systems; the others are columns
    order = [*own, *(d for d in range(len(lead)) if d not in own)]
    items = math.prod(lead)
    r = empty((*right, n + structure.m))
    np.negative(r1, out=r[..., :n])
    np.negative(r2, out=r[..., n:])
    columns = r if order == sorted(order) else r.transpose(*order, -1)
    shape = columns.shape
    P, A, v = (_rows(a, lead, items) for a in (P, A, v))
    columns = columns.reshape(items, math.prod(shape[len(own) : -1]), shape[-1])
    weights = None if weights is None else _rows(weights, lead, items)
    z, rank = structure.kkt_engine.linear(P, A, v, columns, weights=weights, threads=workers(), build=chosen_build())
    z = z.reshape(shape)
    z = z if order == sorted(order) else z.transpose(*np.argsort(order), -1)
    return z[..., :n], z[..., n:], rank.reshape(lead)


def solve(structure, P, A, v, r1, r2):
    """(u, Bw) as above, with the least-norm solution where the system is singular: of K up to `linsolve.DENSE`."""
    u, w, rank = engine_solve(structure, P, A, v, r1, r2)
    solved = (rank != 0) & ((rank != 3) | (not is_small(structure)))
    if not solved.all():
        lead, right = solved.shape, u.shape[:-1]
        P, A, v = (np.broadcast_to(a, lead + a.shape[-1:]) for a in (P, A, v))
        r1, r2 = (np.broadcast_to(a, right + a.shape[-1:]) for a in (r1, r2))
        for i in np.ndindex(lead):
            if solved[i]:
                continue
            columns = tuple(k if size != 1 else slice(None) for k, size in zip(i, lead, strict=True))
            u[columns], w[columns] = least_norm(structure, P[i], A[i], v[i], r1[columns], r2[columns])
    return u, w


def least_norm(structure, P, A, v, r1, r2):
    """(u, Bw) of one item, P (nnz), A (nnz), v (m); r1 (..., n), r2 (..., m)."""
    some = (None,) * (r1.ndim - 1)
    with blas_for(structure.n + structure.m):
        system = System(structure, P[some], A[some], v[some])
        if is_small(structure):
            F, _ = dense_inverse(system.dense().reshape(1, structure.n + structure.m, -1))
            return system.solve(apply_dense(F[0]), r1, r2)
        return system.solve(ItemFactors(structure, P[some], A[some], v[some]).inverse, r1, r2)


def singular(structure, P, A, v):
    """Whether K is singular, for each item of a flat batch (B,), with or without the engine."""
    if structure.kkt_engine is None:
        return ItemFactors(structure, P, A, v).singular
    B = max(len(P), len(A), len(v))
    nothing = np.zeros((B, 0, structure.n + structure.m))
    values, weights = (A, None) if structure.K.polyhedral else _turned(System(structure, P, A, v))
    _, rank = structure.kkt_engine.linear(P, values, v, nothing, weights=weights, threads=workers(), build=chosen_build())
    out = rank != 1
    for i in np.flatnonzero(rank == 0):
        one = [a[0 if len(a) == 1 else i] for a in (P, A, v)]
        if is_small(structure):
            out[i] = dense_inverse(System(structure, *one).dense()[None])[1][0]
        else:
            out[i] = ItemFactors(structure, *one).singular[()]
    return out


def _rows(a, lead, items):
    """(..., k) with leading dimensions that broadcast to `lead` -> (1|items, k)."""
    if math.prod(a.shape[:-1]) == 1:
        return a.reshape(1, a.shape[-1])
    return np.broadcast_to(a, lead + a.shape[-1:]).reshape(items, a.shape[-1])
