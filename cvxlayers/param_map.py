"""The affine map from parameters to conic data: theta -> (P, q, A, b, d), with its derivative and its adjoint.

    block = constant + sum over features f of  M_f phi_f(theta)

phi_f is a parameter theta_i or a formula of parameters (`formulas.py`): log theta_i in geometric programs, or what was lifted.
theta is a tuple of arrays (..., size), one for each parameter, flattened in C order; blocks are (..., rows). A block's
leading dimensions are those of the parameters that it depends on, so data that are the same for the whole batch are
never copied. d is the constant of the objective.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from .memory import empty, zeros
from .native import ops
from .program import Outer
from .threads import workers

DATA = ("P", "q", "A", "b")
BLOCKS = (*DATA, "d")


class LinearTerm:
    """A sparse matrix M as an operator on the last axis. Most are a scaled selection, done by indexing."""

    def __init__(self, matrix: sp.coo_array):
        matrix = sp.coo_array(matrix)
        matrix.sum_duplicates()
        keep = matrix.data != 0
        self.shape = matrix.shape
        self.rows, self.cols = (a[keep].astype(np.int64) for a in (matrix.row, matrix.col))
        self.values = matrix.data[keep].astype(np.float64)
        self._rows_distinct, self._cols_distinct = (np.bincount(a).max(initial=0) <= 1 for a in (self.rows, self.cols))
        self._csr = sp.csr_array((self.values, (self.rows, self.cols)), shape=self.shape)
        self._csc = self._csr.T.tocsr()

    def add_to(self, out, theta):
        """out += M theta, in place."""
        if ops.add_map(out, self.rows, self.cols, self.values, theta, workers()):
            return
        if self._rows_distinct:
            out[..., self.rows] += self.values * theta[..., self.cols]
        else:
            out += _columns(self._csr, theta)

    def adjoint(self, g):
        """M'g; g may be an `Outer` product."""
        out = zeros(g.shape[:-1] + self.shape[1:])
        if isinstance(g, Outer):
            rows, cols = g.pattern.rows[self.rows], g.pattern.cols[self.rows]
            if ops.add_outer_map(out, self.cols, rows, cols, self.values, g, workers()):
                return out
            g = g.dense()
        if ops.add_map(out, self.cols, self.rows, self.values, g, workers()):
            return out
        if not self._cols_distinct:
            return _columns(self._csc, g)
        out[..., self.cols] = self.values * g[..., self.rows]
        return out


def _columns(matrix, x):
    return (matrix @ x.reshape(-1, x.shape[-1]).T).T.reshape(x.shape[:-1] + (-1,))


class Block(NamedTuple):
    """One block: constant (rows,) and its terms, (feature number, LinearTerm)."""

    constant: np.ndarray
    terms: tuple[tuple[int, LinearTerm], ...]


class ParamMap:
    """theta -> (P, q, A, b, d): `formulas` (see there) give the features phi, `blocks` are affine in them."""

    def __init__(self, formulas, blocks):
        self.formulas = formulas
        self.sizes = formulas.sizes
        self.blocks = tuple(blocks)
        self.curved = bool(formulas.steps)  # else phi are parameters, and no derivative looks at theta

    @classmethod
    def from_matrices(cls, formulas, feature_sizes, matrices):
        """matrices: for each of P, q, A, b, d a sparse matrix whose columns are all features in turn, then 1."""
        edges = np.concatenate([[0], np.cumsum(feature_sizes)]).astype(np.int64)
        blocks = []
        for matrix in matrices:
            matrix = sp.csc_array(matrix)
            constant = matrix[:, [edges[-1]]].toarray().ravel()
            terms = [(f, LinearTerm(matrix[:, edges[f] : edges[f + 1]])) for f in range(len(feature_sizes))]
            blocks.append(Block(constant, tuple((f, t) for f, t in terms if t.values.size)))
        return cls(formulas, blocks)

    def reach(self, block):
        """The parameters that a block depends on."""
        return tuple(sorted({i for f, _ in block.terms for i in self.formulas.reach[f]}))

    def apply(self, theta):
        """theta -> the five blocks."""
        return self.blocks_of(self.formulas.apply(theta))

    def blocks_of(self, phi):
        """phi -> the five blocks."""
        return self._linear(phi, constant=True)

    def jvp(self, theta, tangents):
        """Tangents of the five blocks. Only formulas look at theta."""
        return self._linear(self.formulas.jvp(theta, tangents), constant=False)

    def vjp(self, theta, cotangents):
        """Cotangents of the parameters, one for each; None where no given block depends on it.

        cotangents: one for each block, None for zero.
        """
        return self.formulas.vjp(theta, self._adjoint(cotangents))

    def jvp2(self, theta, s, t):
        """Second derivatives of the five blocks along s and t."""
        return self._linear(self.formulas.jvp2(theta, s, t), constant=False)

    def vjp2(self, theta, t, cotangents):
        """The gradient of <cotangents, jvp(theta, t)> in theta; None as in `vjp`."""
        return self.formulas.vjp2(theta, t, self._adjoint(cotangents))

    def _adjoint(self, cotangents):
        """The sums over blocks of M_f' g."""
        grads: list = [None] * len(self.formulas.outputs)
        for (_, terms), g in zip(self.blocks, cotangents, strict=True):
            for f, term in terms if g is not None else ():
                part = term.adjoint(g)
                grads[f] = part if grads[f] is None else grads[f] + part
        return grads

    def _linear(self, phi, constant):
        out = []
        for block in self.blocks:
            leads = {phi[f].shape[:-1] for f, _ in block.terms} or {(1,) * (phi[0].ndim - 1) if phi else ()}
            lead = leads.pop() if len(leads) == 1 else np.broadcast_shapes(*leads)
            value = empty(lead + block.constant.shape)
            value[...] = block.constant if constant else 0
            for f, term in block.terms:
                term.add_to(value, phi[f])
            out.append(value)
        return tuple(out)
