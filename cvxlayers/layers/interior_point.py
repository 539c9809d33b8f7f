"""A batch of dense QPs by array operations alone: an interior-point method, and Newton's method where it ends.

    minimize 1/2 x'Px + q'x   subject to  Cx + s = d,  s = 0 in the first rows (hard), s >= 0 in the others (soft)

1. Mehrotra's predictor and corrector. Each step factorizes H = P + C'WC + eI, W = y/s in soft rows and 1 in hard ones, and
   R H^-1 R' + eI, R the hard rows: the weight 1 changes nothing where they hold, and makes H regular where P is not.
2. Newton's method on the residual map of `residual`, with v = y - s: solves for the active set v > 0 until it stays.

Items stop by masks, so that none depends on the others. (Mehrotra 1992; Nocedal, Wright, "Numerical Optimization", ch. 16.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ..factors import cholesky, cholesky_solve, identity
from ..loops import iterate
from .base import times

_STEPS, _NEWTON = 60, 30
_PATIENCE, _MORE = 4, 12  # steps of the two without progress: the active set of a thin slab takes Newton's some to find
_NEAR = 1e-3  # where no progress means that rounding is reached
_ROUNDS, _WORTHWHILE = 10, 0.7  # solutions of a KKT system: each leaves of the error before it what e does; at least this


class Limits(NamedTuple):
    """For a dtype: e, the regularization; stop, of the interior-point method; target, of Newton's; accepted, the residual;
    certified, of what proves that there is no solution."""

    e: float
    stop: float
    target: float
    accepted: float
    certified: float


SINGLE, DOUBLE = Limits(1e-5, 1e-6, 1e-6, 1e-4, 1e-4), Limits(1e-9, 1e-12, 1e-14, 1e-9, 1e-6)


def limits(xp, dtype):
    """Those of the dtype."""
    return DOUBLE if xp.finfo(dtype).bits == 64 else SINGLE


class Program(NamedTuple):
    """P (..., n, n), q (..., n), C (..., m, n), d (..., m), hard: how many of the rows are equalities."""

    P: Any
    q: Any
    C: Any
    d: Any
    hard: int


def largest(xp, x):
    """The largest magnitude in the last axis, which stays with length 1."""
    return xp.max(xp.abs(x), axis=-1, keepdims=True)


class Factors(NamedTuple):
    """[H, R'; R, -eI], factorized: L of H, S of RH^-1R' + eI, F = H^-1R', and whether there are factors (..., 1)."""

    L: Any
    S: Any
    F: Any
    R: Any
    good: Any

    @classmethod
    def of(cls, H, R, e):
        """H (..., n, n), R (..., k, n)."""
        L, good = cholesky(H)
        F = cholesky_solve(L, R.mT)
        S = R @ F
        S, fine = cholesky((S + S.mT) / 2 + e * identity(S))
        return cls(L, S, F, R, good & fine)

    def solve(self, r1, r2):
        """(u, w): Hu + R'w = r1, Ru - ew = r2; (..., n), (..., k). NaN where there are no factors."""
        u = cholesky_solve(self.L, r1[..., None])
        w = cholesky_solve(self.S, self.R @ u - r2[..., None])
        xp = array_namespace(r1)
        nothing = xp.where(self.good, 0 * r1[..., :1], xp.nan)
        return (u - self.F @ w)[..., 0] + nothing, w[..., 0] + nothing


def interior_point(program: Program):
    """(x, y, s, certificate): (..., n), (..., m), (..., soft), and (..., 1): 1, y shows that no point is feasible; 2, x that
    the objective is unbounded; 0 else."""
    P, q, C, d, hard = program
    xp = array_namespace(P)
    A, G = C[..., :hard, :], C[..., hard:, :]
    limit = limits(xp, q.dtype)
    fixed = P + A.mT @ A + limit.e * identity(P)

    def factors(w):
        return Factors.of(fixed + G.mT @ (w[..., None] * G), A, limit.e)

    def move(found, r1, r2, w, over):
        """The step for the residuals r1, r2 and ws + y -> over."""
        soft = w * r2[..., hard:] - over
        dx, dnu = found.solve(-r1 - times(C.mT, xp.concat([r2[..., :hard], soft], axis=-1)), -r2[..., :hard])
        along = times(G, dx)
        return dx, dnu, -r2[..., hard:] - along, soft + w * along

    def state(x, y, s):
        """Residuals, merit and certificate of a point."""
        Px, Cy, Cx = times(P, x), times(C.mT, y), times(C, x)
        full = xp.concat([xp.zeros_like(y[..., :hard]), s], axis=-1)
        r1, r2 = Px + q + Cy, Cx + full - d
        mu = xp.mean(s * y[..., hard:], axis=-1, keepdims=True)
        qx, dy = (xp.sum(a * b, axis=-1, keepdims=True) for a, b in ((q, x), (d, y)))
        merit = xp.maximum(relative(xp, r1, Px, q, Cy), relative(xp, r2, Cx, full, d))
        merit = xp.maximum(merit, mu / (1 + xp.abs(qx)))
        nowhere = (dy < 0) & (largest(xp, Cy) <= -limit.certified * dy)
        endless = (qx < 0) & (xp.maximum(largest(xp, Px), largest(xp, Cx + full)) <= -limit.certified * qx)
        shown = xp.where(nowhere, 1.0, xp.where(endless, 2.0, 0 * merit))
        return r1, r2, mu, merit, shown

    def step(going, x, y, s, r1, r2, mu, best, stalls, certificate):
        lam = y[..., hard:]
        w = lam / s
        found = factors(w)
        _, _, ds, dlam = move(found, r1, r2, w, lam)
        a = _length(xp, s, ds, lam, dlam)
        after = xp.mean((s + a * ds) * (lam + a * dlam), axis=-1, keepdims=True)
        sigma = xp.clip(after / mu, 0, 1) ** 3
        dx, dnu, ds, dlam = move(found, r1, r2, w, lam + (ds * dlam - sigma * mu) / s)
        a = xp.clip(0.995 * _length(xp, s, ds, lam, dlam), max=1)
        moved = x + a * dx, y + a * xp.concat([dnu, dlam], axis=-1), s + a * ds
        r1n, r2n, mun, merit, shown = state(*moved)
        usable = going & xp.isfinite(merit)
        stalls = xp.where(merit < 0.9 * best, 0.0, stalls + 1)
        going = usable & (merit > limit.stop) & (shown == 0) & ((stalls < _PATIENCE) | (best > _NEAR))
        new = *moved, r1n, r2n, mun, xp.minimum(best, merit), stalls, shown
        old = x, y, s, r1, r2, mu, best, stalls, certificate
        return going, *(xp.where(usable, b, a) for a, b in zip(old, new, strict=True))

    one = xp.ones_like(d[..., hard:])
    r1, r2 = q + 0 * times(C.mT, d), -d + 0 * times(C, q)
    x, nu, _, lam = move(factors(one), r1, r2, one, 0 * one)  # as if s were -lam
    s, lam = (_shifted(xp, v) for v in (-lam, lam))
    y = xp.concat([nu, lam], axis=-1)
    *first, merit, shown = state(x, y, s)
    out = iterate(step, (merit > limit.stop, x, y, s, *first, merit, 0 * merit, shown), _STEPS)
    return out[1], out[2], out[3], out[-1]


def newton(program: Program, x, y, s):
    """(x, y, active, size) from where the interior-point method has ended: active (..., m), 1 for the rows of the active set,
    size (..., 1) of the residual. The best point of the path counts."""
    P, q, C, d, hard = program
    xp = array_namespace(P)
    limit = limits(xp, q.dtype)

    def state(x, v):
        y = xp.concat([v[..., :hard], xp.clip(v[..., hard:], min=0)], axis=-1)
        Px, Cy, Cx, s = times(P, x), times(C.mT, y), times(C, x), y - v
        r1, r2 = Px + q + Cy, Cx + s - d
        return r1, r2, xp.maximum(relative(xp, r1, Px, q, Cy), relative(xp, r2, Cx, s, d))

    def active(v):
        return xp.concat([xp.ones_like(v[..., :hard]), xp.astype(v[..., hard:] > 0, v.dtype)], axis=-1)

    def step(going, x, v, r1, r2, best_x, best_v, best, failures):
        on = active(v)
        dx, dy = kkt(P, C * on[..., None], -r1, -r2 * on, limit.e)
        x = x + dx
        v = xp.where(on > 0, v + dy, times(C, x) - d)
        r1, r2, size = state(x, v)
        better = going & (size < best)
        best_x, best_v = xp.where(better, x, best_x), xp.where(better, v, best_v)
        best, failures = xp.where(better, size, best), xp.where(better, 0.0, failures + 1)
        patient = (failures == 0) | ((best > 100 * limit.target) & (failures < _MORE))  # near the target it is rounding
        going = going & xp.isfinite(size) & (best > limit.target) & patient
        return going, x, v, r1, r2, best_x, best_v, best, failures

    v = xp.concat([y[..., :hard], y[..., hard:] - s], axis=-1)
    r1, r2, size = state(x, v)
    out = iterate(step, (size > limit.target, x, v, r1, r2, x, v, size, 0 * size), _NEWTON)
    x, v, size = out[5], out[6], out[7]
    return x, v * active(v), active(v), size


def kkt(P, C, r1, r2, e):
    """(u, w): Pu + C'w = r1, Cu = r2, by refinement of solutions with e: of least norm in w where rows are redundant, and in
    u where it is free."""
    xp, found = array_namespace(P), Factors.of(P + C.mT @ C + e * identity(P), C, e)

    def size(f1, f2):
        return xp.maximum(largest(xp, f1), largest(xp, f2))

    def step(going, u, w, f1, f2):
        du, dw = found.solve(f1 + times(C.mT, f2), f2)
        f1n, f2n = f1 - times(P, du) - times(C.mT, dw), f2 - times(C, du)
        before, now = size(f1, f2), size(f1n, f2n)
        better = going & (now < before)
        new = u + du, w + dw, f1n, f2n
        state = (xp.where(better, b, a) for a, b in zip((u, w, f1, f2), new, strict=True))
        return better & (now > enough) & (now < _WORTHWHILE * before), *state

    zero = 0 * (found.L[..., 0, :1] + found.S[..., 0, :1])
    zero = xp.where(found.good, zero, 0.0)  # the leading dimensions of all
    r1, r2 = r1 + zero + 0 * r2[..., :1], r2 + zero + 0 * r1[..., :1]
    enough = limits(xp, r1.dtype).target * size(r1, r2)
    _, u, w, _, _ = iterate(step, (size(r1, r2) > 0, 0 * r1, 0 * r2, r1, r2), _ROUNDS)
    return u, w


def relative(xp, r, *terms):
    """The largest entry of r, relative to 1 and the largest of its terms."""
    size = 1
    for t in terms:
        size = size + largest(xp, t)
    return largest(xp, r) / size


def _length(xp, s, ds, lam, dlam):
    """How far the step may go, up to just beyond 1."""
    worst = xp.maximum(xp.max(-ds / s, axis=-1, keepdims=True), xp.max(-dlam / lam, axis=-1, keepdims=True))
    return 1 / xp.clip(worst, min=0.99)


def _shifted(xp, v):
    lowest = xp.min(v, axis=-1, keepdims=True)
    return v + xp.where(lowest < 1e-2, 1 - lowest, 0.0)
