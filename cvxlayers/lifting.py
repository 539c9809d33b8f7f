"""Rewrites a problem until its data are affine in its parameters, by exact moves, and says what it has moved.

Parameter: a sub-expression of parameters alone that is not affine in them becomes a new parameter, whose value and
derivatives a formula gives (`formulas.py`). CVXPY accepts some of these as bounds (x >= abs(b)), and compiles them into
cones that are loose where the bound is not active; so they are lifted, too.
Variable: where parameters meet in a product, the affine factor that holds variables becomes a new variable v, with v == it.
Root: quad_form(e, P) with a parametric P, where CVXPY takes none, becomes sum_squares(R @ e) with R'R = P.

The user's problem stays as it is; constraints keep their ids, by which their dual variables are found.
"""

from __future__ import annotations

from typing import NamedTuple

import cvxpy as cp
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.affine.binary_operators import DivExpression, MulExpression, multiply
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.wraps import Wrap
from cvxpy.utilities import scopes

from .checks import is_affine, short
from .expressions import NoFormula, Steps


class Lifted(NamedTuple):
    """What became of a sub-expression: its text, "parameter", "variable" or the new expression, and where it stood."""

    expression: str
    into: str
    where: str

    def __repr__(self):
        return f"{self.expression} in {self.where} -> {self.into}"


class Lifting(NamedTuple):
    """The new problem; its parameters; the node of `steps` that is the value of each; what has been lifted; and, by the id of
    the user's variable, what stands for those that are not in the new problem."""

    problem: cp.Problem
    parameters: list
    nodes: list[int]
    steps: Steps
    records: tuple[Lifted, ...]
    replaced: dict[int, cp.Variable]


def lift(problem, parameters, *, gp, quadratic) -> Lifting:
    """Lift what can be lifted; geometric programs stay as they are.

    parameters: the user's. quadratic: whether P may depend on parameters. The result is a problem of its own, on whose caches
    CVXPY may write.
    """
    steps = Steps(parameters)
    distinct = list({c.id: c for c in problem.constraints}.values())  # one object listed twice would give its rows twice
    if gp:
        plain = cp.Problem(problem.objective, distinct)
        return Lifting(plain, list(parameters), list(range(len(parameters))), steps, (), {})
    work = _Lift(steps, quadratic)
    goal, distinct, bounds, replaced = _without_bounds(problem.objective, distinct, problem.variables())
    objective, rows = work.piece(goal, "the objective")
    constraints = []
    for c in (*distinct, *bounds):
        new, more = work.piece(c, f"the constraint {short(c)}")
        constraints.append(new)
        rows += more
    changed = cp.Problem(objective, constraints + rows)
    used = {p.id for p in changed.parameters()}
    nodes = [(p, i) for i, p in enumerate(parameters)] + list(work.parameters.values())
    nodes = [(p, node) for p, node in nodes if p.id in used]
    return Lifting(changed, [p for p, _ in nodes], [n for _, n in nodes], steps, tuple(dict.fromkeys(work.records)), replaced)


def _without_bounds(objective, constraints, variables):
    """(objective, constraints, bounds as constraints, replaced): other variables for those with bounds that are not DPP."""
    bounds, copies, replaced = [], {}, {}
    for v in variables:
        declared = {name for name, value in v.attributes.items() if value is not None and value is not False}
        if declared == {"bounds"} and not v.is_dpp():
            low, high = v.attributes["bounds"]
            numbers = [None if isinstance(b, cp.Expression) else b for b in (low, high)]
            copies[id(v)] = replaced[v.id] = new = cp.Variable(v.shape, name=v.name(), bounds=numbers)
            bounds += [new >= low] if numbers[0] is None else []
            bounds += [new <= high] if numbers[1] is None else []
    if copies:
        objective, constraints = objective.tree_copy(copies), [c.tree_copy(copies) for c in constraints]
    return objective, constraints, bounds, replaced


class _Lift:
    """The moves on one problem. `parameters`: id of an expression -> (its new parameter, the node of its value)."""

    def __init__(self, steps, quadratic):
        self.steps, self.quadratic = steps, quadratic
        self.parameters: dict = {}
        self.records: list[Lifted] = []
        self._alive: list = []  # the ids of expressions are keys
        self._roots: dict = {}  # id of P -> (P, the key of its root in `parameters`)

    def piece(self, part, where):
        """(the objective or a constraint with the moves made, the equality rows of its new variables)."""
        self._rows: list = []
        self._variables: dict = {}
        self._where = where
        scope = self.quadratic and isinstance(part, cp.problems.objective.Objective)
        mark = len(self.records)
        args = [self._visit(a, scope) for a in part.args]
        if _same(args, part.args):
            return part, []
        new = part.copy(args)
        if not _is_dpp(new, scope) and (_is_dpp(part, scope) or not new.is_dcp()):
            del self.records[mark:]
            return part, []
        return new, self._rows

    def _visit(self, e, quad):
        """The expression with the moves made. quad: whether a quad_form may stay one here."""
        if not e.parameters():
            return e
        if not e.variables():
            return self._parameter(e)
        if isinstance(e, cp.QuadForm):
            return self._quad_form(e, quad)
        if isinstance(e, (DivExpression, cp.quad_over_lin)) and e.args[1].parameters() and not e.args[1].variables():
            return self._quotient(e, quad)
        if isinstance(e, MulExpression) and quad and any(isinstance(a, cp.QuadForm) for a in e.args):
            whole = self._weighted_quad_form(*e.args)
            if whole is not None:
                return whole
        args = [self._visit(a, quad and isinstance(e, AffAtom)) for a in e.args]
        if isinstance(e, cp.huber) and not is_affine(e.M):
            return cp.huber(args[0], self._parameter(e.M))
        if isinstance(e, MulExpression) and all(a.parameters() for a in args):
            return self._product(e, *args)
        return e if _same(args, e.args) else e.copy(args)

    def _parameter(self, e, nonneg=False):
        """Parameters alone: a new parameter, if they are not affine and there is a formula; also if CVXPY concludes their sign
        from what a wrap promises, so that it is checked."""
        if not e.parameters() or (is_affine(e) and not (_trusts(e) and (e.is_nonneg() or e.is_nonpos()))):
            return e
        if isinstance(e, Promote):
            return e.copy([self._parameter(a, nonneg) for a in e.args])
        if id(e) not in self.parameters:
            try:
                node = self.steps.node(e)
            except NoFormula:
                args = [self._parameter(a) for a in e.args]
                return e if _same(args, e.args) else e.copy(args)
            self._new_parameter(e, node, cp.Parameter(e.shape, name=short(e), **_flags(e, nonneg)))
        self.records.append(Lifted(short(e), "parameter", self._where))
        return self.parameters[id(e)][0]

    def _new_parameter(self, key, node, p):
        self._alive.append(key)
        self.parameters[id(key)] = p, node
        self.steps.define(p, node)
        return p

    def _variable(self, e):
        """An affine expression: a new variable that equals it, if it has parameters."""
        if not e.parameters() or not is_affine(e):
            return e
        if id(e) not in self._variables:
            v = cp.Variable(e.shape, complex=e.is_complex())
            self._variables[id(e)] = v, e
            self._rows.append(v == e)
            self.records.append(Lifted(short(e), "variable", self._where))
        return self._variables[id(e)][0]

    def _quad_form(self, e, quad):
        x, P = e.args
        if P.is_complex() or P.variables():
            return e
        x = self._visit(x, False)
        if not quad and P.parameters():
            root = self._root(x, P, e)
            return e if root is None else root
        P = P if is_affine(P) else self._parameter(P)
        x = self._variable(x) if quad else x  # CVXPY takes no parameters in it beside a parametric P, or in an objective
        return e if _same([x, P], e.args) else e.copy([x, P])

    def _root(self, x, P, e):
        """+-sum_squares(R @ x) for a semidefinite P; None if there is no formula for P."""
        sign = 1 if P.is_psd() else -1 if P.is_nsd() else 0
        try:
            node = self.steps.node(P)
        except NoFormula:
            return None
        if not sign:
            return None
        key = self._roots.setdefault(id(P), (P, object()))[1]
        if id(key) not in self.parameters:
            node = self.steps.root(node, P.shape[0], sign)
            self._new_parameter(key, node, cp.Parameter(P.shape, name=f"root of {short(P)}"))
        R, text = self.parameters[id(key)][0], short(P)
        square = cp.sum_squares(R @ self._variable(x))
        into = f"sum_squares(R @ ({short(e.args[0])})), R'R = {text}"
        self.records.append(Lifted(short(e), into if sign > 0 else f"-{into[: -len(text)]}-({text})", self._where))
        return square if sign > 0 else -square

    def _weighted_quad_form(self, a, b):
        """s * quad_form(x, P) with parameters s and P: the quad_form of s P. None if it is not that."""
        s, form = (a, b) if isinstance(b, cp.QuadForm) else (b, a)
        x, P = form.args
        if s.variables() or not s.parameters() or not P.parameters() or P.variables() or not s.is_scalar():
            return None
        sign = (s.is_nonneg() - s.is_nonpos()) * (P.is_psd() - P.is_nsd())
        if not sign:
            return None
        new = self._quad_form(cp.QuadForm(x, cp.psd_wrap(cp.sum(s) * P if sign > 0 else -cp.sum(s) * P)), True)
        return new if sign > 0 else -new

    def _quotient(self, e, quad):
        """Multiplication by the inverse, which is nonnegative under a sum of squares."""
        over, under = e.args
        if isinstance(e, cp.quad_over_lin):
            over, inverse = cp.sum_squares(over, e.axis, e.keepdims), self._parameter(1 / cp.sum(under), nonneg=True)
        else:
            inverse = self._parameter(1 / under)
        over = self._visit(over, quad)
        new = multiply(inverse, over)
        return self._product(new, *new.args) if over.parameters() else new

    def _product(self, e, a, b):
        """A product, elementwise or of matrices, both factors of which have parameters."""
        if a.variables() and b.variables():
            return e.copy([a, b])
        s, o = (b, a) if a.variables() else (a, b)
        put = (lambda s, o: e.copy([o, s])) if a.variables() else (lambda s, o: e.copy([s, o]))
        if is_affine(o):
            return put(s, self._variable(o))
        scalar = s.args[0] if isinstance(s, Promote) else s
        if isinstance(e, multiply) and isinstance(o, multiply) and any(not f.variables() and f.parameters() for f in o.args):
            h, c = o.args if o.args[1].variables() else o.args[::-1]
            return multiply(self._parameter(multiply(s, h)), c)
        linear = isinstance(o, AddExpression) or (isinstance(o, AffAtom) and len(o.args) == 1)
        if isinstance(e, multiply) and scalar.is_scalar() and (linear or isinstance(o, MulExpression)):
            return o.copy([self._scaled(scalar, f) if linear or f.variables() else f for f in o.args])
        return put(s, self._bound(self._free(o)))

    def _scaled(self, s, e):
        new = multiply(s, e)
        if not e.variables():
            return self._parameter(new)
        return self._product(new, *new.args) if e.parameters() else new

    def _free(self, e):
        """The expression with variables in place of its affine parts with parameters; what cannot be freed stays."""
        if not e.parameters():
            return e
        if is_affine(e):
            return self._variable(e)
        if isinstance(e, MulExpression) and any(a.parameters() and not a.variables() for a in e.args):
            return e.copy([self._free(a) if a.variables() else a for a in e.args])
        if isinstance(e, cp.QuadForm) and e.args[1].parameters():
            root = self._root(e.args[0], e.args[1], e)
            return e if root is None else self._free(root)
        return e.copy([self._free(a) for a in e.args])

    def _bound(self, e):
        """A factor that has kept parameters: a new variable on the side where it is tight, as CVXPY bounds functions."""
        if not e.parameters() or not (e.is_convex() or e.is_concave()):
            return e
        v = cp.Variable(e.shape)
        self._rows.append(v >= e if e.is_convex() else v <= e)
        self.records.append(Lifted(short(e), f"variable, {'at least' if e.is_convex() else 'at most'} this", self._where))
        return v


def _flags(e, nonneg):
    """What CVXPY knows about an expression, as attributes of a parameter: they carry the curvature."""
    flags = {"nonneg": True} if nonneg or e.is_nonneg() else {"nonpos": True} if e.is_nonpos() else {}
    if e.ndim == 2 and e.shape[0] == e.shape[1] > 1:
        known = {"PSD": e.is_psd(), "NSD": e.is_nsd(), "symmetric": e.is_symmetric()}
        flags |= {next(kind for kind, holds in known.items() if holds): True} if any(known.values()) else {}
    return flags


def _trusts(e):
    """Whether psd_wrap, or another promise of the user, stands in an expression."""
    return (isinstance(e, Wrap) and bool(e.parameters())) or any(map(_trusts, e.args))


def _same(args, old):
    return all(a is b for a, b in zip(args, old, strict=True))


def _is_dpp(part, quad):
    if not quad:
        return part.is_dcp(dpp=True)
    with scopes.quad_form_dpp_scope():
        return part.is_dcp(dpp=True)
