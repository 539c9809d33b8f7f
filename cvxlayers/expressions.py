"""CVXPY expressions of parameters alone -> steps of `Formulas`.

Affine atoms become sparse matrices by CVXPY's own derivative of them, which is exact for those; the others are composed
here. What has no recipe has no formula. Everything is real and flattened in C order; CVXPY's matrices are in Fortran order.
"""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.affine.binary_operators import DivExpression, MulExpression, multiply
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.pnorm import Pnorm
from cvxpy.expressions.expression import Expression

from .formulas import Formulas, Largest, Linear, Matmul, Norm, Product, Root, Unary
from .param_map import LinearTerm


class NoFormula(Exception):
    """An expression has an atom without a recipe."""


class Steps:
    """Grows a straight-line program; nodes 0, 1, ... are the parameters, in order."""

    def __init__(self, parameters):
        self.sizes = [p.size * (2 if p.is_complex() else 1) for p in parameters]
        self.parameters = {p.id: (i, p) for i, p in enumerate(parameters)}
        self._steps: list = []
        self._sizes = list(self.sizes)
        self._known: dict = {}  # id of an expression -> (the expression, to keep its id, and its node)

    def finish(self, outputs) -> Formulas:
        """The program for these nodes."""
        return Formulas.trimmed(self.sizes, self._steps, outputs)

    def node(self, e) -> int:
        """The node of an expression. Raises NoFormula."""
        if id(e) not in self._known:
            self._known[id(e)] = e, self._build(e)
        return self._known[id(e)][1]

    def define(self, p, node):
        """Let a new parameter stand for a node."""
        self.parameters[p.id] = node, p

    def root(self, node, n, sign) -> int:
        """The square root of a matrix (n, n), or of its negative."""
        return self._add(Root(n), [node if sign > 0 else self._scaled(-1.0, node)], n * n)

    def unary(self, name, node, number=0.0) -> int:
        """A function of `formulas.UNARY`."""
        return self._add(Unary(name, number), [node], self._sizes[node])

    def _add(self, op, args, size):
        self._steps.append((op, tuple(args)))
        self._sizes.append(size)
        return len(self._sizes) - 1

    def _linear(self, nodes, matrices, constant):
        return self._add(Linear(tuple(LinearTerm(m) for m in matrices), constant), nodes, constant.size)

    def _scaled(self, factor, node):
        size = self._sizes[node]
        return self._linear([node], [factor * sp.eye_array(size)], np.zeros(size))

    def _sum(self, *nodes):
        size = self._sizes[nodes[0]]
        return self._linear(nodes, [sp.eye_array(size)] * len(nodes), np.zeros(size))

    def _taken(self, node, index):
        """Entries of a node, by their places."""
        ones = np.ones(index.size)
        matrix = sp.coo_array((ones, (np.arange(index.size), index.ravel())), shape=(index.size, self._sizes[node]))
        return self._linear([node], [matrix], np.zeros(index.size))

    def _summed(self, node, groups):
        rows = np.repeat(np.arange(groups.shape[0]), groups.shape[1])
        matrix = sp.coo_array((np.ones(groups.size), (rows, groups.ravel())), shape=(groups.shape[0], self._sizes[node]))
        return self._linear([node], [matrix], np.zeros(groups.shape[0]))

    def _largest(self, node, groups):
        return self._add(Largest(groups), [node], groups.shape[0])

    def _times(self, a, b):
        return self._add(Product(), [a, b], self._sizes[a])

    def _build(self, e):
        if e.is_complex() or any(p.is_complex() for p in e.parameters()) or e.size == 0:
            raise NoFormula
        if isinstance(e, cp.Parameter):
            return self._leaf(e)
        if any(isinstance(datum, Expression) and datum.parameters() for datum in e.get_data() or ()):
            raise NoFormula  # huber(b, M=g)
        if isinstance(e, AffAtom):
            return self._affine(e)
        for kind, recipe in _RECIPES.items():
            if isinstance(e, kind):
                return recipe(self, e)
        raise NoFormula

    def _leaf(self, p):
        """A parameter as CVXPY reads it: of a symmetric one the symmetric part, of a sparse one the declared entries."""
        node, _ = self.parameters[p.id]
        place = np.arange(p.size).reshape(p.shape)
        if p.size > 1 and any(p.attributes[kind] for kind in ("symmetric", "PSD", "NSD")):
            eye = sp.eye_array(p.size).tocsr()
            return self._linear([node], [(eye + eye[place.swapaxes(-1, -2).ravel()]) / 2], np.zeros(p.size))
        if p.attributes["diag"] or p.attributes["sparsity"]:
            keep = np.zeros(p.shape)
            keep[np.diag_indices(p.shape[0]) if p.attributes["diag"] else p.sparse_idx] = 1
            return self._linear([node], [sp.diags_array(keep.ravel())], np.zeros(p.size))
        return node

    def _affine(self, e):
        if isinstance(e, (MulExpression, DivExpression)) and e.args[1].parameters():
            if isinstance(e, DivExpression):
                inverse = self.unary("power", self._spread(e, 1), -1.0)
                return self._times(self._spread(e, 0), inverse) if e.args[0].parameters() else self._weighted(e, inverse)
            if e.args[0].parameters():
                return self._product(e)
        free = [a if not a.parameters() else cp.Variable(a.shape) for a in e.args]
        try:
            linear = e.copy(free)
        except ValueError as error:  # kron of two parameters
            raise NoFormula from error
        if not linear.is_affine():
            raise NoFormula
        inside = [(i, self.node(a)) for i, a in enumerate(e.args) if a.parameters()]
        constant = linear.numeric([np.zeros(a.shape) if a.parameters() else a.value for a in e.args])
        constant = constant.toarray() if sp.issparse(constant) else np.asarray(constant, np.float64)
        for v in free:
            if v.variables():
                v.value = np.zeros(v.shape)
        jacobians = linear._grad([v.value for v in free])
        out = _fortran(e.shape)
        matrices = [_matrix(jacobians[i], e.args[i], e)[out][:, _fortran(e.args[i].shape)] for i, _ in inside]
        return self._linear([node for _, node in inside], matrices, constant.reshape(-1))

    def _product(self, e):
        if isinstance(e, multiply):
            return self._times(self._spread(e, 0), self._spread(e, 1))
        a, b = e.args
        if a.ndim > 2 or b.ndim > 2:
            raise NoFormula
        rows, cols = (a.shape[0] if a.ndim == 2 else 1), (b.shape[1] if b.ndim == 2 else 1)
        return self._add(Matmul(rows, a.shape[-1], cols), [self.node(a), self.node(b)], rows * cols)

    def _spread(self, e, i):
        """The i-th argument of an elementwise atom, broadcast to its shape."""
        a = e.args[i]
        node = self.node(a) if a.parameters() else None
        if node is None or a.shape == e.shape:
            return node
        return self._taken(node, np.broadcast_to(np.arange(a.size).reshape(a.shape), e.shape))

    def _weighted(self, e, node):
        """The constant first argument of an elementwise product or quotient, times a node."""
        value = e.args[0].value
        value = np.broadcast_to(value.toarray() if sp.issparse(value) else value, e.shape).ravel()
        return self._linear([node], [sp.diags_array(value.astype(np.float64))], np.zeros(e.size))

    def _stacked(self, e):
        """The arguments of an elementwise atom beside each other, (size, number of arguments), and their places."""
        matrices, nodes, constant = [], [], np.zeros((e.size, len(e.args)))
        for k, a in enumerate(e.args):
            if not a.parameters():
                constant[:, k] = np.broadcast_to(a.value.toarray() if sp.issparse(a.value) else a.value, e.shape).ravel()
                continue
            rows = np.arange(e.size) * len(e.args) + k
            cols = np.broadcast_to(np.arange(a.size).reshape(a.shape), e.shape).ravel()
            matrices.append(sp.coo_array((np.ones(e.size), (rows, cols)), shape=(constant.size, a.size)))
            nodes.append(self.node(a))
        return self._linear(nodes, matrices, constant.ravel()), np.arange(constant.size).reshape(constant.shape)

    def _argument(self, e, i=0):
        """The node of an argument, which may be constant where another one is not."""
        if e.args[i].parameters():
            return self._spread(e, i)
        other = self.node(next(a for a in e.args if a.parameters()))
        value = e.args[i].value
        value = np.broadcast_to(value.toarray() if sp.issparse(value) else value, e.shape).ravel().astype(np.float64)
        return self._linear([other], [sp.coo_array((value.size, self._sizes[other]))], value)


def _fortran(shape):
    """Fortran position of each entry in C order."""
    return np.arange(math.prod(shape)).reshape(shape, order="F").ravel()


def _matrix(jacobian, a, e):
    """CVXPY's derivative (argument, expression) as a matrix (expression, argument); a bare number for scalars."""
    if not sp.issparse(jacobian):
        jacobian = sp.coo_array(np.reshape(jacobian, (a.size, e.size)).astype(np.float64))
    return sp.csr_array(jacobian.T)


def _groups(e):
    """(rows, width): the places of the entries that each entry of an atom with an axis reduces."""
    shape = e.args[0].shape
    place = np.arange(math.prod(shape)).reshape(shape)
    if e.axis is None:
        return place.reshape(1, -1)
    axes = e.axis if isinstance(e.axis, tuple) else (e.axis,)
    moved = np.moveaxis(place, axes, range(len(shape) - len(axes), len(shape)))
    return moved.reshape(-1, math.prod(shape[a] for a in axes))


def _unary(name):
    return lambda steps, e: steps.unary(name, steps.node(e.args[0]))


def _extreme(sign, elementwise):
    def recipe(steps, e):
        node, groups = steps._stacked(e) if elementwise else (steps.node(e.args[0]), _groups(e))
        node = node if sign > 0 else steps._scaled(-1.0, node)
        largest = steps._largest(node, groups)
        return largest if sign > 0 else steps._scaled(-1.0, largest)

    return recipe


def _pnorm(steps, e):
    if float(e.p) != 2:
        raise NoFormula
    groups = _groups(e)
    return steps._add(Norm(groups), [steps.node(e.args[0])], groups.shape[0])


def _power(steps, e):
    return steps.unary("power", steps.node(e.args[0]), float(e.p.value))


def _huber(steps, e):
    return steps.unary("huber", steps.node(e.args[0]), float(e.M.value))


def _log_sum_exp(steps, e):
    node, groups = steps.node(e.args[0]), _groups(e)
    top = steps._largest(node, groups)
    group_of = np.empty(groups.size, np.int64)
    group_of[groups] = np.arange(groups.shape[0])[:, None]
    below = steps._sum(node, steps._scaled(-1.0, steps._taken(top, group_of)))
    return steps._sum(top, steps.unary("log", steps._summed(steps.unary("exp", below), groups)))


def _quad_over_lin(steps, e):
    x, y = e.args
    groups = _groups(e)
    if not x.parameters():
        total = np.square(x.value).ravel()[groups].sum(-1)
        inverse = steps._taken(steps.unary("power", steps.node(y), -1.0), np.zeros(groups.shape[0], np.int64))
        return steps._linear([inverse], [sp.diags_array(total)], np.zeros(total.size))
    total = steps._summed(steps.unary("power", steps.node(x), 2.0), groups)
    if not y.parameters():
        return steps._scaled(1 / float(np.asarray(y.value).item()), total)
    return steps._times(total, steps._taken(steps.unary("power", steps.node(y), -1.0), np.zeros(e.size, np.int64)))


def _quad_form(steps, e):
    return steps.node(cp.sum(cp.multiply(e.args[0], e.args[1] @ e.args[0])))


def _rel_entr(steps, e, kl=False):
    x, y = (steps._argument(e, i) for i in (0, 1))
    cross = steps._scaled(-1.0, steps._times(x, steps.unary("log", y)))
    out = steps._sum(steps._scaled(-1.0, steps.unary("entr", x)), cross)
    return steps._sum(out, steps._scaled(-1.0, x), y) if kl else out


_RECIPES = {
    cp.exp: _unary("exp"),
    cp.log1p: _unary("log1p"),  # before log, of which it is a kind
    cp.log: _unary("log"),
    cp.abs: _unary("abs"),
    cp.logistic: _unary("logistic"),
    cp.entr: _unary("entr"),
    Power: _power,
    cp.huber: _huber,
    cp.maximum: _extreme(1, True),
    cp.minimum: _extreme(-1, True),
    cp.max: _extreme(1, False),
    cp.min: _extreme(-1, False),
    cp.norm1: lambda steps, e: steps._summed(steps.unary("abs", steps.node(e.args[0])), _groups(e)),
    cp.norm_inf: lambda steps, e: steps._largest(steps.unary("abs", steps.node(e.args[0])), _groups(e)),
    Pnorm: _pnorm,
    cp.log_sum_exp: _log_sum_exp,
    cp.quad_over_lin: _quad_over_lin,
    cp.QuadForm: _quad_form,
    cp.rel_entr: _rel_entr,
    cp.kl_div: lambda steps, e: _rel_entr(steps, e, kl=True),
}
