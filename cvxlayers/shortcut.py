"""The shortcut: small QPs with the native engine in one call each way, where NumPy's calls take longer than the work.

`layer.ConeLayer` asks it first. It has no say of its own: where a batch is not plainly in order (a value that breaks what
is declared of it, units other than one, an item that is not solved to rounding at once) it answers None, and the general
path starts from the beginning. Where it does answer, it is with the same point, to rounding.
"""

from __future__ import annotations

import math

import numpy as np

from .native import chosen_build
from .native.shortcut import Rule, Shortcut, Term
from .param_map import DATA
from .parameters import SIGNS
from .residual import limits
from .threads import workers
from .units import RANGE

_LARGEST = 1 << 17  # numbers in the data of a batch, beyond which threads and vectors count for more


class LayerShortcut:
    """The shortcut of a ConeLayer; `found` says which layers have one."""

    def __init__(self, layer):
        S, maps = layer.structure, layer.param_map
        self.max_iter = int(layer.solvers[0].settings["max_iter"])
        self.state_size = layer.saved[len(layer.derivative.needs)].size
        blocks = dict(zip(DATA, maps.blocks, strict=False))
        self.reach = tuple(maps.reach(blocks[name]) for name in ("P", "A"))
        terms = [
            Term(k, maps.formulas.outputs[f], t.rows, t.cols, t.values)
            for k, block in enumerate(blocks.values())
            for f, t in block.terms
        ]
        for k, (t, dual, _) in enumerate(layer.recovery.outputs):
            terms.append(Term(len(DATA) + k, int(dual), t.rows, t.cols, t.values))
        self.native = Shortcut(
            S.engine, S.cones.zero, (S.P.rows, S.P.cols), (S.A.rows, S.A.cols), [b.constant for b in blocks.values()],
            _rules(layer), layer.out_sizes, terms, (*limits(S), RANGE),
        )  # fmt: skip
        self.most = _LARGEST // max(1, sum(t.values.size for t in terms) + S.P.nnz + S.A.nnz)

    @classmethod
    def found(cls, layer):
        """That of a layer, or None: the solver must be the engine, and parameters must be the data, up to an affine map."""
        plain = not layer.param_map.formulas.steps and not layer.recovery.has_exps
        usual = layer.solvers[0].name == "native" and layer.derivative.name == "implicit" and not layer.verbose
        return cls(layer) if plain and usual and layer.parameters and _rules(layer) else None

    def forward(self, theta):
        """(outputs, saved) of `ConeLayer.forward`, or None."""
        common = _common(theta)
        if common is None:
            return None
        lead, batch, varies = common
        if not 0 < batch <= self.most:
            return None
        theta = [np.ascontiguousarray(a, np.float64) for a in theta]
        rows = [batch if any(varies[i] for i in reach) else 1 for reach in self.reach]
        answer = self.native.forward(
            theta, varies, batch, rows, self.state_size, max_iter=self.max_iter, threads=workers(), build=chosen_build()
        )
        if answer is None:
            return None
        outputs, saved = answer[:-3], answer[-3:]
        if len(lead) != 1:
            outputs, saved = ([_shaped(a, lead) for a in arrays] for arrays in (outputs, saved))
        return tuple(outputs), tuple(saved)

    def vjp(self, saved, cotangents):
        """What `ConeLayer.vjp` returns, or None."""
        common = _common((saved[2], saved[0], saved[1], *cotangents))
        if common is None or common[1] > self.most:
            return None
        lead, batch, varies = common
        if not varies[0] and batch != 1:
            return None
        arrays = [np.ascontiguousarray(a, np.float64) for a in (*saved, *cotangents)]
        if len(lead) != 1:
            arrays = [a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in arrays]
        grads = self.native.vjp(arrays[:3], arrays[3:], varies[3:], threads=workers(), build=chosen_build())
        return grads if grads is None or len(lead) == 1 else [_shaped(g, lead) for g in grads]


def _rules(layer):
    """What the library checks of each parameter; None where something is to be checked that it does not know."""
    rules = [_rule(p) for p in layer.parameters]
    if None in rules:
        return None
    if not layer.convex:
        i = _curvature(layer)
        if i is None or rules[i].order:
            return None
        rules[i] = rules[i]._replace(order=layer.structure.n, definite=1)
    return rules


def _curvature(layer):
    """The parameter whose symmetric part is P; None if P is anything else."""
    n, block = layer.structure.n, layer.param_map.blocks[0]
    if len(block.terms) != 1 or block.constant.any() or layer.structure.P.nnz != n * n:
        return None
    f, term = block.terms[0]
    i = layer.param_map.formulas.outputs[f]
    if layer.parameters[i].shape != (n, n) or layer.parameters[i].complex:
        return None
    Q, P = np.random.default_rng(0).standard_normal((n, n)), np.zeros(n * n)
    np.add.at(P, term.rows, term.values * Q.ravel()[term.cols])  # linear maps that agree here agree
    return i if np.allclose(P.reshape(n, n), (Q + Q.T) / 2, rtol=0, atol=1e-12) else None


def _rule(parameter):
    """What the library checks of a parameter; None for what it does not know."""
    declared, shape = parameter.declared, parameter.shape
    signs = {SIGNS[a] for a in declared if a in SIGNS}
    definite = {1 if a == "PSD" else -1 for a in declared if a not in SIGNS}
    if parameter.log or len(signs) > 1 or len(definite) > 1 or (definite and (parameter.complex or len(shape) != 2)):
        return None
    return Rule(parameter.size, *signs or (0,), *((shape[0], *definite) if definite else (0, 0)))


def _shaped(array, lead):
    """(batch|1, size) with these leading dimensions, or as many ones."""
    return array.reshape(*(lead if len(array) == math.prod(lead) else (1,) * len(lead)), array.shape[1])


def _common(arrays):
    """(lead, batch, which arrays have it) where all leading dimensions are the same, or ones; else None."""
    leads = [a.shape[:-1] for a in arrays]
    lead = leads[0]
    if any(other != lead for other in leads):
        lead = max(leads, key=math.prod)
        if any(other != lead and math.prod(other) != 1 for other in leads):
            return None
    batch = math.prod(lead)
    return lead, batch, [batch != 1 and own == lead for own in leads]
