"""The constrained softmax: the softmax with upper bounds.

    y = argmax <x, y> + H(y) subject to 0 <= y <= u, 1'y = 1,  H(y) = -sum y log y
    y = min(u, q e^x), where q is the root of sum min(u, q e^x) = 1
    with A the entries at u, F the others, s = 1 - 1'u_A, p = y_F/s:  dy_A = du_A,  dy_F = y_F (dx_F - p'dx_F) - p 1'du_A

The sum is concave in q: Newton's method from the left never passes the root. Each step is a softmax of s over F, whose entries
beyond u leave F for good. (Martins, Kreutzer 2017.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..errors import SolverError, listed
from ..loops import iterate
from ..native import rows
from .base import Layer, failing, inner


class CappedSoftmax(Layer):
    """(x, u) -> y: (..., n), (..., n) -> (..., n). Entries of x of -inf get 0, whatever their u, which may be inf. A row
    with NaN, or with +inf in x, is NaN; one with some u < 0 or with sum u < 1 is an error. At a tie, where y just touches u,
    it counts as at u; where all do, y is u, and so is its derivative."""

    second_order = loops = True

    def __init__(self, n):
        super().__init__(n)
        self.in_sizes, self.out_sizes, self.saved = (n, n), (n,), (Saved(n, (0, 1)),)

    def check(self, x, u):
        """Raise SolverError for rows without a solution."""
        if not rows.takes(x):
            self._refuse(x, u)

    def _refuse(self, x, u):
        items = failing(_infeasible(array_namespace(x), x, u))
        if items:
            raise SolverError(
                f"rows {listed(items)} have no distribution below u: u must not be negative, and must sum to 1 or more where "
                f"x is not -inf",
                items,
            )

    def forward(self, x, u):
        """Newton's method for q. What is saved is y where it is free, and -1 at u."""
        if rows.takes(x):
            found = rows.run("softmax", (x, u), (x.shape[-1],) * 2)
            if found is None or found[1]:
                self._refuse(x, u)
            if found:
                (y, state), _ = found
                return (y,), (state,)
        xp = array_namespace(x)
        bad = xp.any(~(x < xp.inf) | (u != u), axis=-1, keepdims=True) | _infeasible(xp, x, u)
        there = (x > -xp.inf) & ~bad
        x, u = xp.where(there, x, 0.0) + 0 * xp.where(bad, 0.0, xp.clip(u, max=1)), xp.where(bad, 0.0, u)

        def free(full):
            on = there & ~full
            top = xp.max(xp.where(on, x, -xp.inf), axis=-1, keepdims=True)
            e = xp.where(on, xp.exp(xp.where(on, x - xp.where(top > -xp.inf, top, 0.0), 0.0)), 0.0)
            rest = 1 - xp.sum(xp.where(full, u, 0 * x), axis=-1, keepdims=True)
            return e * (xp.clip(rest, min=0) / xp.clip(xp.sum(e, axis=-1, keepdims=True), min=1))

        def step(going, full):
            more = full | (there & (free(full) >= u))
            return xp.any(more != full, axis=-1, keepdims=True), more

        none = x != x
        _, full = iterate(step, (xp.any(there, axis=-1, keepdims=True), none), x.shape[-1] + 1)
        state = free(full)
        y = xp.where(full, u, state)
        return (xp.where(bad, xp.nan, y),), (xp.where(bad, xp.nan, xp.where(full, -1.0, state)),)

    def jvp(self, saved, dx, du):
        """At u it moves as u does; the others share what is left."""
        xp = array_namespace(dx)
        y, p, full = _parts(xp, saved[0])
        return (y * (dx - inner(xp, p, dx)) + full * du - p * inner(xp, full, du),)

    def vjp(self, saved, c):
        """What is beyond the mean over p goes to x or to u."""
        found = rows.takes(c) and rows.run("softmax_vjp", (*saved, c), (c.shape[-1],) * 2)
        if found:
            return found[0]
        xp = array_namespace(c)
        y, p, full = _parts(xp, saved[0])
        rest = c - inner(xp, p, c)
        return y * rest, full * rest

    def jvp2(self, saved, s, t):
        """y times the relative tangents, and what keeps the sum."""
        xp = array_namespace(s[0])
        y, p, full = _parts(xp, saved[0])
        bent = y * _relative(xp, y, p, full, s) * _relative(xp, y, p, full, t)
        return (bent - p * xp.sum(bent, axis=-1, keepdims=True),)

    def vjp2(self, saved, t, c):
        """The adjoint of jvp2 in one tangent."""
        xp = array_namespace(c[0])
        y, p, full = _parts(xp, saved[0])
        h = (c[0] - inner(xp, p, c[0])) * y * _relative(xp, y, p, full, t)
        total = xp.sum(h, axis=-1, keepdims=True)
        return h - p * total, -full * total / _positive(xp, xp.sum(y, axis=-1, keepdims=True))


def _infeasible(xp, x, u):
    """Rows with numbers in them and without a solution; rounding of the sum is forgiven."""
    room = xp.sum(xp.where(x > -xp.inf, xp.clip(u, max=1), 0.0), axis=-1, keepdims=True)
    unknown = xp.any((x != x) | (x == xp.inf) | (u != u), axis=-1, keepdims=True)
    return ((room < 1 - 16 * xp.finfo(x.dtype).eps) | xp.any(u < 0, axis=-1, keepdims=True)) & ~unknown


def _parts(xp, state):
    """y where it is free, its shares p, and 1 where it is at u."""
    y, full = xp.clip(state, min=0), xp.where(state < 0, 1.0, 0 * state)
    return y, y / _positive(xp, xp.sum(y, axis=-1, keepdims=True)), full


def _relative(xp, y, p, full, t):
    """dy/y of the free entries along t."""
    return t[0] - inner(xp, p, t[0]) - inner(xp, full, t[1]) / _positive(xp, xp.sum(y, axis=-1, keepdims=True))


def _positive(xp, a):
    return xp.where(a == 0, 1.0, a)
