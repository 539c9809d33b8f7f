"""The one symmetric linear system behind refinement, forward mode and reverse mode.

With D = U diag(d) U' the derivative of proj_K* at v, and the root B = U diag(sqrt d), so that D = BB':

    K = [ P     A'B    ]        K [u; w] = -[r1; B'r2],     solution (u, Bw)
        [ B'A  -(I-D') ]        D' = diag(d): an inactive row (d = 0) decouples from the rest by itself

K is symmetric and quasi-semidefinite, of the fixed size N = n + m. `solve` works with any approximate inverse of K and
improves its answer with residuals of the true K, so an inverse from a nearby point serves as well.

If K is singular (redundant rows, vertices with ties, a solution that is not unique), the answer is a least-norm one: of K
itself up to `DENSE`, of the equilibrated K beyond.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from scipy.sparse.csgraph import structural_rank

from .program import Structure
from .threads import each_slice

DENSE = 160  # up to this N the inverse of a whole batch is one array operation, kept for the backward pass
SINGULAR = 1e12  # condition number of the equilibrated K from which on it counts as singular
_STEPS = 8
_PARALLEL = 2e6  # B N^3 from which on a batch is inverted by several threads


def is_small(structure: Structure) -> bool:
    """Whether K of a batch is inverted as one array."""
    return structure.n + structure.m <= DENSE


def keeps_inverse(structure: Structure) -> bool:
    """Whether refinement leaves the inverses of K for the backward pass. With the native engine factorizing again is faster."""
    return is_small(structure) and structure.kkt_engine is None


class System:
    """K at a point, as an operator. P (..., nnz), A (..., nnz), v (..., m); leading dimensions broadcast."""

    def __init__(self, structure: Structure, P, A, v):
        self.structure, self.P, self.A = structure, P, A
        self.spectrum = structure.K.spectrum(v)
        self.root = np.sqrt(self.spectrum.d)
        self._dense: np.ndarray | None = None

    def root_transposed(self, h):
        """B'h."""
        return self.root * self.spectrum.to(h[..., None])[..., 0]

    def root_times(self, w):
        """B w."""
        return self.spectrum.back((self.root * w)[..., None])[..., 0]

    def multiply(self, z):
        """K z."""
        if self._dense is not None:
            return (self._dense @ z[..., None])[..., 0]
        S = self.structure
        u, w = z[..., : S.n], z[..., S.n :]
        top = S.P.matvec(self.P, u) + S.A.rmatvec(self.A, self.root_times(w))
        bottom = self.root_transposed(S.A.matvec(self.A, u)) - (1 - self.spectrum.d) * w
        return _join(top, bottom)

    def dense(self, delta=None):
        """K as an array (..., N, N); plus delta diag(I, -I) for delta (...)."""
        S = self.structure
        At, turned = S.turned.values(self.spectrum, self.root, self.A), S.turned
        lead = np.broadcast_shapes(self.P.shape[:-1], At.shape[:-1])
        K = np.zeros((*lead, S.n + S.m, S.n + S.m))
        K[..., S.P.rows, S.P.cols] = self.P
        K[..., S.n + turned.rows, turned.cols] = K[..., turned.cols, S.n + turned.rows] = At
        diagonal = np.arange(S.n, S.n + S.m)
        K[..., diagonal, diagonal] = self.spectrum.d - 1
        self._dense = K  # `multiply` is faster with it
        if delta is not None:
            K, diagonal = K.copy(), np.arange(S.n + S.m)
            K[..., diagonal, diagonal] += delta[..., None] * np.where(diagonal < S.n, 1.0, -1.0)
        return K

    def solve(self, inverse, r1, r2):
        """(u, Bw) with K [u; w] = -[r1; B'r2]. inverse(r): an approximation of K^-1 r, linear in r."""
        r = -_join(r1, self.root_transposed(r2))
        z = inverse(r)
        size = np.abs(r).max(-1, initial=0)
        previous, active = np.full(size.shape, np.inf), np.full(size.shape, True)  # no item waits for another one
        for _ in range(_STEPS):
            error = r - self.multiply(z)
            now = np.abs(error).max(-1, initial=0)
            better = active & (now < 0.5 * previous)
            z = np.where(better[..., None], z + inverse(error), z)
            active = better & (now > 1e-9 * size)  # the step just made took an error of 1e-9 to rounding
            if not active.any():
                break
            previous = now
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
    largest = np.abs(K).max(-1, initial=0)
    even = ((largest < 100) & (largest > 0.01)).all(-1, keepdims=True)
    if even.all():
        e, scaled = None, K
    else:
        e = _equilibrate(largest, lambda e: np.abs(K * e[..., None, :]).max(-1, initial=0))
        e = np.where(even, 1.0, e)  # other items of the batch make no difference
        scaled = e[..., None] * K * e[..., None, :]
    try:
        F = np.linalg.inv(scaled)
    except np.linalg.LinAlgError:  # one exactly singular item stops LAPACK for all
        if len(K) > 1:
            parts = [_inverse(k[None]) for k in K]
            return np.concatenate([F for F, _ in parts]), np.concatenate([flag for _, flag in parts])
        F = np.full(K.shape, np.inf)
    singular = ~(np.abs(F).sum(-1).max(-1, initial=0) < SINGULAR)  # the rows of the scaled K have entries of size one
    if e is not None:
        F = e[..., None] * F * e[..., None, :]
    for i in np.flatnonzero(singular):
        F[i] = _pseudo_inverse(scaled[i], np.ones(K.shape[-1]) if e is None else e[i])
    return F, singular


def _equilibrate(largest, largest_scaled):
    """e such that the rows of diag(e) K diag(e) have largest entries near one (Ruiz). largest: those of K's rows;
    largest_scaled(e): those of K diag(e). The rank of K and its condition mean something only after that."""
    e = 1 / np.sqrt(np.where(largest > 0, largest, 1))
    for _ in range(2):
        largest = e * largest_scaled(e)
        e = e / np.sqrt(np.where(largest > 0, largest, 1))
    return e


def _pseudo_inverse(scaled, e):
    """The pseudo-inverse of K = diag(1/e) scaled diag(1/e), with the rank of `scaled`: the projections off the null space
    of K on both sides make least squares and least norm count in the units of K."""
    l, Q = np.linalg.eigh(scaled)
    keep = np.abs(l) > 10 / SINGULAR
    null, _ = np.linalg.qr(e[:, None] * Q[:, ~keep])
    off = np.eye(len(e)) - null @ null.T
    half = off @ (e[:, None] * Q[:, keep])
    return (half / l[keep]) @ half.T


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
        self.items = {i: _Factor(System(structure.item(i), P[i], A[i], v[i]), more[i]) for i in np.ndindex(self.lead)}
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
    """LU of the equilibrated K + delta diag(I, -I) without its inactive rows, with refinement against K itself.

    The regularized matrix is quasi-definite, so the sparse LU needs no pivoting, whatever K is. If refinement cannot
    remove the effect of delta, K is ill-conditioned or singular, and a pivoting LU of K itself tells which. Where K is
    singular, right-hand sides and solutions are freed from their parts in its null space: the powers of
    delta (K + delta S)^-1 S, S = diag(I, -I), tend to the projection onto it.
    """

    def __init__(self, system: System, more=0.0):
        S, d = system.structure, system.spectrum.d
        self.kept = np.flatnonzero(np.r_[np.ones(S.n, bool), d > 0])
        self.dropped = np.flatnonzero(np.r_[np.zeros(S.n, bool), d <= 0])
        K = _sparse(system)[self.kept][:, self.kept].tocsc()
        size = abs(K)
        self.e = _equilibrate(_row_max(size), lambda e: _row_max(size @ sp.diags_array(e)))
        self.K = (sp.diags_array(self.e) @ K @ sp.diags_array(self.e)).tocsc()
        self.sign = np.where(self.kept < S.n, 1.0, -1.0)[:, None]
        self.delta = 1e-9 + more
        self.dense = K.nnz > 0.05 * K.shape[0] ** 2
        self._solve = self._regularized()
        probe = np.random.default_rng(0).standard_normal((K.shape[0], 1))
        self.singular = not self._finds(probe)
        if self.singular:
            self._solve = self._lu(self.K, symmetric=False)
            self.singular = self._solve is None or not self._finds(probe)
            if self.singular:  # the larger delta, the less rounding it blows up into the null space
                self.delta = 1e-6 + more
                self._solve = self._regularized()

    def _regularized(self):
        matrix = (self.K + sp.diags_array(self.delta * self.sign[:, 0], format="csc")).tocsc()
        return self._lu(matrix, symmetric=True) or self._lu(matrix, symmetric=False)  # a pivot may cancel to an exact zero

    def _lu(self, matrix, symmetric):
        """The solve function of an LU; None if the matrix is exactly singular."""
        if self.dense:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # exactly singular: what comes out is not finite
                lu = sl.lu_factor(matrix.toarray(), check_finite=False)
            return lambda r: sl.lu_solve(lu, r, check_finite=False)
        if not symmetric and structural_rank(matrix) < matrix.shape[0]:  # SuperLU may crash on it
            return None
        try:
            if symmetric:
                symmetric_mode = {"SymmetricMode": True}
                return spl.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric_mode).solve
            return spl.splu(matrix.tocsc()).solve
        except RuntimeError:
            return None

    def _finds(self, z):
        """Whether z comes back from K z, which no null space allows."""
        with np.errstate(all="ignore"):
            return bool(np.linalg.norm(self._refined(self.K @ z) - z) <= 1e-3 * np.linalg.norm(z))

    def _refined(self, r):
        z = self._solve(r)
        for _ in range(_STEPS):
            step = self._solve(r - self.K @ z)
            z = z + step
            if not np.abs(step).max(initial=0) > 1e-12 * np.abs(z).max(initial=0):
                break
        return z

    def _null_part(self, r):
        """The part of r in the null space of the equilibrated K."""
        for _ in range(4):
            r = self.delta * self._solve(self.sign * r)
        return r

    def inverse(self, r):
        """K^-1 r, or a least-squares solution of K z = r, for columns r (N, c)."""
        out = np.empty(r.shape)
        out[self.dropped] = -r[self.dropped]  # an inactive row reads -w = r
        e, r = self.e[:, None], self.e[:, None] * r[self.kept]
        if self.singular:
            r = r - self._null_part(r)
            z = self._refined(r)
            out[self.kept] = e * (z - self._null_part(z))
        else:
            out[self.kept] = e * self._refined(r)
        return out


def _row_max(size):
    return size.max(axis=1).toarray().ravel() if size.nnz else np.zeros(size.shape[0])


def _sparse(system):
    """K of one item as a sparse matrix, all rows."""
    S = system.structure
    P = sp.csr_array((system.P, S.P.cols, S.P.indptr), shape=S.P.shape)
    values = S.turned.values(system.spectrum, system.root, system.A)
    At = sp.csr_array((values, (S.turned.rows, S.turned.cols)), shape=S.A.shape)
    At.eliminate_zeros()
    return sp.block_array([[P, At.T], [At, sp.diags_array(system.spectrum.d - 1)]], format="csr")
