"""The cone of positive semidefinite k x k matrices, K = K*, in svec form.

svec stacks the upper triangle column by column, (0,0), (0,1), (1,1), (0,2), ..., with the off-diagonal entries times
sqrt2, so that svec(X)'svec(Y) = trace(XY). (Clarabel's order; other solvers' orders are permutations of it, in their files.)
With V = Q diag(l) Q':  proj = Q diag(max(l, 0)) Q',  D[H] = Q (w o Q'HQ) Q',  w_ij = 1, 0 or l_i / (l_i - l_j) where
both, none or only the i-th of the two eigenvalues are positive.
T[G, H] = Q (sum over k of f_ikj (G_ik H_kj + H_ik G_kj))_ij Q' for G and H in the basis Q, f the second divided difference
of max(l, 0): zero if the three eigenvalues agree in sign; else, with o the odd one out and W_ij = 1 / (|l_i| + |l_j|)
between eigenvalues of different sign, |l_o| times the two W that join o to the others. Nothing is subtracted, so
coinciding eigenvalues do no harm.
"""

import numpy as np

from .base import APEX, Cone, Spectrum

_SQRT2 = np.sqrt(2.0)


class _Svec:
    """Index maps between (..., k(k+1)/2) and (..., k, k)."""

    def __init__(self, k):
        self.k = k
        self.col, self.row = np.tril_indices(k)  # row <= col, column by column
        self.scale = np.where(self.row == self.col, 1.0, _SQRT2)
        self.position = np.zeros((k, k), np.int64)
        self.position[self.row, self.col] = self.position[self.col, self.row] = np.arange(self.row.size)

    def vec(self, X):
        return X[..., self.row, self.col] * self.scale

    def mat(self, x):
        return (x / self.scale)[..., self.position]


def _eigh(X):
    """Eigenvalues and eigenvectors of X (..., k, k); NaN where X is not finite, at which LAPACK gives up for all."""
    bad = ~np.isfinite(X).all((-2, -1))
    if not bad.any():
        return np.linalg.eigh(X)
    l, Q = np.linalg.eigh(np.where(bad[..., None, None], 0.0, X))
    return np.where(bad[..., None], np.nan, l), Q


class _Congruence(Spectrum):
    """U m = svec(Q mat(m) Q')."""

    def __init__(self, d, l, Q, svec):
        self.d, self.l, self.Q, self.svec = d, l, Q, svec

    def _congruence(self, L, M):
        X = self.svec.mat(np.swapaxes(M, -1, -2))  # (..., c, k, k)
        L = L[..., None, :, :]
        return np.swapaxes(self.svec.vec(L @ X @ np.swapaxes(L, -1, -2)), -1, -2)

    def to(self, M):
        return self._congruence(np.swapaxes(self.Q, -1, -2), M)

    def back(self, M):
        return self._congruence(self.Q, M)

    def third(self, a, h):
        Q, positive, size = self.Q, self.l > 0, np.abs(self.l)
        total = size[..., :, None] + size[..., None, :]
        odd = (positive[..., :, None] != positive[..., None, :]) & (total > APEX)
        W = np.where(odd, 1.0 / np.where(odd, total, 1.0), 0.0)
        G, H = (np.swapaxes(Q, -1, -2) @ self.svec.mat(x) @ Q for x in (a, h))
        WG, WH = W * G, W * H * size[..., :, None]
        half = WG @ WH + W * (WH @ G + size[..., :, None] * (WG @ H))  # where W vanishes it leaves out the other signs
        return self.svec.vec(Q @ (half + np.swapaxes(half, -1, -2)) @ np.swapaxes(Q, -1, -2))


class PSD(Cone):
    """Matrices of order k: k(k+1)/2 rows."""

    def __init__(self, k):
        self.svec = _Svec(k)
        self.dim, self.center = k * (k + 1) // 2, self.svec.vec(np.eye(k))

    def project(self, v):
        l, Q = _eigh(self.svec.mat(v))
        return self.svec.vec((Q * np.maximum(l, 0)[..., None, :]) @ np.swapaxes(Q, -1, -2))

    def spectrum(self, v):
        l, Q = _eigh(self.svec.mat(v))
        i, j = l[..., self.svec.row], l[..., self.svec.col]
        pos, neg = np.maximum(i, j), np.minimum(i, j)
        mixed = (pos > 0) & (neg <= 0)
        d = np.where(mixed, pos / np.where(mixed, pos - neg, 1.0), neg > 0)
        return _Congruence(d, l, Q, self.svec)
