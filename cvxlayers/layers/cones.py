"""Projections onto the second-order cone {(t, z): |z| <= t} and onto the positive semidefinite matrices.

    SOC:  y = (a, a w), w = z/|z|, a = (t + |z|)/2 where |t| < |z|; 0 in the polar cone, x in the cone
          J = [1/2, w'/2; w/2, k I + (1/2 - k) ww'],  k = a/|z|
    PSD:  Y = V max(l, 0) V' for X = V diag(l) V'
          dY = V (D * (V' dX V)) V',  D_ij = (max(l_i, 0) + max(l_j, 0)) / (|l_i| + |l_j|)

Both are gradients of |y|^2/2, so that derivatives of any order are symmetric. D divides by no difference of eigenvalues.
On the boundary the derivative is that of the smaller face: of outside at the boundary of the second-order cone, of the polar
cone at the polar cone's; 0 for pairs of eigenvalues that are 0. (Malick, Sendov 2006; Busseti, Moursi, Boyd 2019.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from .base import Layer, flattened, inner, matrices, norm


class _Symmetric(Layer):
    """x -> y, whose derivatives are symmetric."""

    second_order = True

    def vjp(self, saved, c):
        """The Jacobian is symmetric."""
        return self.jvp(saved, c)

    def vjp2(self, saved, t, c):
        """So is the second derivative, in s, t and c."""
        return self.jvp2(saved, t, c)


class SecondOrder(_Symmetric):
    """x = (t, z) -> y: (..., n) -> (..., n)."""

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes = (n,), (n,)
        self.saved = (Saved(1, (0,)), Saved(n - 1, (0,)), Saved(1, (0,)), Saved(1, (0,)))

    def forward(self, x):
        """Saved are J's entry in the corner, w (0 where J is 0 or I), k and 1/|z|."""
        xp = array_namespace(x)
        t, z = x[..., :1], x[..., 1:]
        size = norm(xp, z) if z.shape[-1] else 0 * t
        polar, outside = size <= -t, (size > -t) & (size >= t)
        inverse = xp.where(outside, 1 / xp.where(size > 0, size, 1), 0)
        corner = xp.where(outside, 0.5, xp.where(polar, 0, 1)) + 0 * t
        k = xp.where(outside, (1 + t * inverse) / 2, corner)
        first, same = xp.where(outside, (t + size) / 2, corner * t), 0 * size  # NaN wherever one is
        return (xp.concat([first + same, (k + same) * z], axis=-1),), (corner, z * inverse, k, inverse)

    def jvp(self, saved, dx):
        """J."""
        corner, w, k, _ = saved
        xp = array_namespace(w)
        dt, dz = dx[..., :1], dx[..., 1:]
        along = inner(xp, w, dz)
        return (xp.concat([corner * dt + along / 2, k * dz + w * (dt / 2 + (0.5 - k) * along)], axis=-1),)

    def jvp2(self, saved, s, t):
        """w and k move with x."""
        _, w, k, inverse = saved
        xp = array_namespace(w)
        (s0, s1), (t0, t1) = ((v[0][..., :1], v[0][..., 1:]) for v in (s, t))
        along, across = inner(xp, w, s1), inner(xp, w, t1)
        ds, dt, k = s1 - w * along, t1 - w * across, 0.5 - k
        both = inner(xp, ds, dt)
        dz = k * w * both + ds * (t0 / 2 + k * across) + dt * (s0 / 2 + k * along)
        return (inverse * xp.concat([both / 2, dz], axis=-1),)


class Semidefinite(_Symmetric):
    """X -> Y: (..., n n) -> (..., n n), matrices in C order, of which the symmetric part counts."""

    def __init__(self, n):
        super().__init__(n)
        self.n = n
        self.in_sizes, self.out_sizes, self.saved = (n * n,), (n * n,), (Saved(n, (0,)), Saved(n * n, (0,)))

    def forward(self, x):
        """By eigenvalues, which are saved with the eigenvectors."""
        xp = array_namespace(x)
        X = matrices(x, self.n, self.n)
        X = (X + xp.matrix_transpose(X)) / 2
        fine = xp.all(xp.isfinite(x), axis=-1, keepdims=True)
        l, V = xp.linalg.eigh(xp.where(fine[..., None], X, 0))  # LAPACK refuses a whole batch for one NaN
        l = xp.where(fine, l, xp.nan)
        Y = (V * xp.clip(l, min=0)[..., None, :]) @ xp.matrix_transpose(V)
        return (flattened((Y + xp.matrix_transpose(Y)) / 2),), (l, flattened(V))

    def jvp(self, saved, dx):
        """D in the eigenvectors."""
        l, V = saved[0], matrices(saved[1], self.n, self.n)
        D, _ = _differences(l)
        return (_back(V, D * self._to(V, dx)),)

    def jvp2(self, saved, s, t):
        """Divided differences of second order are products of those of first order, as sums over eigenvalues are: with M = D
        of the pairs of different signs over max(l_i, l_j), each term of the sum has one eigenvalue of the other sign."""
        l, V = saved[0], matrices(saved[1], self.n, self.n)
        S, T = self._to(V, s[0]), self._to(V, t[0])
        _, M = _differences(l)
        xp = array_namespace(l)
        size, same = xp.abs(l), xp.astype(M == 0, l.dtype)
        ms, mt = M * S, M * T
        half = (ms * size[..., None, :]) @ mt
        half = half + M * (((same * S) @ mt) * size[..., None, :] + size[..., :, None] * (ms @ (same * T)))
        return (_back(V, half + xp.matrix_transpose(half)),)

    def _to(self, V, x):
        xp = array_namespace(x)
        X = matrices(x, self.n, self.n)
        return xp.matrix_transpose(V) @ ((X + xp.matrix_transpose(X)) / 2) @ V


def _back(V, X):
    xp = array_namespace(X)
    Y = V @ X @ xp.matrix_transpose(V)
    return flattened((Y + xp.matrix_transpose(Y)) / 2)


def _differences(l):
    """D, and M = 1/(|l_i| + |l_j|) for pairs of which one is positive and one is not, else 0."""
    xp = array_namespace(l)
    p, size = xp.clip(l, min=0), xp.abs(l)
    total = size[..., :, None] + size[..., None, :]
    inverse = xp.where(total > 0, 1 / xp.where(total > 0, total, 1), 0)
    plus = l > 0
    return (p[..., :, None] + p[..., None, :]) * inverse, xp.where(plus[..., :, None] != plus[..., None, :], inverse, 0)
