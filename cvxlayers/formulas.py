"""Formulas of the parameters that precede the affine map: theta -> phi, a straight-line program with its derivatives.

    node = theta_i,  or  op(nodes before it),      phi = some of the nodes

The operations are Linear, Product, Matmul, Unary, Norm, Largest and Root; everything else is composed of these. Nodes are
float64 arrays (..., size), flattened in C order, and their leading dimensions broadcast. Each operation knows its value, its
derivative along tangents (jvp) and back (vjp), and both once more: jvp2 is its curvature along s and t, vjp2 the gradient of
<g, jvp(t)>. At a kink the derivative is one element of the generalized derivative, with 0 for abs and norms at 0. A slope may
be infinite (of the root at 0); times zero it is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import entr, expit

from .param_map import LinearTerm
from .parameters import definite_violation

# name -> (f, f', f'') of an array and of a number that only some of them read
UNARY = {
    "exp": (lambda v, p: np.exp(v), lambda v, p: np.exp(v), lambda v, p: np.exp(v)),
    "log": (lambda v, p: np.log(v), lambda v, p: 1 / v, lambda v, p: -1 / v**2),
    "log1p": (lambda v, p: np.log1p(v), lambda v, p: 1 / (1 + v), lambda v, p: -1 / (1 + v) ** 2),
    "abs": (lambda v, p: np.abs(v), lambda v, p: np.sign(v), lambda v, p: 0 * v),
    "pos": (lambda v, p: np.maximum(v, 0), lambda v, p: (v > 0) * 1.0, lambda v, p: 0 * v),
    "logistic": (lambda v, p: np.logaddexp(0, v), lambda v, p: expit(v), lambda v, p: expit(v) * expit(-v)),
    "entr": (lambda v, p: entr(v), lambda v, p: -1 - np.log(v), lambda v, p: -1 / v),
    "power": (lambda v, p: v**p, lambda v, p: _power(v, p, 1), lambda v, p: _power(v, p, 2)),
    "huber": (
        lambda v, p: np.where(np.abs(v) <= p, v**2, p * (2 * np.abs(v) - p)),
        lambda v, p: 2 * np.clip(v, -p, p),
        lambda v, p: 2.0 * (np.abs(v) < p),
    ),
}


def _power(v, p, order):
    """The derivative of v^p of that order; 0 v^-1 is 0."""
    factor = p if order == 1 else p * (p - 1)
    return factor * v ** (p - order) if factor else 0 * v


class Linear(NamedTuple):
    """constant + the sum of M_k v_k."""

    terms: tuple[LinearTerm, ...]
    constant: np.ndarray

    def value(self, *v):
        return self.constant + self.jvp(v, v)

    def jvp(self, v, t):
        out = np.zeros(np.broadcast_shapes(*(d.shape[:-1] for d in t)) + self.constant.shape)
        for term, d in zip(self.terms, t, strict=True):
            term.add_to(out, d)
        return out

    def vjp(self, v, g):
        return tuple(term.adjoint(g) for term in self.terms)

    def jvp2(self, v, s, t):
        return None

    def vjp2(self, v, t, g):
        return (None,) * len(self.terms)


class Product(NamedTuple):
    """v * w, entry by entry."""

    def value(self, v, w):
        return v * w

    def jvp(self, v, t):
        return _times(t[0], v[1]) + _times(v[0], t[1])

    def vjp(self, v, g):
        return _times(g, v[1]), _times(g, v[0])

    def jvp2(self, v, s, t):
        return _times(s[0], t[1]) + _times(t[0], s[1])

    def vjp2(self, v, t, g):
        return self.vjp(t, g)  # bilinear: the same, at t


class Matmul(NamedTuple):
    """V W for matrices V (rows, inner) and W (inner, cols), each flat."""

    rows: int
    inner: int
    cols: int

    def value(self, v, w):
        return _flat(_square(v, self.rows, self.inner) @ _square(w, self.inner, self.cols))

    def _product(self, v, w):
        return _flat(_matmul(_square(v, self.rows, self.inner), _square(w, self.inner, self.cols)))

    def jvp(self, v, t):
        return self._product(t[0], v[1]) + self._product(v[0], t[1])

    def vjp(self, v, g):
        G = _square(g, self.rows, self.cols)
        left, right = _square(v[0], self.rows, self.inner), _square(v[1], self.inner, self.cols)
        return _flat(_matmul(G, right.swapaxes(-1, -2))), _flat(_matmul(left.swapaxes(-1, -2), G))

    def jvp2(self, v, s, t):
        return self._product(s[0], t[1]) + self._product(t[0], s[1])

    def vjp2(self, v, t, g):
        return self.vjp(t, g)  # bilinear: the same, at t


class Unary(NamedTuple):
    """A function of `UNARY` of each entry, with its number."""

    name: str
    number: float = 0.0

    def value(self, v):
        return UNARY[self.name][0](v, self.number)

    def jvp(self, v, t):
        return _times(t[0], UNARY[self.name][1](v[0], self.number))

    def vjp(self, v, g):
        return (self.jvp(v, (g,)),)

    def jvp2(self, v, s, t):
        return _times(s[0] * t[0], UNARY[self.name][2](v[0], self.number))

    def vjp2(self, v, t, g):
        return (self.jvp2(v, t, (g,)),)


class Norm(NamedTuple):
    """The Euclidean norm of each group of entries; `groups` (rows, width) are their places, each entry in one group."""

    groups: np.ndarray

    def value(self, v):
        return np.linalg.norm(v[..., self.groups], axis=-1)

    def _direction(self, v):
        """(u, r): each group over its norm, and the norm; 0 and infinity where the norm is 0."""
        r = self.value(v)[..., None]
        r = np.where(r == 0, np.inf, r)
        return v[..., self.groups] / r, r

    def jvp(self, v, t):
        return (self._direction(v[0])[0] * t[0][..., self.groups]).sum(-1)

    def vjp(self, v, g):
        return (_ungrouped(self.groups, self._direction(v[0])[0] * g[..., None]),)

    def jvp2(self, v, s, t):
        return (self._bent(v[0], s[0]) * t[0][..., self.groups]).sum(-1)

    def vjp2(self, v, t, g):
        return (_ungrouped(self.groups, self._bent(v[0], t[0]) * g[..., None]),)

    def _bent(self, v, t):
        """The derivative of u along t: (t - u u't) / r."""
        u, r = self._direction(v)
        t = t[..., self.groups]
        return (t - u * (u * t).sum(-1, keepdims=True)) / r


class Largest(NamedTuple):
    """The largest entry of each group, the first if there are several; groups as in `Norm`."""

    groups: np.ndarray

    def value(self, v):
        return v[..., self.groups].max(-1)

    def _chosen(self, v):
        return v[..., self.groups].argmax(-1)[..., None] == np.arange(self.groups.shape[1])

    def jvp(self, v, t):
        return _times(self._chosen(v[0]), t[0][..., self.groups]).sum(-1)

    def vjp(self, v, g):
        return (_ungrouped(self.groups, _times(self._chosen(v[0]), g[..., None])),)

    def jvp2(self, v, s, t):
        return None

    def vjp2(self, v, t, g):
        return (None,)


class Root(NamedTuple):
    """R = P^(1/2) for the symmetric part of a matrix P (n, n), positive semidefinite; NaN where it is not.

    With P = Q diag(r^2) Q', the change of R solves R dR + dR R = dP, that is Q'dR Q = Q'dP Q / (r_i + r_j). Eigenvalues
    count as at least 1e-13 of the largest, in R and in its derivative: so the derivative of e'Pe = |Re|^2, which exists for
    singular P, comes out right, while that of R alone is infinite there. Twice: R d2R + d2R R = -(dR dR' + dR' dR).
    """

    n: int

    def _spectrum(self, v):
        P = _square(v, self.n, self.n)
        P = (P + P.swapaxes(-1, -2)) / 2
        bad = ~np.isfinite(P).all((-1, -2))
        P = np.where(bad[..., None, None], 0.0, P)
        l, Q = np.linalg.eigh(P)
        r = np.sqrt(np.maximum(l, 1e-13 * np.abs(l).max(-1, initial=1e-100, keepdims=True)))
        return r, Q, bad | (definite_violation(P) > 0)

    def value(self, v):
        r, Q, bad = self._spectrum(v)
        return _flat(np.where(bad[..., None, None], np.nan, (Q * r[..., None, :]) @ Q.swapaxes(-1, -2)))

    def _solver(self, v):
        """The function G -> S with RS + SR = the symmetric part of G; it is its own adjoint."""
        r, Q, _ = self._spectrum(v)
        Qt = Q.swapaxes(-1, -2)
        weight = 1 / (r[..., :, None] + r[..., None, :])
        return lambda G: Q @ (weight * (Qt @ ((G + G.swapaxes(-1, -2)) / 2) @ Q)) @ Qt

    def jvp(self, v, t):
        return _flat(self._solver(v[0])(_square(t[0], self.n, self.n)))

    def vjp(self, v, g):
        return (self.jvp(v, (g,)),)

    def jvp2(self, v, s, t):
        solve = self._solver(v[0])
        S, T = (solve(_square(d[0], self.n, self.n)) for d in (s, t))
        return _flat(-solve(S @ T + T @ S))

    def vjp2(self, v, t, g):
        return (self.jvp2(v, t, (g,)),)


class Formulas:
    """inputs theta (..., sizes[i]) -> outputs phi.

    steps: (operation, the nodes that it takes); nodes are numbered inputs first. outputs: the nodes that are phi. reach: for
    each output the inputs that it depends on. kept: the inputs that derivatives look at; others may be None there.
    """

    def __init__(self, sizes, steps, outputs):
        self.sizes, self.steps, self.outputs = tuple(sizes), tuple(steps), tuple(outputs)
        reach = [(i,) for i in range(len(self.sizes))]
        for _, args in self.steps:
            reach.append(tuple(sorted({i for a in args for i in reach[a]})))
        self.reach = tuple(reach[o] for o in self.outputs)
        self.kept = tuple(sorted({i for inputs in reach[len(self.sizes) :] for i in inputs}))

    @classmethod
    def trimmed(cls, sizes, steps, outputs):
        """The same without the steps that no output needs."""
        k, needed = len(sizes), set(outputs)
        for number in range(k + len(steps) - 1, k - 1, -1):
            if number in needed:
                needed.update(steps[number - k][1])
        kept = [number for number in range(k + len(steps)) if number < k or number in needed]
        place = {number: i for i, number in enumerate(kept)}
        short = [(steps[n - k][0], tuple(place[a] for a in steps[n - k][1])) for n in kept[k:]]
        return cls(sizes, short, [place[o] for o in outputs])

    def facts(self):
        """(description, arrays): everything that the results depend on."""
        words, arrays = [self.sizes, self.outputs], []
        for op, args in self.steps:
            words.append((type(op).__name__, args))
            for field in op:
                if isinstance(field, np.ndarray):
                    arrays.append(field)
                elif isinstance(field, tuple):  # the terms of Linear
                    for term in field:
                        words.append(term.shape)
                        arrays += [term.rows, term.cols, term.values]
                else:
                    words.append(field)
        return words, arrays

    def apply(self, theta):
        """theta -> phi; not finite outside of the domain of a function."""
        nodes = self._values(theta)
        return [nodes[o] for o in self.outputs]

    def jvp(self, theta, t):
        """Tangents of phi."""
        with np.errstate(all="ignore"):
            tangents = self._tangents(self._values(theta), t)
        return [tangents[o] for o in self.outputs]

    def vjp(self, theta, g):
        """Cotangents of theta, for one of each output or None; None where there is none."""
        with np.errstate(all="ignore"):
            nodes, grads = self._values(theta), self._seeds(g)
            for number, op, args in self._backward():
                if grads[number] is not None:
                    _spread(grads, args, op.vjp([nodes[a] for a in args], grads[number]))
        return grads[: len(self.sizes)]

    def jvp2(self, theta, s, t):
        """Second derivatives of phi along s and t."""
        with np.errstate(all="ignore"):
            nodes = self._values(theta)
            ds, dt = self._tangents(nodes, s), self._tangents(nodes, t)
            bent: list = [None] * len(self.sizes)
            for op, args in self.steps:
                v = [nodes[a] for a in args]
                out = op.jvp2(v, [ds[a] for a in args], [dt[a] for a in args])
                if any(bent[a] is not None for a in args):
                    chain = op.jvp(v, [0 * nodes[a] if bent[a] is None else bent[a] for a in args])
                    out = chain if out is None else out + chain
                bent.append(out)
        return [np.zeros_like(ds[o]) if bent[o] is None else bent[o] for o in self.outputs]

    def vjp2(self, theta, t, g):
        """The gradient of <g, jvp(theta, t)> in theta; None as in `vjp`."""
        with np.errstate(all="ignore"):
            nodes = self._values(theta)
            dt = self._tangents(nodes, t)
            first, second = self._seeds(g), self._seeds([None] * len(self.outputs))
            for number, op, args in self._backward():
                v = [nodes[a] for a in args]
                if first[number] is not None:
                    _spread(second, args, op.vjp2(v, [dt[a] for a in args], first[number]))
                    _spread(first, args, op.vjp(v, first[number]))
                if second[number] is not None:
                    _spread(second, args, op.vjp(v, second[number]))
        return second[: len(self.sizes)]

    def _values(self, theta):
        nodes = list(theta)
        with np.errstate(all="ignore"):
            for op, args in self.steps:
                nodes.append(op.value(*(nodes[a] for a in args)))
        return nodes

    def _tangents(self, nodes, t):
        out = list(t)
        for op, args in self.steps:
            out.append(op.jvp([nodes[a] for a in args], [out[a] for a in args]))
        return out

    def _backward(self):
        k = len(self.sizes)
        for number in range(k + len(self.steps) - 1, k - 1, -1):
            yield number, *self.steps[number - k]

    def _seeds(self, g):
        grads: list = [None] * (len(self.sizes) + len(self.steps))
        _spread(grads, self.outputs, g)
        return grads


def _spread(grads, places, parts):
    """Add each part to its place; None is zero."""
    for place, part in zip(places, parts, strict=True):
        if part is not None:
            grads[place] = part if grads[place] is None else grads[place] + part


def _times(a, b):
    """a b, entry by entry; 0 where one of them is 0, even if the other one is an infinite slope."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _matmul(V, W):
    """V W by the same rule."""
    out = V @ W
    return out if np.isfinite(out).all() else _times(V[..., None], W[..., None, :, :]).sum(-2)


def _square(v, rows, cols):
    return v.reshape(*v.shape[:-1], rows, cols)


def _flat(M):
    return M.reshape(*M.shape[:-2], -1)


def _ungrouped(groups, parts):
    """The adjoint of v -> v[..., groups]."""
    out = np.zeros(parts.shape[:-2] + (groups.size,))
    out[..., groups] = parts
    return out
