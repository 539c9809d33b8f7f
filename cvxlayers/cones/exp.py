"""The exponential cone K = closure{(x, y, z): y > 0, y exp(x/y) <= z}, rows (x, y, z).

Outside K, its polar and the faces, the two parts of w = -v lie on rays with one common parameter rho:
    s = proj_K(w) = a (rho, 1, e^rho),    y = s - w = b (-1, rho - 1, e^-rho),    s'y = 0 for every rho,
so rho is the root of one increasing function: Friberg, "Projection onto the exponential cone: a univariate root-finding
problem" (2021). With w = (r, q, t) the first two rows give a = A/Q, b = B/Q, A = (rho - 1) r + q, B = r - rho q,
Q = rho^2 - rho + 1, and the third one is solved in logarithms, where it is nearly linear:
    log(A e^rho + Q max(-t, 0)) - log(B e^-rho + Q max(t, 0)) = 0.
The derivative of the projection has the eigenvectors s, y and n = s x y. K is curved only across its rays, which makes
the eigenvalues of D, for K*, equal to 0, 1 and a quotient of positive numbers (see `Curved`): no eigh, no cancellation.
"""

import numpy as np

from .curved import Curved, increasing_root, log_slope


def _balance(rho, lanes):
    """log of (A e^rho + Q max(-t, 0)) / (B e^-rho + Q max(t, 0)), up = max(t, 0), down = max(-t, 0), and its slope.

    A = r (rho - lo) + A0 and B = q (hi - rho) + B0 are written so that they vanish at the ends without cancellation.
    """
    r, q, up, down, lo, A0, hi, B0 = lanes
    c, Q, slope = np.exp(rho), rho * (rho - 1.0) + 1.0, 2.0 * rho - 1.0
    A, B = (rho - lo) * r + A0, (hi - rho) * q + B0
    X, Y = A * c + Q * down, B / c + Q * up
    return np.log(X / Y), ((A + r) * c + slope * down) / X + ((B + q) / c - slope * up) / Y


def _rho(r, q, t):
    """The root, for items with r > 0 or q > 0 outside K and its polar. |rho| < 600 by the limits in `Exp._flat`.

    a > 0 and b > 0 bound rho by 1 - q/r from below if r > 0, and by r/q from above if q > 0. The largest values of a
    and b over all rho, A/Q <= (2q - r + 2N)/3 and B/Q <= (2r - q + 2N)/3 with N^2 = r^2 - rq + q^2, give the others.
    """
    N = 2.0 * np.sqrt(r * r - r * q + q * q)
    k, l = 2.0 * q - r, 2.0 * r - q
    a = np.where(k > 0, (N + k) / 3.0, r * r / (N - k))
    b = np.where(l > 0, (N + l) / 3.0, q * q / (N - l))
    low, high = (r > 0) & (q < 600 * r), (q > 0) & (r < 600 * q)
    up, down = np.maximum(t, 0.0), np.maximum(-t, 0.0)
    lo, hi = np.where(low, 1.0 - q / r, 1.0), np.where(high, r / q, 0.0)
    lanes = np.stack([r, q, up, down, lo, np.where(low, 0.0, q), hi, np.where(high, 0.0, r)])
    lo = np.maximum(np.where(low, lo, -600.0), np.log(up / a))
    hi = np.minimum(np.where(high, hi, 600.0), -np.log(down / b))
    middle = 0.5 * (lo + hi)  # but the root tends to be just inside the bound that t gives
    start = np.where((t > 0) | (t == 0) & low, np.minimum(middle, lo + 0.25), np.maximum(middle, hi - 0.25))
    return increasing_root(_balance, start, lo, hi, lanes, 1.0)


class Exp(Curved):
    """One exponential cone."""

    center = np.array([-1.0, 1.0, 1.0])

    def _flat(self, w):
        r, q, t = w
        inside = (q > 0) & (q * np.exp(r / q) <= t)
        polar = (r > 0) & (r * np.exp(q / r - 1.0) < -t)
        # r, q <= 0: the face y = 0. It stands for |rho| > 300, too: e^-300 is 0 next to the other rows.
        tiny = (np.abs(r) < 1e-100) & (np.abs(q) < 1e-100)
        face = ((r <= 0) | (-q > 300 * r)) & ((q <= 0) | (-r > 300 * q)) | tiny
        d = (w < 0) * 1.0
        d[0] = r > 0
        d[:, inside] = 0.0
        d[:, polar] = 1.0
        return d, ~(inside | polar | face)

    def _rays(self, w):
        rho = _rho(*w)
        E, one, right = np.exp(-np.abs(rho)), np.ones_like(rho), rho >= 0
        k = np.where(right, E, 1.0)  # the rays are scaled so that their largest power of e is 1
        l = np.where(right, 1.0, E)
        s_dir = np.stack([rho * k, k, np.where(right, one, E)])
        y_dir = np.stack([-l, (rho - 1.0) * l, np.where(right, E, one)])
        # a and b by projection of w on the rays: the best conditioned of the formulas for them
        a = np.maximum((w * s_dir).sum(0) / (s_dir**2).sum(0), 0.0)
        b = np.maximum(-(w * y_dir).sum(0) / (y_dir**2).sum(0), 0.0)
        ds_dir, dy_dir = np.stack([k, 0 * k, s_dir[2]]), np.stack([0 * l, l, -y_dir[2]])
        turn = 2.0 + 3.0 * (log_slope(y_dir, dy_dir) - log_slope(s_dir, ds_dir))
        return a, s_dir, k, b, y_dir, l, turn
