"""The affine map from parameters to conic data: theta -> (P, q, A, b, d), with its derivative and its adjoint.

    block = constant + sum over features f of  M_f phi_f(theta),      phi_f = theta_i, or log theta_i in geometric programs

theta is a tuple of arrays (..., size), one for each parameter, flattened in C order; blocks are (..., rows). A block's
leading dimensions are those of the parameters that it depends on, so data that are the same for the whole batch are
never copied. d is the constant of the objective.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

DATA = ("P", "q", "A", "b")
BLOCKS = (*DATA, "d")


class LinearTerm:
    """A sparse matrix M as an operator on the last axis. Most are a scaled selection, done by indexing."""

    def __init__(self, matrix: sp.coo_array):
        matrix = sp.coo_array(matrix)
        matrix.sum_duplicates()
        keep = matrix.data != 0
        self.shape = matrix.shape
        self.rows, self.cols, self.values = matrix.row[keep], matrix.col[keep], matrix.data[keep]
        self._rows_distinct = np.unique(self.rows).size == self.rows.size
        self._cols_distinct = np.unique(self.cols).size == self.cols.size
        self._csr = sp.csr_array((self.values, (self.rows, self.cols)), shape=self.shape)
        self._csc = self._csr.T.tocsr()

    def add_to(self, out, theta):
        """out += M theta, in place."""
        if self._rows_distinct:
            out[..., self.rows] += self.values * theta[..., self.cols]
        else:
            out += _columns(self._csr, theta)

    def adjoint(self, g):
        """M'g."""
        if not self._cols_distinct:
            return _columns(self._csc, g)
        out = np.zeros(g.shape[:-1] + self.shape[1:])
        out[..., self.cols] = self.values * g[..., self.rows]
        return out


def _columns(matrix, x):
    return (matrix @ x.reshape(-1, x.shape[-1]).T).T.reshape(x.shape[:-1] + (-1,))


class Feature(NamedTuple):
    """phi: a parameter, given by its position, or its logarithm."""

    parameter: int
    log: bool


class Block(NamedTuple):
    """One block: constant (rows,) and its terms, (feature number, LinearTerm)."""

    constant: np.ndarray
    terms: tuple[tuple[int, LinearTerm], ...]


class ParamMap:
    """theta -> (P, q, A, b, d). `sizes` are the flat sizes of the parameters."""

    def __init__(self, sizes, features, blocks):
        self.sizes = tuple(sizes)
        self.features = tuple(features)
        self.blocks = tuple(blocks)
        self.has_logs = any(f.log for f in self.features)

    @classmethod
    def from_matrices(cls, sizes, features, feature_sizes, matrices):
        """matrices: for each of P, q, A, b, d a sparse matrix whose columns are all features in turn, then 1."""
        edges = np.concatenate([[0], np.cumsum(feature_sizes)]).astype(np.int64)
        blocks = []
        for matrix in matrices:
            matrix = sp.csc_array(matrix)
            constant = matrix[:, [edges[-1]]].toarray().ravel()
            terms = [(f, LinearTerm(matrix[:, edges[f] : edges[f + 1]])) for f in range(len(feature_sizes))]
            blocks.append(Block(constant, tuple((f, t) for f, t in terms if t.values.size)))
        return cls(sizes, features, blocks)

    def apply(self, theta):
        """theta -> the five blocks."""
        phi = [np.log(theta[f.parameter]) if f.log else theta[f.parameter] for f in self.features]
        return self._linear(phi, constant=True)

    def jvp(self, theta, tangents):
        """Tangents of the five blocks. Only the logarithms of a geometric program look at theta."""
        dphi = [tangents[f.parameter] / theta[f.parameter] if f.log else tangents[f.parameter] for f in self.features]
        return self._linear(dphi, constant=False)

    def vjp(self, theta, cotangents):
        """Cotangents of the parameters, one for each; None where no given block depends on it.

        cotangents: one for each block, None for zero.
        """
        return self._adjoint(cotangents, lambda g, i, log: g / theta[i] if log else g)

    def jvp2(self, theta, s, t):
        """Second derivatives of the five blocks along s and t, in geometric programs."""
        d2phi = [-s[i] * t[i] / theta[i] ** 2 if log else np.zeros_like(theta[i]) for i, log in self.features]
        return self._linear(d2phi, constant=False)

    def vjp2(self, theta, t, cotangents):
        """The gradient of <cotangents, jvp(theta, t)> in theta, in geometric programs; None as in `vjp`."""
        return self._adjoint(cotangents, lambda g, i, log: -g * t[i] / theta[i] ** 2 if log else 0 * g)

    def _adjoint(self, cotangents, through_feature):
        """The sums over blocks of M_f' g, each passed on by through_feature(g, parameter, log)."""
        grads = [None] * len(self.sizes)
        for (_, terms), g in zip(self.blocks, cotangents, strict=True):
            for f, term in terms if g is not None else ():
                i, log = self.features[f]
                part = through_feature(term.adjoint(g), i, log)
                grads[i] = part if grads[i] is None else grads[i] + part
        return grads

    def _linear(self, phi, constant):
        out = []
        for block in self.blocks:
            leads = {phi[f].shape[:-1] for f, _ in block.terms} or {(1,) * (phi[0].ndim - 1) if phi else ()}
            lead = leads.pop() if len(leads) == 1 else np.broadcast_shapes(*leads)
            value = np.zeros(lead + block.constant.shape)
            if constant:
                value += block.constant
            for f, term in block.terms:
                term.add_to(value, phi[f])
            out.append(value)
        return tuple(out)
