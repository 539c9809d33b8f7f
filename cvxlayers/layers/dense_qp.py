"""The quadratic program by array operations, on the device of the caller and inside of compiled code.

    z = argmin 1/2 z'Qz + p'z   subject to  Az = b,  Gz <= h        C = [A; G], d = [b; h], y = (nu, lam), P = (Q + Q')/2

    [P   C_a'] [dz  ]     [dP z + dp + dC'y]
    [C_a  0  ] [dy_a] = - [(dC z - dd)_a   ]     a: the equalities and the rows with lam > 0; dy = 0 in the others

The solution is that of `interior_point`, in units in which rows, columns, bounds and costs are of size one; the derivative
is that of the KKT conditions of the active set. Where the system is singular and inconsistent, its least-squares solution of
least norm counts. (Amos, Kolter, "OptNet", 2017.)
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from ..diffmap import Saved
from ..errors import ProblemError, SolverError, listed
from ..factors import cholesky, identity
from ..loops import iterate
from ..program import Status
from .base import Layer, flattened, matrices, times
from .interior_point import Program, interior_point, kkt, largest, limits, newton

_PASSES = 4  # of the equilibration
_HUGE = 1e15  # no bound
_SOLVED, _TRUST = 1e-6, 1e-10  # a linear system's relative residual; eigenvalues that count, both times 1e4 in single precision


class DenseQP(Layer):
    """(Q, p, A, b, G, h) -> z, or (z, nu, lam): as `host_qp`, which has the same inputs and outputs.

    An item without a solution has NaN as outputs and zero as derivatives.
    """

    second_order = loops = True

    def __init__(self, n, equalities, inequalities, duals=False, on_error="raise"):
        super().__init__(n, equalities, inequalities, duals, on_error)
        self.n, self.rows, self.duals, self.on_error = n, (equalities, inequalities), duals, on_error
        given = [k for k in self.rows if k]
        self.in_sizes = (n * n, n, *(size for k in given for size in (k * n, k)))
        self.out_sizes = (n, *(given if duals else ()))
        m, everything = max(equalities, 1) + max(inequalities, 1), tuple(range(len(self.in_sizes)))
        self.m, self.hard = m, max(equalities, 1)
        matrices = tuple(i for i in everything if i != 1 and i % 2 == 0)
        own = [Saved(size, matrices) for size in (n * n, m * n, n + m)]
        self.saved = (*own, *(Saved(size, everything) for size in (n, m, m, 1)))

    def _data(self, inputs):
        """P, q, C, d. For rows that there are not, one of zeros stands in."""
        Q, q, *others = inputs
        xp, Q = array_namespace(q), matrices(Q, self.n, self.n)
        C, d = [], []
        for k in self.rows:
            if k:
                M, v, *others = others
                C.append(matrices(M, k, self.n))
                d.append(v)
            else:
                C.append(xp.zeros_like(Q[..., :1, :]))
                d.append(xp.zeros_like(q[..., :1]))
        return (Q + Q.mT) / 2, q, joined(xp, C, -2), joined(xp, d, -1)

    def forward(self, *inputs):
        """Outputs, and P, C in their units, the scales D, E, z, y, the active rows, and the status."""
        P, q, C, d = self._data(inputs)
        xp, dtype = array_namespace(q), q.dtype
        P, q, C, d, valid = _sane(xp, P, q, C, d)
        D, E = _scales(xp, P, C)
        P, C = P * D[..., :, None] * D[..., None, :], C * E[..., :, None] * D[..., None, :]
        program, beta, gamma = self._in_units(P, q * D, C, d * E)
        x, y, s, certificate = interior_point(program)
        x, y, active, size = newton(program, x, y, s)
        good = valid & (certificate == 0) & (size <= limits(xp, dtype).accepted)
        status = xp.where(certificate > 0, certificate, 1.0 * Status.INACCURATE)
        status = xp.where(valid, xp.where(good, 0.0, status), 1.0 * Status.INVALID)
        x, y = xp.where(good, x * beta * D, 0.0), xp.where(good, y * gamma * E, 0.0)
        outputs = tuple(xp.where(good, o, xp.nan) for o in self._outputs(x, y))
        return outputs, (flattened(P), flattened(C), joined(xp, [D, E], -1), x, y, active * xp.astype(good, dtype), status)

    def _in_units(self, P, q, C, d):
        """The program in units beta of the bounds and gamma of the costs, in the leading dimensions of the batch."""
        xp = array_namespace(q)
        soft = joined(xp, [xp.zeros_like(d[..., : self.hard]), xp.ones_like(d[..., self.hard :])], -1) > 0
        free = soft & (d >= _HUGE)  # no bound
        C, d = xp.where(free[..., None], 0.0, C), xp.where(free, 0.0, d)
        beta, gamma, curvature = largest(xp, d), largest(xp, q), xp.max(xp.abs(P), axis=(-2, -1))[..., None]
        curved = curvature > 0
        beta = xp.where(beta > 0, beta, xp.where(curved & (gamma > 0), gamma / xp.where(curved, curvature, 1.0), 1.0))
        gamma = xp.where(gamma > 0, gamma, xp.where(curved, curvature * beta, 1.0))
        nothing = 0 * (beta + gamma + C[..., 0, :1])
        no_bound = free | (soft & (xp.max(xp.abs(C), axis=-1) == 0) & (self.rows[1] == 0))
        d = xp.where(no_bound, 1.0, d / beta)
        return Program(P * (beta / gamma)[..., None], q / gamma + nothing, C, d + nothing, self.hard), beta, gamma

    def _outputs(self, x, y):
        places = (slice(0, self.rows[0]), slice(self.hard, self.hard + self.rows[1]))
        return x, *(y[..., place] for place, k in zip(places, self.rows, strict=True) if k and self.duals)

    def verify(self, outputs, saved):
        """Raise ProblemError or SolverError, naming the items, unless all are solved."""
        status = saved[-1]
        xp = array_namespace(status)
        if self.on_error == "nan" or bool(xp.all(status == 0)):
            return
        codes = [Status(int(k)) for k in xp.reshape(status, (-1,))]
        invalid = [i for i, k in enumerate(codes) if k == Status.INVALID]
        if invalid:
            raise ProblemError(f"qp: Q is not convex, or a value is NaN or infinite, in batch items {listed(invalid)}")
        items = [i for i, k in enumerate(codes) if k != Status.SOLVED]
        words = [f"item {i}: {codes[i]}" for i in items]
        raise SolverError(f"qp: no solution within the tolerance: {listed(words, '; ')}", items, [codes[i] for i in items])

    def _solve(self, saved, r1, r2):
        """-(u, w): Pu + C_a'w = r1, C_a u = r2; zero for items that are not solved."""
        P, C, scales, _, _, active, status = saved
        xp, n, m = array_namespace(r1), self.n, self.m
        P, C = matrices(P, n, n), matrices(C, m, n) * active[..., None]
        D, E = scales[..., :n], scales[..., n:]
        good = status == 0
        r1, r2 = xp.where(good, r1, 0.0), xp.where(good, r2 * active, 0.0)
        a, b = r1 * D, r2 * E
        u, w = kkt(P, C, a, b, limits(xp, r1.dtype).e)
        factor = 1.0 if xp.finfo(r1.dtype).bits == 64 else 1e4

        def unsolved(u, w):
            size = largest(xp, times(P, u) + times(C.mT, w) - a) + largest(xp, times(C, u) - b)
            return ~(size <= factor * _SOLVED * (largest(xp, a) + largest(xp, b)))

        def least(wrong, u, w):
            top = joined(xp, [P.mT, C], -2).mT
            K = joined(xp, [top, joined(xp, [C.mT, xp.zeros_like(C @ C.mT)], -2).mT], -2)
            unit = 1 / scales
            values, V = xp.linalg.eigh(unit[..., :, None] * K * unit[..., None, :])
            trusted = xp.abs(values) > factor * _TRUST * largest(xp, values)
            inverse = xp.where(trusted, 1 / xp.where(trusted, values, 1.0), 0.0)
            z = times(V, inverse * times(V.mT, xp.concat([r1, r2], axis=-1)))
            return wrong & False, xp.where(wrong, z[..., :n] / D, u), xp.where(wrong, z[..., n:] / E, w)

        _, u, w = iterate(least, (unsolved(u, w), u, w), 1)
        return -u * D, -w * E

    def _residual(self, x, y, P, q, C, d):
        """How the data move the equations at (x, y)."""
        return times(P, x) + q + times(C.mT, y), times(C, x) - d

    def _along(self, saved, data):
        """The tangents of (x, y)."""
        return self._solve(saved, *self._residual(*saved[3:5], *data))

    def _seed(self, saved, cotangents):
        """Cotangents of (x, y), y with its stand-ins."""
        xp = array_namespace(cotangents[0])
        gx, *rest = cotangents
        parts = []
        for k in self.rows:
            parts.append(rest.pop(0) if k and rest else xp.zeros_like(gx[..., :1]) + xp.zeros_like(saved[4][..., : max(k, 1)]))
        return gx, joined(xp, parts, -1)

    def _gradient(self, x, y, wx, wy):
        """The adjoint of `_residual`: for Q, q, C, d."""
        Q = wx[..., :, None] * x[..., None, :]
        return (Q + Q.mT) / 2, wx, y[..., :, None] * wx[..., None, :] + wy[..., :, None] * x[..., None, :], -wy

    def _cotangents(self, Q, q, C, d):
        """Of the inputs: flat, without stand-ins."""
        out = [flattened(Q), q]
        for k, start in zip(self.rows, (0, self.hard), strict=True):
            if k:
                M = C[..., start : start + k, :]
                out += [flattened(M), d[..., start : start + k] + 0]
        return tuple(out)

    def jvp(self, saved, *tangents):
        """One solve with the KKT matrix."""
        return self._outputs(*self._along(saved, self._data(tangents)))

    def vjp(self, saved, *cotangents):
        """The same solve."""
        x, y = saved[3:5]
        return self._cotangents(*self._gradient(x, y, *self._solve(saved, *self._seed(saved, cotangents))))

    def jvp2(self, saved, s, t):
        """The equations are bilinear in data and solution."""
        s, t = self._data(s), self._data(t)
        (xs, ys), (xt, yt) = (self._along(saved, data) for data in (s, t))
        s1, s2 = self._residual(xt, yt, s[0], 0, s[2], 0)
        t1, t2 = self._residual(xs, ys, t[0], 0, t[2], 0)
        return self._outputs(*self._solve(saved, s1 + t1, s2 + t2))

    def vjp2(self, saved, t, c):
        """Its adjoint."""
        t = self._data(t)
        x, y = saved[3:5]
        xt, yt = self._along(saved, t)
        wx, wy = self._solve(saved, *self._seed(saved, c))
        ux, uy = self._solve(saved, *self._residual(wx, wy, t[0], 0, t[2], 0))
        first, second = self._gradient(xt, yt, wx, wy), self._gradient(x, y, ux, uy)
        return self._cotangents(first[0] + second[0], second[1], first[2] + second[2], second[3])


def joined(xp, parts, axis):
    """Parts side by side, along the last axis of vectors or matrices or the last but one; leading dimensions broadcast."""
    core = 1 if axis == -1 else 2
    lead = np.broadcast_shapes(*(p.shape[:-core] for p in parts))
    return xp.concat([xp.broadcast_to(p, lead + p.shape[-core:]) for p in parts], axis=axis)


def _sane(xp, P, q, C, d):
    """The data, with harmless ones in items that are not finite or not convex; and which items are neither (..., 1)."""
    flat = (flattened(P), q, flattened(C), d)
    finite = [xp.all(xp.isfinite(a), axis=-1, keepdims=True) for a in flat]
    P, q, C, d = (xp.where(xp.isfinite(a), a, 0.0) for a in (P, q, C, d))
    size, eye = xp.max(xp.abs(P), axis=(-2, -1), keepdims=True), identity(P)
    rounding = 1e-10 if xp.finfo(q.dtype).bits == 64 else 1e-6
    _, convex = cholesky(P + rounding * xp.where(size > 0, size, 1.0) * eye)
    valid = finite[0] & finite[1] & finite[2] & finite[3] & convex
    return xp.where(convex[..., None], P, eye), q, C, d, valid


def _scales(xp, P, C):
    """D (..., n), E (..., m), such that the rows and columns of [DPD, DC'E; ECD, 0] are of size one (Ruiz)."""
    D, E = xp.ones_like(P[..., 0, :] + C[..., 0, :]), xp.ones_like(C[..., :, 0])
    P, C = xp.abs(P), xp.abs(C)
    for _ in range(_PASSES):
        rows = C * E[..., :, None] * D[..., None, :]
        columns = xp.maximum(xp.max(P * D[..., :, None], axis=-2) * D, xp.max(rows, axis=-2))
        rows = xp.max(rows, axis=-1)
        D, E = D / xp.sqrt(xp.where(columns > 0, columns, 1.0)), E / xp.sqrt(xp.where(rows > 0, rows, 1.0))
    return D, E
