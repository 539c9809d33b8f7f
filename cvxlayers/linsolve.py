"""The one symmetric linear system behind refinement, forward mode and reverse mode.

With D = U diag(d) U' the derivative of proj_K* at v, and the root B = U diag(sqrt d), so that D = BB':

    K = [ P     A'B    ]        K [u; w] = -[r1; B'r2],     solution (u, Bw)
        [ B'A  -(I-D') ]        D' = diag(d): an inactive row (d = 0) decouples from the rest by itself

K is symmetric and quasi-semidefinite, of the fixed size N = n + m. `solve` works with any approximate inverse of K and
improves its answer with residuals of the true K, so an inverse from a nearby point serves as well.

If K is singular (redundant rows, vertices with ties, a solution that is not unique), the answer is the least-norm one.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from .program import Structure
from .threads import each_slice

DENSE = 160  # up to this N the inverse of a whole batch is one array operation, kept for the backward pass
SINGULAR = 1e12  # condition number from which on K counts as singular
_STEPS = 8
_PARALLEL = 2e6  # B N^3 from which on a batch is inverted by several threads


class System:
    """K at a point, as an operator. P (..., nnz), A (..., nnz), v (..., m); leading dimensions broadcast."""

    def __init__(self, structure: Structure, P, A, v):
        self.structure, self.P, self.A = structure, P, A
        self.spectrum = structure.K.spectrum(v)
        self.root = np.sqrt(self.spectrum.d)

    def root_transposed(self, h):
        """B'h."""
        return self.root * self.spectrum.to(h[..., None])[..., 0]

    def root_times(self, w):
        """B w."""
        return self.spectrum.back((self.root * w)[..., None])[..., 0]

    def multiply(self, z):
        """K z."""
        S = self.structure
        u, w = z[..., : S.n], z[..., S.n :]
        top = S.P.matvec(self.P, u) + S.A.rmatvec(self.A, self.root_times(w))
        bottom = self.root_transposed(S.A.matvec(self.A, u)) - (1 - self.spectrum.d) * w
        return _join(top, bottom)

    def dense(self, delta=None):
        """K as an array (..., N, N); plus delta diag(I, -I) for delta (...)."""
        S = self.structure
        At = self.root[..., None] * self.spectrum.to(S.A.dense(self.A))
        lead = np.broadcast_shapes(self.P.shape[:-1], At.shape[:-2])
        K = np.zeros((*lead, S.n + S.m, S.n + S.m))
        K[..., S.P.rows, S.P.cols] = self.P
        K[..., S.n :, : S.n] = At
        K[..., : S.n, S.n :] = np.swapaxes(At, -1, -2)
        diagonal = np.arange(S.n, S.n + S.m)
        K[..., diagonal, diagonal] = self.spectrum.d - 1
        if delta is not None:
            diagonal = np.arange(S.n + S.m)
            K[..., diagonal, diagonal] += delta[..., None] * np.where(diagonal < S.n, 1.0, -1.0)
        return K

    def solve(self, inverse, r1, r2):
        """(u, Bw) with K [u; w] = -[r1; B'r2]. inverse(r): an approximation of K^-1 r, linear in r."""
        r = -_join(r1, self.root_transposed(r2))
        z = inverse(r)
        size = np.abs(r).max(-1, initial=0)
        previous = np.full(size.shape, np.inf)
        for _ in range(_STEPS):
            error = r - self.multiply(z)
            now = np.abs(error).max(-1, initial=0)
            better = now < 0.5 * previous
            z = np.where(better[..., None], z + inverse(error), z)
            if (~better | (now <= 1e-9 * size)).all():  # the step just made took the error from 1e-9 to rounding
                break
            previous = np.where(better, now, previous)
        n = self.structure.n
        return z[..., :n], self.root_times(z[..., n:])


def _join(a, b):
    if a.shape[:-1] == b.shape[:-1]:  # broadcast_to costs as much as the rest
        return np.concatenate([a, b], -1)
    lead = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return np.concatenate([np.broadcast_to(a, lead + a.shape[-1:]), np.broadcast_to(b, lead + b.shape[-1:])], -1)


def dense_inverse(K):
    """(F, singular): inverses of a batch of matrices (B, N, N), pseudo-inverses where the condition number says so."""
    F, singular = np.empty(K.shape), np.empty(len(K), bool)

    def some(items):
        F[items], singular[items] = _inverse(K[items])

    if len(K) > 1 and K.size * K.shape[-1] > _PARALLEL:
        each_slice(some, len(K))
    else:
        some(slice(None))
    return F, singular


def _inverse(K):
    try:
        F = np.linalg.inv(K)
    except np.linalg.LinAlgError:  # one exactly singular item stops LAPACK for all
        if len(K) > 1:
            parts = [_inverse(k[None]) for k in K]
            return np.concatenate([F for F, _ in parts]), np.concatenate([flag for _, flag in parts])
        F = np.full(K.shape, np.inf)
    norm = np.abs(K).sum(-1).max(-1, initial=0)
    singular = ~(np.abs(F).sum(-1).max(-1, initial=0) < SINGULAR / np.where(norm > 0, norm, 1))
    if singular.any():
        l, Q = np.linalg.eigh(K[singular])
        keep = np.abs(l) > np.abs(l).max(-1, keepdims=True, initial=0) * 10 / SINGULAR
        F[singular] = (Q * np.where(keep, 1 / np.where(keep, l, 1), 0)[..., None, :]) @ np.swapaxes(Q, -1, -2)
    return F, singular


def apply_dense(F):
    """The function r -> F r for arrays (..., N, N) and (..., N); shared F with batched r is one matrix product."""

    def inverse(r):
        if F.ndim == 3 and F.shape[0] == 1 and r.ndim == 2:
            return r @ F[0].T
        return (F @ r[..., None])[..., 0]

    return inverse


class ItemFactors:
    """One factorization for each item of a batch, for systems beyond `DENSE`: sparse LU, or dense where K is dense.

    delta: further regularization of each item. Leading dimensions are those of P, A and v; `inverse` serves right-hand
    sides with more of them as columns of one solve.
    """

    def __init__(self, structure: Structure, P, A, v, delta=None):
        self.lead = np.broadcast_shapes(P.shape[:-1], A.shape[:-1], v.shape[:-1])
        P, A, v = (np.broadcast_to(a, self.lead + a.shape[-1:]) for a in (P, A, v))
        more = np.zeros(self.lead) if delta is None else delta
        self.items = {i: _Factor(System(structure, P[i], A[i], v[i]), more[i]) for i in np.ndindex(self.lead)}
        self.singular = np.array([self.items[i].singular for i in np.ndindex(self.lead)], bool).reshape(self.lead)

    def inverse(self, r):
        """An approximation of K^-1 r for r (..., N)."""
        lead = (1,) * (r.ndim - 1 - len(self.lead)) + self.lead
        r = np.broadcast_to(r, np.broadcast_shapes(r.shape[:-1], lead) + r.shape[-1:])
        own = [d for d, k in enumerate(lead) if k != 1]
        order = [*own, *(d for d in range(r.ndim) if d not in own)]
        columns = r.transpose(order)
        out = np.empty(columns.shape)
        for i in np.ndindex(columns.shape[: len(own)]):
            index = [0] * len(lead)
            for d, k in zip(own, i, strict=True):
                index[d] = k
            factor = self.items[tuple(index[len(lead) - len(self.lead) :])]
            out[i] = factor.inverse(columns[i].reshape(-1, r.shape[-1]).T).T.reshape(columns[i].shape)
        return out.transpose(np.argsort(order))


class _Factor:
    """LU of K + delta diag(I, -I) without its inactive rows: quasi-definite, hence nonsingular whatever K is.

    `System.solve` removes the effect of delta by refinement. Where K is singular, right-hand sides and solutions are
    first freed from their parts in its null space: the powers of delta (K + delta S)^-1 S tend to the projection onto it.
    """

    def __init__(self, system: System, more=0.0):
        S, d = system.structure, system.spectrum.d
        self.kept = np.flatnonzero(np.r_[np.ones(S.n, bool), d > 0])
        self.dropped = np.flatnonzero(np.r_[np.zeros(S.n, bool), d <= 0])
        K = _sparse(system)[self.kept][:, self.kept].tocsc()
        scale = abs(K).max() if K.nnz else 1.0
        self.sign = np.where(self.kept < S.n, 1.0, -1.0)[:, None]
        self.delta = 1e-9 * max(scale, 1e-300) + more
        K = K + sp.diags_array(self.delta * self.sign[:, 0], format="csc")
        if K.nnz > 0.05 * K.shape[0] ** 2:
            lu = sl.lu_factor(K.toarray(), check_finite=False)
            self._solve = lambda r: sl.lu_solve(lu, r, check_finite=False)
        else:
            options = {"SymmetricMode": True, "DiagPivotThresh": 0.0}
            self._solve = spl.splu(K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve
        probe = np.random.default_rng(0).standard_normal((K.shape[0], 1))
        # In a random direction the inverse of a singular K + delta S is about 1/(delta sqrt N).
        self.singular = bool(np.linalg.norm(self._solve(probe)) * self.delta > 0.01 * np.linalg.norm(probe) / len(probe) ** 0.5)

    def _null_part(self, r):
        for _ in range(4):
            r = self.delta * self._solve(self.sign * r)
        return r

    def inverse(self, r):
        """An approximation of K^-1 r, or of the pseudo-inverse, for columns r (N, c)."""
        out = np.empty(r.shape)
        out[self.dropped] = -r[self.dropped]  # an inactive row reads -w = r
        r = r[self.kept]
        if self.singular:
            r = r - self._null_part(r)
            z = self._solve(r)
            out[self.kept] = z - self._null_part(z)
        else:
            out[self.kept] = self._solve(r)
        return out


def _sparse(system):
    """K of one item as a sparse matrix, all rows."""
    S, root = system.structure, system.root
    A = sp.csr_array((system.A, S.A.cols, S.A.indptr), shape=S.A.shape)
    P = sp.csr_array((system.P, S.P.cols, S.P.indptr), shape=S.P.shape)
    parts, start = [], 0
    for rows, count, spectrum in getattr(system.spectrum, "parts", ()):
        if rows.start > start:
            parts.append(sp.diags_array(root[start : rows.start]))
        dim = (rows.stop - rows.start) // count
        blocks = root[rows].reshape(count, dim, 1) * spectrum.to(np.eye(dim))
        parts.append(sp.bsr_array((blocks, np.arange(count), np.arange(count + 1)), shape=(count * dim, count * dim)))
        start = rows.stop
    if S.m > start:
        parts.append(sp.diags_array(root[start:]))
    At = sp.block_diag(parts, format="csr") @ A if parts else A
    return sp.block_array([[P, At.T], [At, sp.diags_array(system.spectrum.d - 1)]], format="csr")
