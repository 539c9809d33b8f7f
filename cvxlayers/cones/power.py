"""The power cone K = {(x, y, z): x^alpha y^(1-alpha) >= |z|, x, y >= 0}, rows (x, y, z).

Outside K, its polar and the plane z = 0 let w = -v = (x0, y0, z0), with z0 > 0 without loss of generality. Then
    s = proj_K(w) = a (X, Y, 1),    y = s - w = b (alpha/X, (1-alpha)/Y, -1),    X^alpha Y^(1-alpha) = 1,    a + b = z0,
and a X - b alpha/X = x0 gives a X = (x0 + S)/2, S^2 = x0^2 + 4 alpha a b, likewise for Y: one equation is left,
    L = alpha log X + (1-alpha) log Y = 0
(Hien, "Differential properties of Euclidean projection onto power cone", 2015). It is solved for p in a = z0 e^-p,
b = z0 (1 - e^-p): L is nearly linear in p for large p, regular at p = 0, and a and b are accurate relatively. With
F = alpha u_x + (1-alpha) u_y, u = b alpha/(X S) and its like for y, the slope dL/dp = 1 - F + F a/b is positive.
K* is K up to factors alpha and 1-alpha: if a and b, X and alpha/X, Y and (1-alpha)/Y, w and -w change places, L becomes
alpha log alpha + (1-alpha) log(1-alpha) - L. They do where b may vanish exponentially, and near the polar of K.
"""

import numpy as np

from .curved import Curved, increasing_root, log_slope


class Power(Curved):
    """One power cone, 0 < alpha < 1."""

    def __init__(self, alpha):
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"Power: alpha is {alpha}; expected a number strictly between 0 and 1")
        self.alpha, self.center = float(alpha), np.array([1.0, 1.0, 0.0])
        self._weights = np.array([[self.alpha], [1.0 - self.alpha]])

    def _flat(self, w):
        x, y, z = w[0], w[1], np.abs(w[2])
        al, be = self.alpha, 1.0 - self.alpha
        up, down = np.maximum(w[:2], 0.0), np.maximum(-w[:2], 0.0)
        inside = (x >= 0) & (y >= 0) & (up[0] ** al * up[1] ** be >= z)
        polar = (x <= 0) & (y <= 0) & ((down[0] / al) ** al * (down[1] / be) ** be > z)
        d = (w < 0) * 1.0
        # z = 0: for x > 0 > y, a ~ b^((1-alpha)/alpha) near that plane, so that only alpha = 1/2 is a true mixture
        low, high = np.minimum(np.minimum(x, y), 0.0), np.maximum(np.maximum(x, y), 0.0)
        plus = np.where(x > y, al, be)  # the exponent of the positive row
        d[2] = np.where(plus == 0.5, 2.0 * low / (2.0 * low - high), plus < 0.5)
        d[:, inside] = 0.0
        d[:, polar] = 1.0
        return d, ~(inside | polar | (z < 1e-50))

    def _point(self, p, w, z):
        """a, b, and for both rows X, c/X, u. The larger root of the quadratic first: no cancellation."""
        a, b, c = z * np.exp(-p), -z * np.expm1(-p), self._weights
        cab = c * (a * b)
        S = np.sqrt(w * w + 4.0 * cab)
        big, positive = 0.5 * (np.abs(w) + S), w > 0
        u = cab / big / S
        return (
            a,
            b,
            np.where(positive, big / a, c * b / big),
            np.where(positive, c * a / big, big / b),
            np.where(positive, u, 1.0 - u),
        )

    def _level(self, p, lanes):
        """L - shift and its slope in p, lanes = (x0, y0, z0, shift)."""
        al, be = self.alpha, 1.0 - self.alpha
        a, b, X, _, u = self._point(p, lanes[:2], lanes[2])
        X = np.log(X)
        F = al * u[0] + be * u[1]
        return al * X[0] + be * X[1] - lanes[3], (1.0 - F) + F * (a / b)

    def _rays(self, w):
        al, be = self.alpha, 1.0 - self.alpha
        x, y, z = w[0], w[1], np.abs(w[2])
        start, zero = np.full(z.shape, np.log(2.0)), np.zeros_like(z)  # a = b
        lanes = np.stack([x, y, z, zero])
        swap = (x <= 0) & (y <= 0)
        mixed = (x < 0) != (y < 0)
        if mixed.any():
            swap |= mixed & (self._level(start, lanes)[0] > 0)
        lanes[:2] *= np.where(swap, -1.0, 1.0)
        lanes[3] = np.where(swap, al * np.log(al) + be * np.log(be), 0.0)
        # p = 200 stands for all larger roots, too: e^-200 is 0 next to z; 1e-200 keeps b positive
        p = increasing_root(self._level, start, zero + 1e-200, zero + 200.0, lanes, 0.0)
        a, b, X, U, _ = self._point(p, lanes[:2], z)
        a, b, X, U = np.where(swap, b, a), np.where(swap, a, b), np.where(swap, U, X), np.where(swap, X, U)
        one = np.where(w[2] < 0, -1.0, 1.0)[None]
        # rho with X = e^(be rho), Y = e^(-al rho)
        s_dir, y_dir, rate = np.concatenate([X, one]), np.concatenate([U, -one]), np.array([[be], [-al], [0.0]])
        turn = 2.0 * (be - al) - 3.0 * (log_slope(y_dir, rate * y_dir) + log_slope(s_dir, rate * s_dir))
        return a, s_dir, X[0] * X[1], b, y_dir, U[0] * U[1], -one[0] * turn
