"""Cones of three rows whose boundary consists of rays, exp and power: projection and derivative from one scalar root."""

from abc import abstractmethod

import numpy as np

from .base import APEX, Cone, Spectrum

_EPS = np.finfo(np.float64).eps


def increasing_root(f, x, lo, hi, lanes, floor):
    """Roots of many increasing functions at once: Newton inside a shrinking bracket.

    f(x, lanes) -> (value, slope); x, lo, hi (n,), lanes (k, n). The values are logarithms, so that 1e-9 is followed by
    1e-18 after one more step; where rounding keeps them larger, a step below 12 eps (floor + |x|) ends the search.
    The functions may have a logarithmic singularity at a bound. A step beyond the bound is read as a step in the
    logarithm of the distance to it, exact for such functions, and leaves between 1e-8 and 0.05 of that distance.
    """
    root, at = np.empty_like(x), np.arange(x.size)
    for _ in range(100):
        value, slope = f(x, lanes)
        left, close = value < 0.0, np.abs(value) <= 1e-9
        lo, hi = np.where(left, x, lo), np.where(left, hi, x)
        new = x - value / slope
        good = (new > lo) & (new < hi)
        if np.count_nonzero(good) < good.size:
            gap = np.where(left, hi, lo) - x
            rest = np.fmin(np.fmax(np.exp((x - new) / gap), 1e-8), 0.05)
            ulps = 4.0 * _EPS * (floor + np.abs(x)) / np.abs(gap)  # stay off the bound itself: no value there
            rest = np.fmin(np.fmax(rest, ulps), 0.5)
            other = x + (1.0 - rest) * gap
            new = np.where(good, new, np.where(close, np.minimum(np.maximum(new, lo), hi), other))
        done = close | ~(np.abs(new - x) > 12.0 * _EPS * (floor + np.abs(x)))  # a NaN is done, too
        root[at] = new
        finished = np.count_nonzero(done)
        if finished == done.size:
            break
        if finished:
            keep = np.flatnonzero(~done)
            new, lo, hi, at, lanes = new[keep], lo[keep], hi[keep], at[keep], lanes[:, keep]
        x = new
    return root


def log_slope(x, dx):
    """(log |x|)' for vectors x (3, n) with the derivative dx."""
    return (x * dx).sum(0) / (x * x).sum(0)


class _Turning(Spectrum):
    """U = [e, f, n] as an array (..., 3, 3), and the coefficients of (e n n), (f n n) and (n n n) in T (..., 3)."""

    def __init__(self, d, U, cubic):
        self.d, self.U, self.cubic = d, U, cubic

    def to(self, M):
        return np.swapaxes(self.U, -1, -2) @ M

    def back(self, M):
        return self.U @ M

    def packed(self):
        return 0, self.U

    def third(self, a, h):
        a, h = (self.to(x[..., None])[..., 0] for x in (a, h))
        last = ((a * h[..., 2:] + h * a[..., 2:])[..., :2] * self.cubic[..., :2]).sum(-1, keepdims=True)
        along = np.concatenate([np.zeros((*last.shape[:-1], 2)), last], -1)
        return self.back((along + self.cubic * (a * h)[..., 2:])[..., None])[..., 0]


class Curved(Cone):
    """Three rows; the boundary consists of rays s_dir(rho), with the dual rays y_dir(rho) orthogonal to them.

    w = a s_dir(rho) - b y_dir(rho). Along rho, s_dir stays orthogonal to y_dir and y_dir to s_dir; so the derivative of
    proj_K at w maps s_dir to itself, y_dir to 0, and n = s_dir x y_dir to a <s_dir', n> / <a s_dir' - b y_dir', n> n.
    On the cones here <s_dir', n> = g |y_dir|^2 and <y_dir', n> = -h |s_dir|^2, up to a common sign, with g, h > 0.

    The unit vectors e, f, n of the three only turn: e' = k n, f' = -l n, n' = -k e + l f. With w = S e - T f this gives
    drho = <dw, n> / C, C = k S + l T, and from D = e e' + (k S / C) n n' its derivative, the symmetric cubic form
        kl/C^2 (T (e n n) + S (f n n)) + kl S T/C^3 (log k/l)' (n n n),    k = g |y_dir| / |s_dir|^2, l = h |s_dir| / |y_dir|^2,
    where (e n n) is <e,a><n,h> n + <n,a><e,h> n + <n,a><n,h> e.
    """

    dim = 3

    @abstractmethod
    def _flat(self, w):
        """Where K looks like an orthant at w (3, n): d (3, n), and the mask (n,) of the other, curved items.

        y = -w on the rows with d > 0, s = w on the rows with d = 0.
        """

    @abstractmethod
    def _rays(self, w):
        """a, s_dir, g, b, y_dir, h, turn for curved w (3, n). g and h belong to the lengths chosen for s_dir and y_dir.

        turn: (log k/l)' = (log g/h)' + 3 (log |y_dir|/|s_dir|)', for unscaled rays, times the common sign.
        """

    def _solve(self, v):
        """Scaled w (3, n), exponents (n,), d (3, n), the indices of the curved items, and their rays."""
        w = -v.reshape(-1, 3).T
        exponent = np.frexp(np.abs(w).max(0))[1]
        w = np.ldexp(w, -exponent)  # powers of two: nothing is rounded
        with np.errstate(all="ignore"):
            d, curved = self._flat(w)
            curved = np.flatnonzero(curved)
            rays = self._rays(w[:, curved]) if curved.size else None
        return w, exponent, d, curved, rays

    def split(self, v):
        """y = proj_K*(v) and s = proj_K(-v) = y - v, (..., 3) both.

        Every component of y is accurate relative to itself, up to the condition number |v| / |y|; likewise for s. So s
        is better than the difference y - v where entries of s are small.
        """
        w, exponent, d, curved, rays = self._solve(v)
        y, s = np.where(d > 0, -w, 0.0), np.where(d > 0, 0.0, w)
        if curved.size:
            a, s_dir, _, b, y_dir, *_ = rays
            y[:, curved], s[:, curved] = b * y_dir, a * s_dir
        return np.ldexp(y, exponent).T.reshape(v.shape), np.ldexp(s, exponent).T.reshape(v.shape)

    def project(self, v):
        return self.split(v)[0]

    def spectrum(self, v):
        _, exponent, d, curved, rays = self._solve(v)
        U = np.zeros((d.shape[1], 3, 3))
        U[:, [0, 1, 2], [0, 1, 2]] = 1.0
        cubic = np.zeros(d.shape)
        if curved.size:
            with np.errstate(all="ignore"):  # for NaN in, NaN out
                a, s_dir, g, b, y_dir, h, turn = rays
                s_norm, y_norm = np.sqrt((s_dir**2).sum(0)), np.sqrt((y_dir**2).sum(0))
                e, f = s_dir / s_norm, y_dir / y_norm
                n = e[[1, 2, 0]] * f[[2, 0, 1]] - e[[2, 0, 1]] * f[[1, 2, 0]]
                k, l, S, T = g * y_norm / s_norm / s_norm, h * s_norm / y_norm / y_norm, a * s_norm, b * y_norm
                n_s, n_y = k * S, l * T
                total = np.where(n_s + n_y > 0, n_s + n_y, np.inf)
                d[0, curved], d[1, curved], d[2, curved] = 0.0, 1.0, n_y / total
                U[curved] = np.stack([e, f, n]).transpose(2, 1, 0)
                part = k / total * (l / total)
                cubic[:, curved] = np.stack([part * T, part * S, part * S * T / total * turn])
                size = np.ldexp(1.0, exponent)
                cubic = np.where(size > APEX, cubic / np.maximum(size, APEX), 0.0)
        return _Turning(d.T.reshape(v.shape), U.reshape(v.shape + (3,)), cubic.T.reshape(v.shape))
