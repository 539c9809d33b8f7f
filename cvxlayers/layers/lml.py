"""The limited multi-label projection: k chosen softly, by entropy on the sum of the unit cube.

    y = argmin -<x, y> - tau sum H(y_i) subject to 1'y = k,  H(p) = -p log p - (1 - p) log(1 - p)
    y = sigmoid(z), z = (x + nu)/tau, where nu is the root of sum sigmoid(z) = k
    w = y (1 - y), p = w/1'w:  dy = w (dx - p'dx)/tau + p dk - w (z - p'z) dtau/tau

nu is in [tau logit(k/n) - max x, tau logit(k/n) - min x], since a mean is between the least and the largest entry. The root is
that of log(a/b) with a - b = 1'y - k, which is nearly linear at both ends: a and b are sums of y where it is below 1/2 and of
1 - y where it is not, and of the difference between k and the number of the latter. So neither has a rounding error of a
difference, and a wide gap behind the k largest scores leaves nu as sharp as any. (Amos, Koltun, Kolter 2019.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..errors import ProblemError, listed
from ..loops import iterate
from ..native import rows
from .base import Layer, failing, inner

_MOST = 500  # steps; Newton's are a handful, the others halve the bracket
_LARGE = 1e30  # stands for infinity; times 0 it is 0
_FAR = 30.0  # how far s is from its center at most; e^s is still a number


class LML(Layer):
    """(x, k, tau) -> y: (..., n), (..., 1), (..., 1) -> (..., n). Entries of -inf get 0. A row with NaN, or with +inf in x,
    is NaN; one with k < 0, with k above the number of its other entries, or with tau <= 0 is an error. At k = 0 and k = n
    the derivative in x is zero, and that in k the one-sided limit."""

    second_order = loops = True

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes, self.saved = (n, 1, 1), (n,), (Saved(n, (0, 1, 2)), Saved(1, (2,)))

    def check(self, x, k, tau):
        """Raise ProblemError for rows whose k or tau is out of range."""
        if not rows.takes(x):
            self._refuse(x, k, tau)

    def _refuse(self, x, k, tau):
        items = failing(_impossible(array_namespace(x), x, k, tau))
        if items:
            raise ProblemError(
                f"rows {listed(items)} cannot choose k scores: k must be between 0 and the number of scores that are not -inf "
                f"(of {x.shape[-1]}), and tau must be positive"
            )

    def forward(self, x, k, tau):
        """Newton's method for nu, between a lower and an upper end of it."""
        if rows.takes(x):
            found = rows.run("lml", (x, k, tau), (x.shape[-1],) * 2)
            if found is None or found[1]:
                self._refuse(x, k, tau)
            if found:
                (y, z), _ = found
                return (y,), (z, tau * 1)
        xp = array_namespace(x)
        bad = xp.any(~(x < xp.inf), axis=-1, keepdims=True) | (k != k) | ~(tau < xp.inf) | _impossible(xp, x, k, tau)
        there = (x > -xp.inf) & ~bad
        tau_ = xp.where(bad, 1.0, tau)
        m = xp.sum(xp.where(there, 1.0, 0 * tau_), axis=-1, keepdims=True)
        top = xp.max(xp.where(there, x, -_LARGE), axis=-1, keepdims=True)
        bottom = xp.min(xp.where(there, x, _LARGE), axis=-1, keepdims=True)
        none, every = (k <= 0) | (m == 0), k >= m
        inside = ~(none | every | bad)
        k_, m_ = xp.where(inside, k, 1.0), xp.where(inside, m, 2.0)
        shift = tau_ * xp.log(k_ / (m_ - k_))
        c_low, c_high = (xp.where(inside, end - shift, xp.where(none, top, bottom)) for end in (bottom, top))
        x = xp.where(there, x, -_LARGE)
        info = xp.finfo(x.dtype)
        tiny, close, far = info.smallest_normal, info.eps**0.5 / 3, _FAR if info.eps > 1e-10 else 10 * _FAR

        # z = (x - center)/tau + s with |s| <= far: the center moves in the units of x, and s finely, however large x/tau is.
        def step(going, center, s, c_low, c_high, low, high):
            z = (x - center) / tau_ + s
            e = xp.exp(-xp.abs(z))
            v, w = e / (1 + e), e / (1 + e) ** 2
            below = z < 0
            over = xp.sum(xp.where(below, 0 * v, 1.0), axis=-1, keepdims=True) - k_
            less = xp.sum(xp.where(below, v, 0.0), axis=-1, keepdims=True) + xp.clip(over, min=0)
            more = xp.sum(xp.where(below, 0.0, v), axis=-1, keepdims=True) + xp.clip(-over, min=0)
            going = going & (less != more) & (less + more > tiny**0.5)
            low, high = xp.where(less < more, s, low), xp.where(less > more, s, high)
            c_low = xp.where((s == 0) & (less > more), center, c_low)
            c_high = xp.where((s == 0) & (less < more), center, c_high)
            stairs = xp.abs(less - more) >= 1
            less, more = xp.clip(less, min=tiny), xp.clip(more, min=tiny)
            slope = xp.sum(xp.where(below, w / less, w / more), axis=-1, keepdims=True)
            newton = xp.clip(s - xp.log(less / more) / xp.clip(slope, min=tiny), min=-_LARGE, max=_LARGE)
            wide = stairs & ((c_high - c_low) / tau_ > far)  # Newton would climb stairs
            newton = xp.where(wide, _LARGE, newton)
            near = xp.abs(newton) <= far
            within = (newton > low) & (newton < high)
            fine = xp.where(within, newton, low + (high - low) / 2)
            coarse = center - newton * tau_
            coarse = xp.where((coarse > c_low) & (coarse < c_high), coarse, c_low + (c_high - c_low) / 2)
            done = (near & (xp.abs(fine - s) <= xp.where(within, close, 0 * s + info.eps))) | (
                ~near & ~((coarse > c_low) & (coarse < c_high))
            )
            center = xp.where(going & ~near & ~done, coarse, center)
            s = xp.where(going, xp.where(near, fine, xp.where(done, s, 0.0)), s)
            low, high = xp.where(near, low, -far), xp.where(near, high, far)
            return going & ~done, center, s, c_low, c_high, low, high

        center = c_low + (c_high - c_low) / 2
        far_ = xp.zeros_like(center) + far
        _, center, s, *_ = iterate(step, (inside, center, 0 * far_, c_low, c_high, -far_, far_), _MOST)
        beyond = 110.0 if info.eps > 1e-10 else 1000.0  # its exp is zero, while z keeps the differences
        s = xp.where(inside, s, xp.where(none, xp.zeros_like(s) - beyond, beyond))
        z = xp.where(bad, xp.nan, xp.clip((x - center) / tau_ + s, min=-_LARGE, max=_LARGE))
        e = xp.exp(-xp.abs(z))
        y = xp.where(z < 0, e, 1.0) / (1 + e)
        return (y,), (z, tau * 1)

    def jvp(self, saved, dx, dk, dtau):
        """A softmax of the weights w is off, and a share of dk."""
        xp = array_namespace(dx)
        z, tau = saved
        p, w = _weights(xp, z)
        moved = (dx - z * dtau) / tau
        return (w * (moved - inner(xp, p, moved)) + p * dk,)

    def vjp(self, saved, c):
        """The adjoint; that of dx is symmetric."""
        z, tau = saved
        found = rows.takes(c) and rows.run("lml_vjp", (z, tau, c), (c.shape[-1], 1, 1))
        if found:
            return found[0]
        xp = array_namespace(c)
        p, w = _weights(xp, z)
        mean = inner(xp, p, c)
        dx = w * (c - mean) / tau
        return dx, mean, -inner(xp, dx, z)

    def jvp2(self, saved, s, t):
        """y is a sigmoid of z, whose second derivative has one part that keeps 1'y."""
        xp = array_namespace(s[0])
        z, tau = saved
        p, w = _weights(xp, z)
        zs, zt = _moved(xp, z, tau, p, w, s), _moved(xp, z, tau, p, w, t)
        bent = -w * xp.tanh(z / 2) * zs * zt - w * (zs * t[2] + zt * s[2]) / tau
        return (bent - p * xp.sum(bent, axis=-1, keepdims=True),)

    def vjp2(self, saved, t, c):
        """The adjoint of jvp2 in one tangent."""
        xp = array_namespace(c[0])
        z, tau = saved
        p, w = _weights(xp, z)
        zt, b = _moved(xp, z, tau, p, w, t), c[0] - inner(xp, p, c[0])
        h = b * (-w * xp.tanh(z / 2) * zt - w * t[2] / tau)
        total, weight = xp.sum(h, axis=-1, keepdims=True), xp.sum(w, axis=-1, keepdims=True)
        dtau = (total * inner(xp, p, z) - inner(xp, h, z) - inner(xp, b * w, zt)) / tau
        return (h - p * total) / tau, total / weight, dtau


def _impossible(xp, x, k, tau):
    """Rows with numbers in them and k or tau out of range."""
    room = xp.sum(xp.astype(x > -xp.inf, x.dtype), axis=-1, keepdims=True)
    unknown = xp.any((x != x) | (x == xp.inf), axis=-1, keepdims=True) | (k != k) | (tau != tau)
    return ((k < 0) | (k > room) | (tau <= 0)) & ~unknown


def _weights(xp, z):
    """(p, w): w = y (1 - y), and its shares, which are right also where all w underflow."""
    size = xp.abs(z)
    least = xp.min(size, axis=-1, keepdims=True)
    e = xp.exp(least - size)
    relative = e / (1 + xp.exp(-size)) ** 2
    p = relative / xp.sum(relative, axis=-1, keepdims=True)
    return p, relative * xp.exp(-least)


def _moved(xp, z, tau, p, w, t):
    """The derivative of z along t."""
    moved = (t[0] - z * t[2]) / tau
    return moved - inner(xp, p, moved) + t[1] / xp.sum(w, axis=-1, keepdims=True)
