"""A layer that also reports: its outputs, and after them the objective, the report of each item and the conic solution.

The objective f* = 1/2 x'Px + q'x + d at the solution has derivatives without a linear solve (envelope theorem): with
the Lagrangian L = 1/2 x'Px + q'x + d + y'(Ax + s - b)

    f*'[t] = L along the tangent of the data alone = x'(dP x/2 + dq) + y'(dA x - db) + dd
    f*''[s, t] = r1(t)'dx_s + r2(t)'dy_s,     r1 = dP x + dq + dA'y, r2 = dA x - db,     (dx_s, dy_s) along s

The value that a user sees is F = sign f* (sign -1 for Maximize), or exp(sign f*) in geometric programs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import kkt
from .diffmap import DiffMap, Saved
from .info import REPORT
from .layer import ConeLayer
from .parameters import ParameterInfo
from .recover import OutputInfo
from .threads import blas_for


class InformedLayer(DiffMap):
    """A ConeLayer with more outputs, and with warm=True three more inputs, (x, y, s) of a warm start.

    inputs: as of the layer; x (..., n), y (..., m), s (..., m), on which nothing depends differentiably.
    outputs: as of the layer; objective (..., 1); report (..., 6), the fields of `info.REPORT`; x, y, s.
    """

    def __init__(self, layer: ConeLayer, warm=False):
        n, m = layer.structure.n, layer.structure.m
        self.layer, self.warm, self.count = layer, warm, len(layer.in_sizes)
        self.typed = self.count
        state = {"x": n, "y": m, "s": m}
        extra = [ParameterInfo(f"warm_start.{k}", self.count + i, (size,)) for i, (k, size) in enumerate(state.items())]
        more = {"objective": 1, "report": len(REPORT), **state}
        self.parameters = (*layer.parameters, *(extra if warm else ()))
        self.outputs = (*layer.outputs, *(OutputInfo(k, (size,), False) for k, size in more.items()))
        self.in_sizes = tuple(p.size for p in self.parameters)
        self.out_sizes = (*layer.out_sizes, *more.values())
        self.second_order = layer.second_order
        every, own = tuple(range(len(self.in_sizes))), tuple(range(self.count))
        self.saved = tuple(Saved(s.size, every if s.inputs == own else s.inputs) for s in layer.saved)
        self.saved += (Saved(1, every),)

    def fingerprint(self):
        """That of the layer, and what is on top."""
        return f"{self.layer.fingerprint()}-informed{'-warm' * self.warm}"

    def forward(self, *inputs):
        """Outputs of the layer, objective, report and state; and what is saved."""
        found = self.layer.evaluate(inputs[: self.count], inputs[self.count :])
        solved, unit, lead = found.solved, found.unit, found.lead
        good, point = solved.good, solved.point
        x, y, s = point.x * unit[:, :1], point.y * unit[:, 1:], (point.y - point.v) * unit[:, :1]
        value = self._objective.value(found.blocks, x.reshape(*lead, -1))
        report = {
            "status": solved.status,
            "iterations": solved.iterations,
            "residual": solved.size,
            "solver": solved.rung,
            "degenerate": self._degenerate(found),
            "solve_time": solved.seconds,
        }
        told = np.stack([np.asarray(report[field.name], np.float64) for field in REPORT], -1)
        x, y, s = (np.where(good[:, None], a, np.nan).reshape(*lead, -1) for a in (x, y, s))
        shown = np.where(good.reshape(*lead, 1), value, np.nan)
        return (*found.outputs, shown, told.reshape(*lead, -1), x, y, s), (*found.saved, value)

    def _degenerate(self, found):
        """Which items have a singular K or a kink at their solution."""
        S, point, data = self.layer.structure, found.solved.point, found.data
        kink = S.K.at_kink(point.v, 1e-9 * (1 + np.abs(point.v).max(-1, initial=0)))
        singular, rest = point.singular.copy(), np.flatnonzero(found.solved.good & ~point.known)
        if rest.size:
            some = data.take(rest)
            with blas_for(S.n + S.m):
                singular[rest] = kkt.singular(S, some.P, some.A, point.v[rest])
        return found.solved.good & (kink | singular)

    @property
    def _objective(self):
        return Objective(self.layer, *self.layer.objective)

    def _point(self, saved):
        """The layer's saved point; x and y in the units of the problem, and the objective's value."""
        point = self.layer._point(saved[:-1])
        return point, point.x, point.y, saved[-1]

    def jvp(self, saved, *tangents):
        """Tangents of the outputs; those of the report and of the state are zero."""
        tangents = tangents[: self.count]
        point, x, y, value = self._point(saved)
        own = self.layer.jvp(saved[:-1], *tangents)
        slope = self._objective.jvp(x, y, value, self._moved(point, tangents))
        return (*own, *point.masked((slope,)), *self._zeros(own))

    def vjp(self, saved, *cotangents):
        """Cotangents of the parameters; those of the warm start are zero. No linear solve if only the objective counts."""
        k = len(self.layer.out_sizes)
        point, x, y, value = self._point(saved)
        own, (g,) = cotangents[:k], point.masked(cotangents[k : k + 1])
        grads = self._pulled(point, self.layer.param_map.vjp(point.theta, self._objective.vjp(x, y, value, g)), g)
        if any(c.any() for c in own):
            grads = _sum(grads, self.layer.vjp(saved[:-1], *own))
        return self._with_warm(grads)

    def jvp2(self, saved, s, t):
        """Second derivatives of the outputs along s and t."""
        s, t, maps = s[: self.count], t[: self.count], self.layer.param_map
        point, x, y, value = self._point(saved)
        own = self.layer.jvp2(saved[:-1], s, t)
        ds, dt = (self._moved(point, d) for d in (s, t))
        bent = point.masked(maps.jvp2(point.theta, s, t)) if maps.curved else None
        slope = self._objective.jvp2(x, y, value, ds, dt, self.layer._along(point, ds), bent)
        return (*own, *point.masked((slope,)), *self._zeros(own))

    def vjp2(self, saved, t, c):
        """The gradient of <c, jvp(t)> in the parameters."""
        t, k, maps = t[: self.count], len(self.layer.out_sizes), self.layer.param_map
        point, x, y, value = self._point(saved)
        own, (g,) = c[:k], point.masked(c[k : k + 1])
        grads = self.layer.vjp2(saved[:-1], t, own)
        if g.any():
            (gx, gy), blocks, weights = self._objective.vjp2(x, y, value, self._moved(point, t), g)
            back = [a + b for a, b in zip(self.layer._back(point, gx, gy), blocks[:4], strict=True)]
            grads = _sum(grads, self._pulled(point, maps.vjp(point.theta, (*back, blocks[4])), gx))
            if maps.curved:
                grads = _sum(grads, self._pulled(point, maps.vjp2(point.theta, t, weights), gx))
        return self._with_warm(grads)

    def _moved(self, point, tangents):
        """Tangents of the five blocks."""
        return point.masked(self.layer.param_map.jvp(point.theta, tangents))

    def _pulled(self, point, grads, like):
        """Cotangents of the parameters, without None and without those of bad items."""
        return point.masked(self.layer._filled(grads, like.shape[:-1]))

    def _with_warm(self, grads):
        lead = (1,) * (grads[0].ndim - 1) if grads else ()
        return (*grads, *(np.zeros((*lead, k)) for k in self.in_sizes[self.count :]))

    def _zeros(self, own):
        lead = own[0].shape[:-1]
        return tuple(np.zeros((*lead, k)) for k in self.out_sizes[len(own) + 1 :])


class Objective(NamedTuple):
    """F(f*), f* the optimal value of the conic program, as a function of its blocks (P, q, A, b, d); see the module."""

    layer: ConeLayer
    sign: float
    exp: bool

    def value(self, blocks, x):
        """F at x."""
        P, q, _, _, d = blocks
        f = self.sign * (0.5 * _dot(x, self.layer.structure.P.matvec(P, x)) + _dot(q, x) + d)
        return np.exp(f) if self.exp else f

    def _chain(self, value):
        """F' and F''."""
        return (self.sign * value, value) if self.exp else (self.sign, 0.0)

    def _slope(self, x, y, blocks):
        dP, dq, dA, db, dd = blocks
        S = self.layer.structure
        return _dot(x, 0.5 * S.P.matvec(dP, x) + dq) + _dot(y, S.A.matvec(dA, x) - db) + dd

    def _blocks(self, x, y, g):
        S = self.layer.structure
        return 0.5 * g * S.P.outer(x, x), g * x, g * S.A.outer(y, x), -g * y, g

    def jvp(self, x, y, value, blocks):
        """F' along the tangents of the blocks."""
        return self._chain(value)[0] * self._slope(x, y, blocks)

    def vjp(self, x, y, value, g):
        """Cotangents of the five blocks."""
        return self._blocks(x, y, g * self._chain(value)[0])

    def jvp2(self, x, y, value, s, t, moved, bent):
        """F'' along s and t; moved: (dx, dy) along s; bent: the second derivative of the blocks, or None."""
        first, second = self._chain(value)
        r1, r2 = self.layer.structure.conditions(x, y, *t[:4])
        out = first * (_dot(r1, moved[0]) + _dot(r2, moved[1]))
        out = out if bent is None else out + first * self._slope(x, y, bent)
        return out + second * self._slope(x, y, s) * self._slope(x, y, t) if self.exp else out

    def vjp2(self, x, y, value, t, g):
        """For the gradient of g F'[t]: cotangents of (x, y), of the blocks, and the weights of the blocks in it."""
        first, second = self._chain(value)
        r1, r2 = self.layer.structure.conditions(x, y, *t[:4])
        bend = g * second * self._slope(x, y, t)
        return (g * first * r1, g * first * r2), self._blocks(x, y, bend), self._blocks(x, y, g * first)


def _sum(first, second):
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _dot(a, b):
    return (a * b).sum(-1, keepdims=True)
