"""The linear map from a conic solution (x, y) to the requested outputs, with its derivative and its adjoint.

    out_k = W_k x  or  W_k y      in geometric programs the variables are logarithms, and out_k = exp(W_k x)

Each output is an array (..., size), flattened in C order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .param_map import LinearTerm


class OutputInfo(NamedTuple):
    """Name and shape of an output; whether it is complex (then stored as pairs of real numbers in the last axis)."""

    name: str
    shape: tuple[int, ...]
    complex: bool


class Output(NamedTuple):
    """One output: its matrix, whether it acts on y (a dual variable) instead of x, and whether exp follows."""

    term: LinearTerm
    dual: bool
    exp: bool


class Recovery:
    """(x, y) -> outputs."""

    def __init__(self, outputs):
        self.outputs = tuple(outputs)
        self.sizes = tuple(o.term.shape[0] for o in self.outputs)
        self.has_exps = any(o.exp for o in self.outputs)

    def _linear(self, x, y):
        return [_times(term, y if dual else x) for term, dual, _ in self.outputs]

    def apply(self, x, y):
        """x (..., n), y (..., m) -> outputs."""
        return tuple(np.exp(v) if o.exp else v for v, o in zip(self._linear(x, y), self.outputs, strict=True))

    def jvp(self, x, dx, dy):
        """Tangents of the outputs at x."""
        values = zip(self.outputs, self._linear(dx, dy), strict=True)
        return tuple(v * np.exp(_times(term, x)) if exp else v for (term, _, exp), v in values)

    def vjp(self, x, cotangents):
        """(gx, gy); gy is None if no output is a dual variable."""
        lead = np.broadcast_shapes(*(g.shape[:-1] for g in cotangents))
        gx, gy = np.zeros(lead + x.shape[-1:]), None
        for (term, dual, exp), g in zip(self.outputs, cotangents, strict=True):
            part = term.adjoint(g * np.exp(_times(term, x)) if exp else g)
            if dual:
                gy = part if gy is None else gy + part
            else:
                gx = gx + part
        return gx, gy

    def jvp2(self, x, xs, xt):
        """Second derivatives of the outputs at x along xs and xt: zero without exp."""
        return tuple(
            np.exp(_times(term, x)) * _times(term, xs) * _times(term, xt) if exp else np.zeros(term.shape[0])
            for term, _, exp in self.outputs
        )

    def vjp2(self, x, xt, cotangents):
        """The gradient in x of <cotangents, tangents of the outputs along xt>."""
        terms = zip(self.outputs, cotangents, strict=True)
        parts = [term.adjoint(g * np.exp(_times(term, x)) * _times(term, xt)) for (term, _, exp), g in terms if exp]
        return sum(parts, np.zeros(x.shape[-1]))


def _times(term, x):
    out = np.zeros(x.shape[:-1] + term.shape[:1])
    term.add_to(out, x)
    return out
