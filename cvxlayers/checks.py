"""Looks at a CVXPY problem before it is compiled, and says what in it a layer cannot represent, and what to write instead.

A layer needs the map from parameters to (P, q, A, b) to be affine, after lifting: CVXPY's rules for that are called DPP. The
checks here also cover forms that CVXPY accepts and then compiles with a parameter value baked in, silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.wraps import nsd_wrap, psd_wrap
from cvxpy.atoms.perspective import perspective
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.expressions.expression import Expression
from cvxpy.expressions.leaf import Leaf
from cvxpy.problems.objective import Objective
from cvxpy.transforms.partial_optimize import PartialProblem
from cvxpy.utilities import scopes

from .errors import ProblemError
from .parameters import definite_violation

_SQUARES, _DEFAULTS = ", 1.0, None, False)", ", None, False)"  # how the texts of CVXPY's quad_over_lin and Sum end
_SPELLED = (
    (_DEFAULTS, ")"),
    ("PnormApprox(", "norm("),
    ("PowerApprox(", "power("),
    ("QuadForm(", "quad_form("),
    ("Sum(", "sum("),
    (" + -", " - "),
)


def check_problem(problem: cp.Problem, *, gp: bool) -> None:
    """Raise ProblemError if `problem` has no layer, whatever is lifted."""
    if not isinstance(problem, cp.Problem):
        raise ProblemError(f"the first argument is {described(problem)}; expected a cvxpy.Problem")
    if not problem.variables():
        raise ProblemError("the problem has no variables, so there is nothing to optimize")
    _check_forms(problem)
    _check_trusted_matrices(problem)
    _check_integers(problem)
    _check_curvature(problem, gp)
    _check_hidden_parameters(problem)


def check_parametrization(problem: cp.Problem, *, gp: bool, quadratic: bool) -> None:
    """Raise ProblemError if the data of `problem`, after lifting, are not affine in the parameters, or a value is baked in.

    quadratic: whether P may depend on parameters (`quad_form(x, P)`).
    """
    _check_baked_quad_forms(problem)
    for node in _nodes(problem):
        if isinstance(node, cp.huber) and not is_affine(node.M):  # CVXPY calls it DPP, and fails in an assertion
            raise ProblemError(f"the problem is not DPP: {short(node)} has an M that is not affine; {_rewrite(node.M, gp)}")
    _check_dpp(problem, gp, quadratic)


def trusts_a_matrix(problem: cp.Problem) -> bool:
    """Whether `psd_wrap` (or `assume_PSD`, `nsd_wrap`) vouches for a matrix with parameters, whatever is declared of them."""
    return any(isinstance(node, (psd_wrap, nsd_wrap)) and node.parameters() for node in _nodes(problem))


def _check_forms(problem):
    if any(isinstance(node, PartialProblem) for node in _nodes(problem)):
        raise ProblemError(
            "partial_optimize inside of a layer's problem is not supported; write the inner problem's "
            "variables and constraints into the problem itself"
        )
    for p in problem.parameters():
        if p.ndim > 2 and any(p.attributes[kind] for kind in ("symmetric", "PSD", "NSD", "hermitian", "diag")):
            raise ProblemError(
                f"parameter {p.name()!r} has shape {p.shape} and a matrix attribute, which CVXPY does not "
                f"compile; declare one parameter for each matrix"
            )


def _check_trusted_matrices(problem):
    for node in _nodes(problem):
        if isinstance(node, (psd_wrap, nsd_wrap)) and node.is_constant() and not node.parameters():
            sign, word = (1, "positive") if isinstance(node, psd_wrap) else (-1, "negative")
            value = node.args[0].value
            violation = float(definite_violation(sign * (value.toarray() if sp.issparse(value) else np.asarray(value))))
            if violation > 0:
                raise ProblemError(
                    f"{short(node)} is not {word} semidefinite (an eigenvalue of the wrong sign, {violation:.3g} in "
                    f"magnitude); the problem would not be convex"
                )


def _check_integers(problem):
    for v in problem.variables():
        for kind in ("boolean", "integer"):
            if v.attributes[kind]:
                raise ProblemError(
                    f"variable {v.name()!r} is {kind}: the solution is piecewise constant in the parameters and has no "
                    f"useful derivative; relax it (for example 0 <= {v.name()} <= 1)"
                )
    for c in problem.constraints:
        if isinstance(c, cp.constraints.FiniteSet):
            raise ProblemError(f"constraint {short(c)}: a finite set is a mixed-integer constraint; relax it to an interval")


def _check_curvature(problem, gp):
    if problem.is_dgp() if gp else problem.is_dcp():
        return
    rule = "DGP (log-log convex)" if gp else "DCP (convex)"
    hint = "; it is log-log convex: pass gp=True" if not gp and problem.is_dgp() else ""
    for where, node in _offenders(problem, lambda e: e.is_dgp() if gp else e.is_dcp()):
        what = _broken(node) if not gp else "breaks the rules"
        raise ProblemError(f"the problem is not {rule}: in {where}, the expression {short(node)} {what}{hint}")
    raise ProblemError(f"the problem is not {rule}{hint}")


def _broken(node):
    """What is wrong with an expression that breaks the rules of convexity, as far as it is plain to see."""
    if isinstance(node, Objective):
        wanted = "convex" if isinstance(node, cp.Minimize) else "concave"
        return f"is of a {node.expr.curvature.lower()} function; expected a {wanted} one"
    for part in node.args:
        if isinstance(node, AffAtom) and part.parameters() and not part.variables() and part.sign == "UNKNOWN":
            return f"breaks the rules, as {short(part)} has no known sign; declare one, as in cp.Parameter(nonneg=True)"
    return "breaks the rules"


def _check_hidden_parameters(problem):
    known = {p.id for p in problem.parameters()}
    for node in _nodes(problem):
        for datum in (node.get_data() or []) if not isinstance(node, Leaf) else []:
            if isinstance(datum, Expression) and {p.id for p in datum.parameters()} - known:
                raise ProblemError(
                    f"{short(node)} takes the parameter {short(datum)} as an exponent, which CVXPY freezes at its "
                    f"current value; only constants can stand there"
                )


def _check_baked_quad_forms(problem):
    def walk(node, affine_above):
        if isinstance(node, QuadForm) and node.args[1].parameters() and not affine_above:
            raise ProblemError(
                f"{short(node)} stands inside of a constraint or of a nonlinear function, where CVXPY freezes the value of "
                f"{short(node.args[1])}; write it as cp.sum_squares(R @ {short(node.args[0])}) with a parameter R, R'R = "
                f"{short(node.args[1])}, or move it to the objective"
            )
        for arg in node.args:
            walk(arg, affine_above and isinstance(node, (AffAtom, Objective)))

    walk(problem.objective, True)
    for c in problem.constraints:
        walk(c, False)


def _check_dpp(problem, gp, quadratic):
    form = "dgp" if gp else "dcp"
    if problem.is_dpp(form, quad_form_dpp="qp" if quadratic and not gp else None):
        return
    passes = (lambda e: e.is_dgp(dpp=True)) if gp else (lambda e: e.is_dcp(dpp=True))
    for where, node in _offenders(problem, passes, quadratic and not gp):
        raise ProblemError(
            f"the problem is not DPP: in {where}, the expression {short(node)} is not affine in the "
            f"parameters; {_rewrite(node, gp)}"
        )
    raise ProblemError("the problem is not DPP: its coefficients are not affine in the parameters")


def _rewrite(node, gp):
    if gp:
        alone = [node] if not node.variables() else []
    else:
        alone = [e for e in (node, *node.args) if e.parameters() and not e.variables() and not is_affine(e)]
    if alone:
        part = alone[-1].args[0] if isinstance(alone[-1], Promote) else alone[-1]
        return (
            f"compute {short(part)} before the call, in the framework, which differentiates it, and pass it as one new "
            f"parameter, cp.Parameter({part.shape})"
        )
    if isinstance(node, (cp.kron, cp.conv, cp.convolve)):
        return (
            f"CVXPY takes no parameters in it; write it as cp.reshape(K @ cp.vec(v, order='F'), {node.shape}, order='F') "
            f"with v the argument that holds variables and K = cp.Parameter(({node.size}, v.size)), computed before the call"
        )
    if isinstance(node, perspective):
        return "CVXPY takes no parameters in it; write the function out, for example with cp.quad_over_lin or cp.rel_entr"
    if isinstance(node, QuadForm):
        return (
            f"with v = cp.Variable({node.args[0].shape}) and the constraint v == {short(node.args[0])}, write "
            f"cp.quad_form(v, P) in the objective, or cp.sum_squares(R @ v) with a parameter R, R'R = P, elsewhere"
        )
    return "replace the parametric part by one new parameter whose value is computed before the call"


def _offenders(problem, passes, quad_form_scope=False) -> Iterator[tuple[str, object]]:
    """(where, node) for the smallest nodes that fail `passes` while all their arguments pass."""

    def walk(node):
        if passes(node):
            return
        bad = [a for a in node.args if not passes(a)]
        for a in bad:
            yield from walk(a)
        if not bad:
            yield node

    with scopes.quad_form_dpp_scope() if quad_form_scope else nullcontext():
        yield from (("the objective", node) for node in walk(problem.objective))
    for c in problem.constraints:
        yield from ((f"the constraint {short(c)}", node) for node in walk(c))
    for v in problem.variables():
        for bound in v.attributes["bounds"] or ():
            if isinstance(bound, Expression):
                yield from ((f"the bounds of variable {v.name()!r}", node) for node in walk(bound))


def _nodes(problem):
    stack = [problem.objective, *problem.constraints]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, PartialProblem):  # its arguments are a problem
            stack.extend(node.args)


def is_affine(e):
    """Whether an expression is affine in its variables and parameters."""
    with scopes.dpp_scope():
        return e.is_affine()


def described(thing):
    """What to call an object in an error."""
    kinds = {cp.Parameter: "parameter", cp.Variable: "variable", cp.Constraint: "constraint", cp.Expression: "expression"}
    kind = next((word for cls, word in kinds.items() if isinstance(thing, cls)), None)
    other = f"the text {thing!r}" if isinstance(thing, str) else f"an object of the type {type(thing).__name__}"
    return f"the {kind} {called(thing)!r}" if kind else other


def called(thing):
    """The name that the user knows."""
    named = isinstance(thing, (cp.Parameter, cp.Variable))
    return thing.name() if named else getattr(thing, "label", None) or short(thing)


def short(node, width=80):
    """An expression as text, with the names that its writer knows."""
    text = " ".join(str(node).split())
    if text.count(_SQUARES) == text.count("quad_over_lin("):
        text = text.replace(_SQUARES, ")").replace("quad_over_lin(", "sum_squares(")
    for cvxpys, users in _SPELLED:
        text = text.replace(cvxpys, users)
    return text if len(text) <= width else text[: width - 3] + "..."
