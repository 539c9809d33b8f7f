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
_FAR = 1e30
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
    eps = xp.finfo(X.dtype).eps
    tol = _ROUNDING * eps if tol is None else tol
    X = xp.where((a > 0)[..., :, None] & (b > 0)[..., None, :], X, -xp.inf)
    own_a, own_b, same = _positive(xp, a), _positive(xp, b), diagonal(a)
    log_a, log_b = xp.log(own_a), xp.log(own_b)
    u = _top(xp, X, -1)
    X = X - u[..., :, None]
    v = _top(xp, X, -2)
    X = X - v[..., None, :]
    span = -xp.min(xp.where(X > -xp.inf, X, 0), axis=(-2, -1))[..., None]
    t = xp.where(span > _START * tau, span / _START, tau)

    def step(going, t, L, u, v, before):
        lower = xp.where(before < _LOOSE, xp.where(t > _FACTOR * tau, t / _FACTOR, tau), t)
        L = L * (t / lower)[..., None]
        p = _log_sum(xp, L, -1) - log_a
        L = L - p[..., :, None]
        q = _log_sum(xp, L, -2) - log_b
        L = L - q[..., None, :]
        P = xp.exp(L)
        rows = xp.sum(P, axis=-1)
        dp, dq = _descent(xp, P, newton(P, rows, own_b, rows - a, same), a, b, own_b)
        L = L - dp[..., :, None] - dq[..., None, :]
        error = xp.max(xp.abs(xp.sum(xp.exp(L), axis=-1) - a) / own_a, axis=-1, keepdims=True)
        stalled = (error > before / 2) & (error < eps**0.5)
        going = (lower > tau) | ((error > tol) & ~stalled)
        return going, lower, L, u + lower * (p + dp), v + lower * (q + dq), error

    state = (t == t, t, X / t[..., None], u, v, xp.where(t == t, xp.inf, t))
    _, _, L, u, v, error = iterate(step, state, _MOST)
    return L, u, v, error


def newton(P, rows, columns, rhs, same):
    """h with (diag(rows) - P diag(1/columns) P') h = rhs, for vectors (..., n) with the sum 0; 0 in rows without mass.

    columns: the sums of the columns, and 1 in those without mass; same: `diagonal`.
    """
    xp = array_namespace(P)
    root = xp.sqrt(rows)
    scale = 1 / _positive(xp, root)  # units in which the diagonal of H is below 1
    K = P * scale[..., :, None] / xp.sqrt(columns)[..., None, :]
    w = xp.where(same, 0, K @ xp.matrix_transpose(K))
    degrees = scale * xp.sum(w * root[..., None, :], axis=-1) + _RIDGE * xp.finfo(P.dtype).eps
    constant = root[..., :, None] * (root / xp.sum(rows, axis=-1, keepdims=True))[..., None, :]  # in whose span H is 0
    H = constant + xp.where(same, degrees[..., None], -w)
    return scale * xp.linalg.solve(H, (scale * rhs)[..., None])[..., 0]


def diagonal(rows):
    """Whether an entry of a matrix (..., n, n) is on its diagonal, for the device of an array (..., n)."""
    xp = array_namespace(rows)
    number = xp.cumulative_sum(xp.ones_like(rows), axis=-1)
    return number[..., :, None] == number[..., None, :]


def _descent(xp, P, h, a, b, own_b):
    """The step (t h, what restores the columns), for that t in a few for which phi is least."""
    reach = xp.clip(xp.max(h, axis=-1, keepdims=True) - xp.min(h, axis=-1, keepdims=True), min=1e-6)
    safe = xp.log1p(reach) / reach
    t = xp.stack((xp.ones_like(safe), xp.sqrt(safe), safe), axis=-2)  # (..., 3, 1)
    p = t * h[..., None, :]
    low = xp.min(p, axis=-1, keepdims=True)
    sums = (xp.exp(low - p) @ P) / own_b[..., None, :]
    q = xp.where(sums > 0, xp.log(_positive(xp, sums)), _FAR) - low  # a step that is far too long underflows
    phi = inner(xp, a[..., None, :], p) + inner(xp, b[..., None, :], q)
    best = xp.argmin(phi, axis=-2, keepdims=True)
    return xp.take_along_axis(t, best, axis=-2)[..., 0] * h, xp.take_along_axis(q, best, axis=-2)[..., 0, :]


def _positive(xp, x):
    return xp.where(x > 0, x, 1)


def _top(xp, L, axis):
    return xp.clip(xp.max(L, axis=axis), min=-_FAR)  # finite: the difference of two -inf would be NaN


def _log_sum(xp, L, axis):
    top = _top(xp, L, axis)
    total = xp.sum(xp.exp(L - xp.expand_dims(top, axis=axis)), axis=axis)
    return xp.log(xp.clip(total, min=1)) + top  # it is at least 1 unless all are -inf
