"""The linear map from a conic solution (x, y) to the requested outputs, with its derivative and its adjoint.

    out_k = W_k x  or  W_k y      in geometric programs the variables are logarithms, and out_k = exp(W_k x)

Each output is an array (..., size), flattened in C order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .param_map import LinearTerm


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

    def _linear(self, x, y):
        values = []
        for term, dual, _ in self.outputs:
            source = y if dual else x
            value = np.zeros(source.shape[:-1] + term.shape[:1])
            term.add_to(value, source)
            values.append(value)
        return values

    def apply(self, x, y):
        """x (..., n), y (..., m) -> outputs."""
        return tuple(np.exp(v) if o.exp else v for v, o in zip(self._linear(x, y), self.outputs, strict=True))

    def jvp(self, x, dx, dy):
        """Tangents of the outputs at x."""
        values = self._linear(dx, dy)
        if any(o.exp for o in self.outputs):
            at = self._linear(x, dy)
            values = [np.exp(a) * v if o.exp else v for a, v, o in zip(at, values, self.outputs, strict=True)]
        return tuple(values)

    def vjp(self, x, cotangents):
        """(gx, gy); gy is None if no output is a dual variable."""
        lead = np.broadcast_shapes(*(g.shape[:-1] for g in cotangents))
        gx, gy = np.zeros(lead + x.shape[-1:]), None
        for (term, dual, exp), g in zip(self.outputs, cotangents, strict=True):
            if exp:
                at = np.zeros(x.shape[:-1] + term.shape[:1])
                term.add_to(at, x)
                g = g * np.exp(at)
            part = term.adjoint(g)
            if dual:
                gy = part if gy is None else gy + part
            else:
                gx = gx + part
        return gx, gy
