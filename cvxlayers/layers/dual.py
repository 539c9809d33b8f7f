"""The dual of entropic transport: potentials u, v for which P = exp((X - u - v) / tau) has the marginals a and b.

With v eliminated, so that the columns of P have the sums b, the dual is a convex function of u, in units of tau:

    phi(u) = a'u + sum_j b_j log sum_i exp(X_ij / tau - u_i)      gradient a - P1      Hessian H = diag(P1) - P diag(1/b) P'

H is the Laplacian of a graph with the weights w = P diag(1/b) P'. Its diagonal is computed as the sum of the weights, so that
little is lost where P is close to a permutation and H to zero. |phi'''[h, h, h]| <= (max h - min h) phi''[h, h] gives a step
along Newton's direction that is known to decrease phi (Bach 2010); the best of it and of longer ones is taken. So the iteration
converges from everywhere, quadratically in the end. Far from the solution Newton's steps are short, hence the temperature comes
down from the range of X, each time after a sweep of Sinkhorn's.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..loops import iterate
from .base import inner

_START = 10.0  # the range of X in units of the first temperature
_FACTOR = 4.0  # from one temperature to the next
_LOOSE = 0.5  # relative error of the marginals with which a temperature is left
_MOST = 300  # steps; 5 to 30 are common
_ROUNDING = 64  # in units of the dtype's: default tolerance
_RIDGE = 64  # the same, relative to the largest eigenvalue of H


def solve(X, a, b, tau, tol=None):
    """(log P, u, v, error) for X (..., n, m), a (..., n), b (..., m), tau (..., 1), all with the same leading dimensions.

    a, b: nonnegative with equal sums; where they are 0, log P is -inf and the potential is 0. error (..., 1): the largest
    relative error of a row's sum; those of the columns are exact.
    """
    xp = array_namespace(X)
    if X.shape[-2] > X.shape[-1]:  # H is as large as the shorter side
        L, v, u, error = solve(xp.matrix_transpose(X), b, a, tau, tol)
        return xp.matrix_transpose(L), u, v, error
    tol = _ROUNDING * xp.finfo(X.dtype).eps if tol is None else tol
    log_a, log_b = _log(xp, a), _log(xp, b)
    X = xp.where((a > 0)[..., :, None] & (b > 0)[..., None, :], X, -xp.inf)
    u = _finite(xp, xp.max(X, axis=-1))
    X = X - u[..., :, None]
    v = _finite(xp, xp.max(X, axis=-2))
    X = X - v[..., None, :]
    span = -xp.min(xp.where(X > -xp.inf, X, 0), axis=(-2, -1))[..., None]
    t = xp.where(span > _START * tau, span / _START, tau)

    def step(going, t, L, u, v, error):
        lower = xp.where(error < _LOOSE, xp.where(t > _FACTOR * tau, t / _FACTOR, tau), t)
        L = L * (t / lower)[..., None]
        t, before = lower, error
        p = xp.where(a > 0, _log_sum(xp, L, -1) - log_a, 0)
        L = L - p[..., :, None]
        q = xp.where(b > 0, _log_sum(xp, L, -2) - log_b, 0)
        L = L - q[..., None, :]
        P = xp.exp(L)
        h = newton(P, xp.sum(P, axis=-1), b, xp.sum(P, axis=-1) - a)
        dp, dq = _descent(xp, P, h, a, b)
        p, q = p + dp, q + dq
        L = L - dp[..., :, None] - dq[..., None, :]
        rows = xp.sum(xp.exp(L), axis=-1)
        error = xp.max(xp.where(a > 0, xp.abs(rows / xp.where(a > 0, a, 1) - 1), 0), axis=-1, keepdims=True)
        stalled = (error > before / 2) & (error < xp.finfo(X.dtype).eps ** 0.5)
        return (t > tau) | ((error > tol) & ~stalled), t, L, u + t * p, v + t * q, error

    state = (t == t, t, X / t[..., None], u, v, xp.where(t == t, xp.inf, t))
    _, _, L, u, v, error = iterate(step, state, _MOST)
    return L, u, v, error


def newton(P, rows, columns, rhs):
    """h with (diag(rows) - P diag(1/columns) P') h = rhs, for vectors (..., n) with the sum 0; 0 in rows without mass."""
    xp = array_namespace(P)
    root = xp.sqrt(rows)
    scale = xp.where(rows > 0, 1 / xp.where(rows > 0, root, 1), 0)  # units in which the diagonal of H is below 1
    K = P * scale[..., :, None] / xp.sqrt(xp.where(columns > 0, columns, 1))[..., None, :]
    number = xp.cumulative_sum(xp.ones_like(rows), axis=-1)
    same = number[..., :, None] == number[..., None, :]
    w = xp.where(same, 0, K @ xp.matrix_transpose(K))
    degrees = scale * xp.sum(w * root[..., None, :], axis=-1) + xp.where(rows > 0, _RIDGE * xp.finfo(P.dtype).eps, 1)
    constant = root[..., :, None] * (root / xp.sum(rows, axis=-1, keepdims=True))[..., None, :]  # in whose span H is 0
    H = xp.where(same, degrees[..., None], -w) + constant
    return scale * xp.linalg.solve(H, (scale * rhs)[..., None])[..., 0]


def _descent(xp, P, h, a, b):
    """The step (t h, what restores the columns), for that t in a few for which phi is least."""
    reach = xp.max(h, axis=-1, keepdims=True) - xp.min(h, axis=-1, keepdims=True)
    safe = xp.where(reach > 1e-6, xp.log1p(reach) / xp.where(reach > 1e-6, reach, 1), 1)
    t = xp.stack((xp.ones_like(safe), xp.sqrt(safe), safe), axis=-2)  # (..., 3, 1)
    p = t * h[..., None, :]
    low = xp.min(p, axis=-1, keepdims=True)
    sums = (xp.exp(low - p) @ P) / xp.where(b > 0, b, 1)[..., None, :]
    q = xp.where((b > 0)[..., None, :], xp.log(xp.where(sums > 0, sums, 1)) - low, 0)
    phi = inner(xp, a[..., None, :], p) + inner(xp, b[..., None, :], q)
    usable = xp.all((sums > 0) | (b <= 0)[..., None, :], axis=-1, keepdims=True)  # else the step is so long that it underflows
    phi = xp.where(usable, phi, xp.inf)
    best = phi == xp.min(phi, axis=-2, keepdims=True)
    best = best & (xp.cumulative_sum(xp.astype(best, P.dtype), axis=-2) == 1)
    return xp.sum(xp.where(best, p, 0), axis=-2), xp.sum(xp.where(best, q, 0), axis=-2)


def _log(xp, a):
    return xp.log(xp.where(a > 0, a, 1))


def _finite(xp, x):
    return xp.where(x > -xp.inf, x, 0)


def _log_sum(xp, L, axis):
    top = _finite(xp, xp.max(L, axis=axis, keepdims=True))
    total = xp.sum(xp.exp(L - top), axis=axis)
    return _log(xp, total) + xp.reshape(top, total.shape)
