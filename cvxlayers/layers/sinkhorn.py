"""Entropic transport: P = argmax <X, P> + tau H(P) over P >= 0 with P1 = a, P'1 = b; H(P) = -sum P log P; V its value.

    P = exp((X - u 1' - 1 v') / tau)      V = a'u + b'v      dV = <P, dX> + (u - tau/2)'da + (v - tau/2)'db + H(P) dtau

The derivative of P is that of these conditions: with L = log P and M = [diag(a) P; P' diag(b)],

    dP = P * dL      tau dL = dX - L dtau - du 1' - 1 dv'      M [du; dv] = [(P * (dX - L dtau)) 1 - tau da; its transpose]

V is differentiated by the envelope theorem, the first line, and twice by the derivative of that line. M is singular: only sums
u_i + v_j count, and only changes with sum(da) = sum(db) are possible. Others are moved there by scaling both marginals to the
mean of their sums, which gives the gauge a'u = b'v. (Cuturi 2013; Mena et al. 2018; Cuturi, Teboul, Niles-Weed, Vert 2020.)
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace, is_jax_array

from ..diffmap import Saved
from ..errors import SolverError, listed
from ..factors import identity
from .base import Layer, failing, flattened, inner, matrices, times
from .dual import newton, solve


class Sinkhorn(Layer):
    """(X, a, b, tau) -> (P, V): (..., n m), (..., n), (..., m), (..., 1) -> (..., n m), (..., 1).

    P is 0 where X is -inf, and in rows and columns with a = 0 or b = 0, where nothing has a derivative. An item is NaN if it
    has NaN or +inf, or if there is no such P. tol: relative error of the sums; None: at rounding.
    """

    second_order = loops = True

    def __init__(self, n, m, tol=None):
        super().__init__(n, m, tol)
        self.n, self.m, self.tol = n, m, tol
        self.in_sizes, self.out_sizes = (n * m, n, m, 1), (n * m, 1)
        self.saved = tuple(Saved(k, (0, 1, 2, 3)) for k in self.in_sizes)  # P, the slopes of V in a and b, tau

    def check(self, X, a, b, tau):
        """Name the items without a solution."""
        if is_jax_array(X):  # JAX would compile each operation
            X, a, b, tau = map(np.asarray, (X, a, b, tau))
        for reason, found in self._read(X, a, b, tau)[-1]:
            _refuse(reason, found)

    def verify(self, outputs, saved):
        """Whether forbidden entries leave a solution is known only from the search for one."""
        tau = saved[3]
        xp = array_namespace(tau)
        _refuse("no transport avoids the forbidden entries (-inf)", tau == xp.inf)
        _refuse("Newton's method has not converged", tau == -xp.inf)

    def _read(self, X, a, b, tau):
        """All inputs with the same leading dimensions and equal sums, harmless where something is wrong; where that is; and
        what it is, unless something is not finite."""
        xp = array_namespace(X)
        lead = xp.broadcast_arrays(X[..., :1], a[..., :1], b[..., :1], tau)[0].shape[:-1]
        X, a, b, tau = (xp.broadcast_to(v, (*lead, v.shape[-1])) for v in (X, a, b, tau))
        mass, other = xp.sum(a, axis=-1, keepdims=True), xp.sum(b, axis=-1, keepdims=True)
        known = xp.isfinite(mass + other + tau) & (xp.max(X, axis=-1, keepdims=True) < xp.inf)
        least = xp.minimum(xp.min(a, axis=-1, keepdims=True), xp.min(b, axis=-1, keepdims=True))
        rough = xp.finfo(X.dtype).eps ** (1 / 3)  # differences of sums up to here are taken for rounding
        faults = [
            ("the temperature (tau, or eps) is not positive", known & (tau <= 0)),
            ("a mass is negative", known & (least < 0)),
            ("the masses have different sums", known & (xp.abs(mass - other) > rough * xp.maximum(mass, other))),
        ]
        wrong = ~known | faults[0][1] | faults[1][1] | faults[2][1]
        a, b = (xp.where(wrong, 1 / v.shape[-1], v) for v in (a, b))
        mean = (xp.sum(a, axis=-1, keepdims=True) + xp.sum(b, axis=-1, keepdims=True)) / 2
        a, b = (v * _quotient(xp, mean, xp.sum(v, axis=-1, keepdims=True)) for v in (a, b))
        X = matrices(xp.where(wrong, 0, X), self.n, self.m)
        return X, a, b, xp.where(wrong, 1, tau), wrong, faults

    def forward(self, X, a, b, tau):
        """Newton's method on the dual. Where it finds nothing the saved tau is inf, or -inf if no entry is forbidden."""
        xp = array_namespace(X)
        X, a, b, tau, wrong, _ = self._read(X, a, b, tau)
        L, u, v, error = solve(X, a, b, tau, self.tol)
        failed = ~(error <= max(self.tol or 0, xp.finfo(X.dtype).eps ** 0.5))
        u, v = _balanced(xp, a, b, u, v)
        nan = xp.where(wrong | failed, xp.nan, xp.zeros_like(tau))
        P = flattened(xp.exp(L)) + nan
        holes = xp.any(X == -xp.inf, axis=(-2, -1))[..., None]
        tau_ = xp.where(failed & ~wrong, xp.where(holes, xp.inf, -xp.inf), tau + nan)
        slopes = (xp.where(mass > 0, w - tau / 2, 0) + nan for mass, w in ((a, u), (b, v)))
        return (P, inner(xp, a, u) + inner(xp, b, v) + nan), (P, *slopes, tau_)

    def _plan(self, saved):
        P, _, _, tau = saved
        xp, P = array_namespace(P), matrices(P, self.n, self.m)
        return xp, P, xp.log(xp.where(P > 0, P, 1)), tau

    def _move(self, saved, dX, da, db, dtau):
        """dL, du, dv."""
        xp, P, L, tau = self._plan(saved)
        E = matrices(dX, self.n, self.m) - L * dtau[..., None]
        du, dv = _potentials(xp, P, xp.sum(P * E, axis=-1) - tau * da, xp.sum(P * E, axis=-2) - tau * db)
        return (E - du[..., :, None] - dv[..., None, :]) / tau[..., None], du, dv

    def _pull(self, saved, c):
        """The derivative of <c, P> in X, a, b and tau; the first divided by P, and it is tau times that of <c, P> in L."""
        xp, P, L, tau = self._plan(saved)
        alpha, beta = _potentials(xp, P, xp.sum(P * c, axis=-1), xp.sum(P * c, axis=-2))
        E = (c - alpha[..., :, None] - beta[..., None, :]) / tau[..., None]
        return E, alpha, beta, -xp.sum(P * E * L, axis=(-2, -1))[..., None]

    def _slopes(self, saved):
        """The gradient of V."""
        xp, P, L, _ = self._plan(saved)
        return *saved[:3], -xp.sum(P * L, axis=(-2, -1))[..., None]

    def _bend(self, saved, t):
        """The derivative of the gradient of V along t."""
        xp, P, L, _ = self._plan(saved)
        dL, *moves = self._move(saved, *t)
        bends, change = [], 0.0
        for axis, dw, dmass in zip((-1, -2), moves, t[1:3], strict=True):
            seen = xp.sum(P, axis=axis) > 0
            bends.append(xp.where(seen, dw - t[3] / 2, 0))
            change = change + xp.sum(xp.where(seen, dmass, 0), axis=-1, keepdims=True) / 2
        return flattened(P * dL), *bends, -xp.sum(P * dL * L, axis=(-2, -1))[..., None] - change

    def jvp(self, saved, *t):
        """One solve with M."""
        xp = array_namespace(saved[0])
        dL, _, _ = self._move(saved, *t)
        return saved[0] * flattened(dL), sum(inner(xp, g, d) for g, d in zip(self._slopes(saved), t, strict=True))

    def vjp(self, saved, c, w):
        """One solve with M."""
        E, *rest = self._pull(saved, matrices(c, self.n, self.m))
        slopes = self._slopes(saved)
        return tuple(g + w * s for g, s in zip((saved[0] * flattened(E), *rest), slopes, strict=True))

    def jvp2(self, saved, s, t):
        """That of P along s and t is jvp with dX = tau dL_s dL_t - dL_s dtau_t - dL_t dtau_s."""
        xp, P, _, tau = self._plan(saved)
        first, second = self._move(saved, *s)[0], self._move(saved, *t)[0]
        dX = flattened(first * second) * tau - flattened(first) * t[3] - flattened(second) * s[3]
        d2L, _, _ = self._move(saved, dX, 0 * s[1], 0 * s[2], 0 * s[3])
        along = sum(inner(xp, g, d) for g, d in zip(self._bend(saved, s), t, strict=True))
        return flattened(P * d2L), along

    def vjp2(self, saved, t, c):
        """The adjoint of jvp2 along t."""
        xp, P, _, tau = self._plan(saved)
        E, *_ = self._pull(saved, matrices(c[0], self.n, self.m))
        dL, _, _ = self._move(saved, *t)
        F, ga, gb, gtau = self._pull(saved, E * (tau[..., None] * dL - t[3][..., None]))
        gtau = gtau - xp.sum(P * E * dL, axis=(-2, -1))[..., None]
        own = (flattened(P * F), ga, gb, gtau)
        return tuple(g + c[1] * d for g, d in zip(own, self._bend(saved, t), strict=True))


def _refuse(reason, wrong):
    items = failing(wrong)
    if items:
        raise SolverError(f"no solution for items {listed(items)}: {reason}", items)


def _quotient(xp, x, y):
    return xp.where(y > 0, x / xp.where(y > 0, y, 1), 0)


def _balanced(xp, a, b, u, v):
    """Potentials with a'u = b'v, 0 where there is no mass."""
    gap = _quotient(
        xp, inner(xp, a, u) - inner(xp, b, v), xp.sum(a, axis=-1, keepdims=True) + xp.sum(b, axis=-1, keepdims=True)
    )
    return xp.where(a > 0, u - gap, 0), xp.where(b > 0, v + gap, 0)


def _potentials(xp, P, x, y):
    """(p, q) with diag(a) p + P q = x and P' p + diag(b) q = y in the gauge a'p = b'q, for the sums a and b of P. The symmetric
    operator that this is: what of x and y is out of range is scaled away."""
    if P.shape[-2] > P.shape[-1]:  # newton takes the shorter side
        q, p = _potentials(xp, xp.matrix_transpose(P), y, x)
        return p, q
    a, b = xp.sum(P, axis=-1), xp.sum(P, axis=-2)
    x, y = xp.where(a > 0, x, 0), xp.where(b > 0, y, 0)
    total = xp.sum(x, axis=-1, keepdims=True) - xp.sum(y, axis=-1, keepdims=True)
    gap = _quotient(xp, total, xp.sum(a, axis=-1, keepdims=True) + xp.sum(b, axis=-1, keepdims=True))
    x, y = x - gap * a, y + gap * b
    root, own_b = xp.sqrt(a), xp.where(b > 0, b, 1)
    K = P / xp.where(a > 0, root, 1)[..., :, None] / xp.sqrt(own_b)[..., None, :]
    p = newton(K, root, x - times(P, y / own_b), identity(a))
    q = (y - (xp.matrix_transpose(P) @ p[..., None])[..., 0]) / own_b
    return _balanced(xp, a, b, p, q)
