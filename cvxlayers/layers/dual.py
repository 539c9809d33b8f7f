"""The dual of entropic transport: potentials u, v for which P = exp((X - u - v) / tau) has the marginals a and b.

With v eliminated, so that the columns of P have the sums b, the dual is a convex function of u, in units of tau:

    phi(u) = a'u + sum_j b_j log sum_i exp(X_ij / tau - u_i)      gradient a - P1      Hessian H = diag(P1) - P diag(1/b) P'

H is the Laplacian of a graph with the weights w = P diag(1/b) P'. Its diagonal is computed as the sum of the weights, so that
little is lost where P is close to a permutation and H to zero. |phi'''[h, h, h]| <= (max h - min h) phi''[h, h] gives a step
along Newton's direction that is known to decrease phi (Bach 2010); the best of it and of longer ones is taken. So the iteration
converges from everywhere, quadratically in the end. Far from the solution Newton's steps are short, hence the temperature comes
down from the range of X, and a few sweeps of Sinkhorn's, which only scale rows and columns, go before each step.
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ..factors import identity
from ..loops import iterate
from .base import inner, times

_START = 10.0  # the range of X in units of the first temperature
_FACTOR = 4.0  # from one temperature to the next
_LOOSE = 0.1  # relative error of the sums with which a temperature is left
_SWEEPS = 3  # before each step of Newton's; together they cost less than a tenth of it
_STEPS = 6  # to choose from, in equal ratios from Newton's to the one that is known to do
_FAR = 1e9  # in units of the first temperature: exp(-_FAR) is 0, whatever the potentials are
_MOST = 300  # steps; 5 to 30 are common
_ROUNDING = 64  # in units of the dtype's: default tolerance
_RIDGE = 64  # the same, relative to the largest eigenvalue of H


def solve(X, a, b, tau, tol=None):
    """(log P, u, v, error) for X (..., n, m), a (..., n), b (..., m), tau (..., 1), all with the same leading dimensions.

    a, b: nonnegative with equal sums; where they are 0, log P is -inf and the potential anything. error (..., 1): the largest
    relative error of a row's sum; those of the columns are exact.
    """
    xp = array_namespace(X)
    if X.shape[-2] > X.shape[-1]:  # H is as large as the shorter side
        L, v, u, error = solve(xp.matrix_transpose(X), b, a, tau, tol)
        return xp.matrix_transpose(L), u, v, error
    limits = xp.finfo(X.dtype)
    tol = _ROUNDING * limits.eps if tol is None else tol
    floor = math.sqrt(limits.smallest_normal)  # of sums that are divided by: scales stay finite, and later steps do the rest
    longest = -math.log(floor)  # step for which what has underflowed in P does not count
    own_a, own_b, eye = _positive(xp, a), _positive(xp, b), identity(a)
    X = xp.where((a > 0)[..., :, None] & (b > 0)[..., None, :], X, -xp.inf)
    u = _finite(xp, xp.max(X, axis=-1))
    X = X - u[..., :, None]
    v = _finite(xp, xp.max(X, axis=-2))
    X = X - v[..., None, :]
    span = -xp.min(xp.where(X > -xp.inf, X, 0), axis=(-2, -1))[..., None]
    t = xp.where(span > _START * tau, span / _START, tau)
    X = xp.where(X > -xp.inf, X, -_FAR * t[..., None])
    u0, v0, u, v = u, v, xp.zeros_like(u), xp.zeros_like(v)

    def step(going, t, L, u, v, before):
        lower = xp.where(before < _LOOSE, xp.where(t > _FACTOR * tau, t / _FACTOR, tau), t)
        stays = xp.astype(lower == t, L.dtype)  # then what rounding has left in L is not disturbed
        L = stays[..., None] * L + ((1 - stays) / lower)[..., None] * (X - u[..., :, None] - v[..., None, :])
        E = xp.exp(L)
        y = xp.ones_like(b)
        for _ in range(_SWEEPS):
            x = a / _above(xp, floor, times(E, y))
            columns = _left(x, E)
            y = b / _above(xp, floor, columns)
        rows = x * times(E, y)  # of the sums of P = x E y; its columns have the sums b
        root = xp.sqrt(rows)
        K = E * (x / _positive(xp, root))[..., :, None] * (y / xp.sqrt(own_b))[..., None, :]
        p, q, low = _descent(xp, E, x, y / own_b, newton(K, root, rows - a, eye), a, b, longest)
        rows = x * xp.exp(low - p) * times(E, y * xp.exp(-low - q))
        error = xp.max(xp.abs(rows - a) / own_a, axis=-1, keepdims=True)
        reached = xp.all((columns > floor) | (b <= 0), axis=-1, keepdims=True)  # whether all columns have their sums
        error = xp.where(reached, error, 1)
        p, q = p - xp.log(_positive(xp, x)), q - xp.log(_positive(xp, y))
        L = L - p[..., :, None] - q[..., None, :]
        stalled = (lower == t) & (error > 0.9 * before) & (error < limits.eps**0.5)
        going = (lower > tau) | ~((error <= tol) | stalled)
        return going, lower, L, u + lower * p, v + lower * q, error

    state = (t == t, t, X / t[..., None], u, v, xp.where(t == t, xp.inf, t))
    _, _, L, u, v, error = iterate(step, state, _MOST)
    return L, u0 + u, v0 + v, error


def newton(K, root, rhs, eye):
    """h with (R - P diag(1/c) P') h = rhs, for rhs (..., n) with the sum 0; h is 0 in rows without mass.

    K: R^-1/2 P diag(c)^-1/2, where R = diag(root^2) and c are the sums of P, with 1 in place of 0; eye: `identity`.
    """
    xp = array_namespace(K)
    scale = 1 / _positive(xp, root)  # units in which the diagonal of H is below 1
    w = (K @ xp.matrix_transpose(K)) * (1 - eye)
    degrees = scale * times(w, root) + _RIDGE * xp.finfo(K.dtype).eps
    constant = root[..., :, None] * (root / inner(xp, root, root))[..., None, :]  # in whose span H is 0
    return scale * xp.linalg.solve(constant - w + degrees[..., None] * eye, (scale * rhs)[..., None])[..., 0]


def _descent(xp, E, x, y, h, a, b, longest):
    """The step p = t h for that t in a few for which phi is least, q, which restores the columns, and the least entry of p.

    x, y: what E is to be scaled with to have columns with the sums 1. longest: no step is longer.
    """
    reach = xp.max(h, axis=-1, keepdims=True) - xp.min(h, axis=-1, keepdims=True)
    reach = xp.where(reach > 1e-6, reach, 1e-6)
    safe = xp.log1p(reach) / reach
    t = xp.stack([safe ** (k / _STEPS) for k in range(_STEPS + 1)], axis=-2)  # (..., _STEPS + 1, 1)
    p = t * h[..., None, :]
    low = xp.min(p, axis=-1, keepdims=True)
    sums = ((xp.exp(low - p) * x[..., None, :]) @ E) * y[..., None, :]
    q = xp.log(_positive(xp, sums)) - low
    phi = inner(xp, a[..., None, :], p) + inner(xp, b[..., None, :], q)
    phi = xp.where(t * reach[..., None] <= longest, phi, xp.inf)
    best = xp.argmin(phi, axis=-2, keepdims=True)
    t, q, low = (xp.take_along_axis(z, best, axis=-2)[..., 0, :] for z in (t, q, low))
    return t * h, q, low


def _left(x, E):
    return (x[..., None, :] @ E)[..., 0, :]


def _positive(xp, x):
    return xp.where(x > 0, x, 1)


def _above(xp, floor, x):
    return xp.where(x > floor, x, floor)


def _finite(xp, x):
    return xp.where(x > -xp.inf, x, 0)
