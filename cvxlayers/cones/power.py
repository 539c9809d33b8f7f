"""The power cone K = {(x, y, z): x^alpha y^(1-alpha) >= |z|, x, y >= 0}, rows (x, y, z); K* holds (x/alpha, y/(1-alpha), z).

Outside K, its polar and the plane z = 0, write w = -v = (x0, y0, z0); z >= 0 without loss of generality. The two parts are
    s = proj_K(w) = a (X, Y, 1),    y = s - w = b (alpha/X, (1-alpha)/Y, -1),    X^alpha Y^(1-alpha) = 1,    a + b = z0,
and a X - b alpha/X = x0 gives a X = (x0 + sqrt(x0^2 + 4 alpha a b))/2, likewise for Y: one equation in a is left,
    L = alpha log X + (1-alpha) log Y = 0
(Hien, "Differential properties of Euclidean projection onto power cone", 2015). L decreases in a: with
S = sqrt(x0^2 + 4 alpha a b), u = b alpha/X and their like for y, dL/da = -(1 - F)/a - F/b, F = alpha u/S_x + (1-alpha) u/S_y.
The substitution a = z0 e^-p, b = z0 (1 - e^-p) makes L nearly linear in p at both ends and keeps a and b relatively accurate.
The same equation with a and b, s and y, w and -w exchanged has the value -L; the exchange is made where b is the part that
may vanish exponentially, or where w is near the polar. The derivative: see `Curved`.
"""

import numpy as np

from .exp import Curved, increasing_root


class Power(Curved):
    """One power cone, 0 < alpha < 1."""

    def __init__(self, alpha):
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"Power: alpha is {alpha}; expected a number strictly between 0 and 1")
        self.alpha = float(alpha)
        self._weights = np.array([[self.alpha], [1.0 - self.alpha]])

    def _flat(self, w):
        x, y, z = w[0], w[1], np.abs(w[2])
        al, be = self.alpha, 1.0 - self.alpha
        up, down = np.maximum(w[:2], 0.0), np.maximum(-w[:2], 0.0)
        inside = (x >= 0) & (y >= 0) & (up[0] ** al * up[1] ** be >= z)
        polar = (x <= 0) & (y <= 0) & ((down[0] / al) ** al * (down[1] / be) ** be > z)
        d = (w < 0) * 1.0
        # z = 0: s and y have z = 0; near that plane a ~ b^(be/al) for x > 0 > y, so that only al = 1/2 is a true mixture
        larger, smaller = np.where(x > y, al, be), np.where(x > y, be, al)
        half = 2.0 * np.minimum(x, y) / (2.0 * np.minimum(x, y) - np.maximum(x, y))
        d[2] = np.where(larger == smaller, half, larger < smaller)
        d[:, inside] = 0.0
        d[:, polar] = 1.0
        return d, ~(inside | polar | (z < 1e-50))

    def _point(self, p, w, z):
        """a, b; for both rows (X, Y) = s/a, (u, v)/b, and u/S: the larger root of each quadratic first, no cancellation."""
        a, b, c = z * np.exp(-p), -z * np.expm1(-p), self._weights
        cab = c * (a * b)
        S = np.sqrt(w * w + 4.0 * cab)
        big, positive = 0.5 * (np.abs(w) + S), w > 0
        share = cab / big / S
        return (a, b, np.where(positive, big / a, c * b / big), np.where(positive, c * a / big, big / b),
                np.where(positive, share, 1.0 - share))

    def _level(self, p, x, y, z, shift):
        """L - shift and its slope in p."""
        al, be = self.alpha, 1.0 - self.alpha
        a, b, X, _, share = self._point(p, np.stack([x,y]), z)
        X = np.log(X)
        F = al * share[0] + be * share[1]
        return al * X[0] + be * X[1] - shift, (1.0 - F) + F * (a / b)

    def _rays(self, w):
        al, be = self.alpha, 1.0 - self.alpha
        x, y, z = w[0], w[1], np.abs(w[2])
        start = np.full(z.shape, np.log(2.0))  # a = b
        zero = np.zeros_like(z)
        negative, mixed = (x <= 0) & (y <= 0), (x < 0) != (y < 0)
        swap = negative | mixed & (self._level(start, x, y, z, zero)[0] > 0)
        sign = np.where(swap, -1.0, 1.0)
        x, y = sign * x, sign * y
        lanes = np.stack([x, y, z, np.where(swap, al * np.log(al) + be * np.log(be), 0.0)])
        p = increasing_root(self._level, start, zero, zero + 200.0, lanes, 0.0)
        a, b, X, U, _ = self._point(p, lanes[:2], z)
        a, b, X, U = np.where(swap, b, a), np.where(swap, a, b), np.where(swap, U, X), np.where(swap, X, U)
        one = np.where(w[2] < 0, -1.0, 1.0)[None]
        return a, np.concatenate([X, one]), X[0] * X[1], b, np.concatenate([U, -one]), U[0] * U[1]
