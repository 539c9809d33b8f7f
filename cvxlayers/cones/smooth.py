"""Smoothed cones: the projection onto K* is replaced by that of the central path, y o s = mu e in place of y's = 0.

    s = argmin 1/2 |s + v|^2 + mu F(s),   y = v + s = -mu F'(s),     F a barrier of K; for mu -> 0, y = proj_K*(v)

nonneg, F = -sum log s: y = f(v), f(l) = (l + w)/2, w = sqrt(l^2 + 4 mu). soc, F = -1/2 log(t^2 - |z|^2), and psd, F = -log det:
f acts on the eigenvalues of v, so that D has the eigenvalues f'(l_i) = f(l_i)/w_i and the divided differences
(f(l_i) - f(l_j))/(l_i - l_j) = (f(l_i) + f(l_j))/(w_i + w_j), sums of positive numbers.
zero, exp and power cones stay as they are: the latter two are curved already, and CVXPY bounds what they hold by rows of
nonneg, whose smoothing keeps them active.
"""

from __future__ import annotations

import numpy as np

from .base import Diagonal
from .nonneg import NonNeg
from .product import ProductCone, _Blocks
from .psd import PSD, _Congruence
from .soc import SOC, _polar, _Reflected


class SmoothedCone:
    """A `ProductCone` smoothed by mu (..., 1), positive, whose leading dimensions broadcast with those of v (..., m)."""

    polyhedral = False

    def __init__(self, K: ProductCone, mu):
        self.K, self.mu = K, mu
        self.dim, self.curved = K.dim, K.curved

    def project(self, v):
        """y (..., m)."""
        lead = np.broadcast_shapes(v.shape[:-1], self.mu.shape[:-1])
        y = np.empty((*lead, self.dim))
        for cone, rows, count in self.K.blocks:
            part = _project(cone, self.K._split(v, cone, rows, count), self.mu[..., None])
            y[..., rows] = part.reshape(*part.shape[:-2], -1)
        return y

    def spectrum(self, v):
        """The spectral decomposition of D = dy/dv."""
        lead = np.broadcast_shapes(v.shape[:-1], self.mu.shape[:-1])
        d, parts = np.empty((*lead, self.dim)), []
        for cone, rows, count in self.K.blocks:
            spectrum = _spectrum(cone, self.K._split(v, cone, rows, count), self.mu[..., None])
            d[..., rows] = spectrum.d.reshape(*spectrum.d.shape[:-2], -1)
            if not isinstance(spectrum, Diagonal):
                parts.append((rows, count, spectrum))
        return _Blocks(d, parts) if parts else Diagonal(d)


def _project(cone, v, mu):
    if isinstance(cone, NonNeg):
        return _f(v, mu)
    if isinstance(cone, SOC):
        t, r, u = _polar(v)
        a, c = _f(t + r, mu[..., 0]), _f(t - r, mu[..., 0])
        return np.concatenate([(0.5 * (a + c))[..., None], (0.5 * (a - c))[..., None] * u], -1)
    if isinstance(cone, PSD):
        l, Q = np.linalg.eigh(cone.svec.mat(v))
        return cone.svec.vec((Q * _f(l, mu)[..., None, :]) @ np.swapaxes(Q, -1, -2))
    return cone.project(v)


def _spectrum(cone, v, mu):
    if isinstance(cone, NonNeg):
        return Diagonal(_slope(v, v, mu))
    if isinstance(cone, SOC):
        t, r, u = _polar(v)
        a, c, mu = t + r, t - r, mu[..., 0]
        middle = _slope(a, c, mu)[..., None]
        d = np.concatenate([_slope(a, a, mu)[..., None], _slope(c, c, mu)[..., None], middle + 0 * v[..., 2:]], -1)
        return _Reflected(d, t, r, u)
    if isinstance(cone, PSD):
        l, Q = np.linalg.eigh(cone.svec.mat(v))
        d = _slope(l[..., cone.svec.row], l[..., cone.svec.col], mu)
        return _Congruence(d, l, Q, cone.svec)
    return cone.spectrum(v)


def _f(l, mu):
    w = np.sqrt(l * l + 4 * mu)
    return np.where(l > 0, 0.5 * (l + w), 2 * mu / (w + np.abs(l)))


def _slope(a, c, mu):
    """The divided difference of f between a and c; f' where they agree."""
    return (_f(a, mu) + _f(c, mu)) / (np.sqrt(a * a + 4 * mu) + np.sqrt(c * c + 4 * mu))
