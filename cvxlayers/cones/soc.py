"""The second-order cone K = K* = {(t, z): |z| <= t}.

With r = |z|, u = z/r, a = max(t + r, 0), c = max(t - r, 0):  proj = ((a + c)/2, (a - c)/2 u).
D has the eigenvectors (1, u)/sqrt2, (1, -u)/sqrt2 and (0, w) for every w orthogonal to u, with the eigenvalues
1[t + r > 0], 1[t - r > 0] and (a - c)/(2r).  U is applied through the Householder reflection that takes e1 to u.
Where |t| < r, D = 1/2 [1, u'; u, (1 + tau) I - tau uu'] with tau = t/r: only u and tau move, du = (I - uu') dz / r and
dtau = (dt - tau u'dz) / r. Elsewhere D is constant.
"""

import numpy as np

from .base import APEX, Cone, Spectrum

_H = np.sqrt(0.5)


def _polar(v):
    """t, r and u of v = (t, r u); u = e1 where r = 0."""
    t, z = v[..., 0], v[..., 1:]
    big = np.abs(z).max(-1)  # scaled, so that squares of tiny entries do not underflow
    safe = np.where(big > 0, big, 1.0)[..., None]
    r = safe[..., 0] * np.sqrt(((z / safe) ** 2).sum(-1))
    u = np.where((r > 0)[..., None], z / np.where(r > 0, r, 1.0)[..., None], 0.0)
    u[..., 0] = np.where(r > 0, u[..., 0], 1.0)
    return t, r, u


class _Reflected(Spectrum):
    """U = [(1, u)/sqrt2, (1, -u)/sqrt2, (0, H e2), (0, H e3), ...] with H = I - 2hh'/h'h, H e1 = u, at v = (t, r u)."""

    def __init__(self, d, t, r, u):
        self.d, self.t, self.r, self.u = d, t, r, u
        self.sign = np.where(u[..., 0] > 0, 1.0, -1.0)  # H e1 = -sign u: the reflection without cancellation
        h = u * self.sign[..., None]
        h[..., 0] += 1.0
        self.h = h / np.sqrt((h**2).sum(-1, keepdims=True))

    def _reflect(self, Z):
        h = self.h[..., None]
        return Z - 2.0 * h * (np.swapaxes(h, -1, -2) @ Z)

    def to(self, M):
        Z = self._reflect(M[..., 1:, :])
        t, a = M[..., 0, :], -self.sign[..., None] * Z[..., 0, :]
        t, a = np.broadcast_arrays(t, a)
        out = np.empty(Z.shape[:-2] + (Z.shape[-2] + 1, Z.shape[-1]))
        out[..., 0, :], out[..., 1, :], out[..., 2:, :] = _H * (t + a), _H * (t - a), Z[..., 1:, :]
        return out

    def back(self, M):
        a, c = M[..., 0, :], M[..., 1, :]
        lead = np.broadcast_shapes(M.shape[:-2], self.h.shape[:-1])
        Z = np.array(np.broadcast_to(M[..., 1:, :], (*lead, M.shape[-2] - 1, M.shape[-1])))
        Z[..., 0, :] = -self.sign[..., None] * _H * (a - c)
        Z = self._reflect(Z)
        top = np.broadcast_to((_H * (a + c))[..., None, :], Z.shape[:-2] + (1, Z.shape[-1]))
        return np.concatenate([top, Z], -2)

    def packed(self):
        return 1, np.concatenate([self.sign[..., None], self.h], -1)

    def third(self, a, h):
        bent = (self.d[..., 0] > 0) & (self.d[..., 1] == 0) & (self.r > APEX)
        r, u = np.where(bent, self.r, 1.0)[..., None], self.u
        tau = np.where(bent, self.t, 0.0)[..., None] / r
        at, az, ht, hz = a[..., :1], a[..., 1:], h[..., :1], h[..., 1:]
        ua, uh = _dot(u, az), _dot(u, hz)
        du, dtau, across = (az - ua * u) / r, (at - tau * ua) / r, hz - uh * u
        top = _dot(du, hz)
        z = du * ht + dtau * across - tau * (uh * du + top * u)
        return np.where(bent[..., None], 0.5 * np.concatenate([np.broadcast_to(top, (*z.shape[:-1], 1)), z], -1), 0.0)


def _dot(a, b):
    return (a * b).sum(-1, keepdims=True)


class SOC(Cone):
    """One cone of `dim` >= 2 rows (t, z)."""

    def __init__(self, dim):
        self.dim, self.center = dim, np.eye(dim)[0]

    def project(self, v):
        t, r, u = _polar(v)
        a, c = np.maximum(t + r, 0), np.maximum(t - r, 0)
        out = np.concatenate([(0.5 * (a + c))[..., None], (0.5 * (a - c))[..., None] * u], -1)
        inside = (r <= t)[..., None]
        return np.where(inside, v, out)  # inside: v itself, to the last bit

    def spectrum(self, v):
        t, r, u = _polar(v)
        ulps = 4 * np.finfo(np.float64).eps * (np.abs(t) + r)  # a boundary is met up to rounding: on it d = 0
        bent = (r > 0) & (t < r)  # elsewhere (a - c)/(2r) is 0 or 1; the difference would cancel
        mid = np.where(bent, np.where(t + r > ulps, t + r, 0) / np.where(bent, 2 * r, 1.0), t > 0)
        d = np.empty(v.shape)
        d[..., 0], d[..., 1], d[..., 2:] = t + r > ulps, t - r > ulps, mid[..., None]
        return _Reflected(d, t, r, u)
