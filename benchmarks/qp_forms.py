"""The QPs of `problems.py` as packages for QPs want them, from the same parameters.

    minimize 1/2 z'Qz + p'z   subject to  G z <= h,  A z = b

Each form is a function (xp, *parameters) -> (Q, p, G, h, A, b), A and b None where there are no equalities; xp is torch or
jax.numpy, so that gradients pass through it. All arrays have a leading batch dimension. `outputs` takes z to the layer's.
"""

from __future__ import annotations

import problems


def dense_qp(xp, Q, p, G, h):
    return Q, p, G, h, None, None


def optnet_qp(xp, L, p, G, h):
    return L.mT @ L, p, G, h, None, None


def box_qp(xp, L, p, l, u):
    eye = xp.eye(p.shape[-1], dtype=p.dtype)
    return L.mT @ L, p, _each(xp, xp.concatenate([eye, -eye]), p), xp.concatenate([u, -l], -1), None, None


def sparse_qp(xp, p, b, h):
    A, G = (xp.asarray(M.toarray()) for M in problems.sparse_rows(p.shape[-1]))
    return _each(xp, xp.eye(p.shape[-1], dtype=p.dtype), p), p, _each(xp, G, p), h, _each(xp, A, p), b


def simplex(xp, q):
    eye, ones = xp.eye(q.shape[-1], dtype=q.dtype), xp.ones_like(q)
    return _each(xp, eye, q), -q, _each(xp, -eye, q), 0 * q, ones[:, None], ones[:, :1]


def sudoku(xp, p, A, c):
    eye = xp.eye(p.shape[-1], dtype=p.dtype)
    return _each(xp, 0.1 * eye, p), p, _each(xp, -eye, p), 0 * p, A, c


def mpc(xp, A, B, b, x0):
    """z: the states, one step after the other, then the inputs. The rows: x_0 = x0, then x_{t+1} - A x_t - B u_t = b."""
    batch, states, inputs = B.shape
    steps = 20
    now, eye = xp.eye(steps + 1, dtype=A.dtype), xp.eye(states, dtype=A.dtype)
    before = xp.concatenate([0 * now[:1], now[:-1]])  # row t + 1 has its one at t
    of_states = xp.einsum("ts,ij->tisj", now, eye)[None] - xp.einsum("ts,bij->btisj", before, A)
    of_inputs = -xp.einsum("ts,bij->btisj", before, B)
    rows = (steps + 1) * states
    E = xp.concatenate([of_states.reshape(batch, rows, rows), of_inputs.reshape(batch, rows, -1)], -1)
    size = rows + (steps + 1) * inputs
    zero, whole = xp.zeros((batch, size), dtype=A.dtype), xp.eye(size, dtype=A.dtype)
    G = xp.concatenate([whole[rows:], -whole[rows:]])
    right = xp.concatenate([x0, xp.concatenate([b] * steps, -1)], -1)
    limits = xp.ones((batch, G.shape[0]), dtype=A.dtype)
    return _each(xp, whole, zero), zero, _each(xp, G, zero), limits, E, right


def outputs(name, z):
    """z (B, n) -> the value of the layer's variable."""
    return z[:, 168:].reshape(-1, 21, 4).mT if name == "mpc" else z


def _each(xp, M, like):
    return xp.broadcast_to(M, (like.shape[0], *M.shape[-2:]))


FORMS = {f.__name__: f for f in (dense_qp, optnet_qp, box_qp, sparse_qp, simplex, sudoku, mpc)}
