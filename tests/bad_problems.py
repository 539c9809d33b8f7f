"""The table of problems and options that are no layer: what goes into the constructor, and the error that comes out.

Each row is a function that builds fresh CVXPY objects and returns (arguments, keyword arguments, type of the error, what
its text must contain: a regular expression).
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
from cvxpy.transforms.partial_optimize import partial_optimize

from cvxlayers import ProblemError


def _objects():
    """x, a variable of 3 entries; b, a parameter of 3; P, a PSD parameter; g and h, parameters that are positive numbers."""
    x, b, P = cp.Variable(3, name="x"), cp.Parameter(3, name="b"), cp.Parameter((3, 3), PSD=True, name="P")
    return x, b, P, cp.Parameter(pos=True, name="g", value=0.4), cp.Parameter(pos=True, name="h")


ROWS = {}


def _row(name, message, error=ProblemError):
    """A row of the table: a function of `_objects` that returns the arguments, with or without keyword arguments."""

    def put(build):
        def make():
            found = build(*_objects())
            arguments, options = found if isinstance(found[-1], dict) else (found, {})
            return arguments, options, error, message

        assert name not in ROWS
        ROWS[name] = make
        return build

    return put


def _problem(name, message):
    """A row of the form objective, constraints, parameters: a problem that has no layer."""

    def put(build):
        def whole(*objects):
            objective, constraints, parameters, *options = build(*objects)
            problem = cp.Problem(objective, constraints)
            return (problem, parameters, problem.variables()[:1] or [objects[0]]), *(options or [{}])

        return _row(name, message)(whole)

    return put


def _projection(x, b):
    return cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0])


# What DPP, DCP and DGP refuse.

_problem("an eigenvalue of a parameter", r"not DPP: in the objective, .* compute lambda_max\(P\) before")(
    lambda x, b, P, g, h: (cp.Minimize(cp.lambda_max(P) * cp.sum(x)), [x >= 0], [P])
)
_problem("an eigenvalue of a parameter in a constraint", "not DPP: in the constraint")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum(x)), [cp.lambda_max(P) * x >= 1], [P])
)
_problem("a Kronecker product with a parameter", r"not DPP.*cp\.reshape\(K @")(
    lambda x, b, P, g, h: (cp.Minimize(cp.norm(cp.kron(P, cp.Variable((2, 2))))), [], [P])
)
_problem("nonconvex objective", r"in the objective, the expression minimize power\(x\[0\], 0.5\) is of a concave function")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sqrt(x[0])), [], [])
)
_problem("nonconvex constraint", "not DCP .convex.: in the constraint")(
    lambda x, b, P, g, h: (cp.Minimize(x[0]), [cp.norm(x) >= g], [g])
)
_problem("an indefinite matrix that psd_wrap vouches for", "psd_wrap.* is not positive semidefinite .an eigenvalue of the")(
    lambda x, b, P, g, h: (cp.Minimize(cp.quad_form(x, cp.psd_wrap(np.diag([1.0, 1.0, -1.0]))) + b @ x), [], [b])
)
_problem("a negative matrix that psd_wrap vouches for, in a constraint", "psd_wrap.* is not positive semidefinite")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [cp.quad_form(x, cp.psd_wrap(-np.eye(3))) <= -1], [b])
)
_problem("maximize convex", "not DCP.* is of a convex function; expected a concave one")(
    lambda x, b, P, g, h: (cp.Maximize(cp.norm(x)), [x <= 1], [])
)
_problem("a sign that is not declared", r"not DCP.* as s has no known sign; declare one, as in cp\.Parameter\(nonneg=True\)")(
    lambda x, b, P, g, h: (cp.Minimize(cp.Parameter(name="s") * cp.norm(x)), [], [])
)
_problem("quad_form without a declared sign", "not DCP")(
    lambda x, b, P, g, h: (cp.Minimize(cp.quad_form(x, cp.Parameter((3, 3), symmetric=True))), [], [])
)
_problem("geometric without gp", "it is log-log convex: pass gp=True")(
    lambda x, b, P, g, h: (cp.Minimize(cp.prod(cp.Variable(2, pos=True))), [], [])
)
_problem("convex with gp", "not DGP .log-log convex.")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [b], {"gp": True})
)
_problem("an upper bound that is a sum with gp", "not DGP")(
    lambda x, b, P, g, h: (cp.Maximize(v := cp.Variable(pos=True)), [v <= g + h], [g, h], {"gp": True})
)

# What CVXPY would compile with the value of the moment, or leave out.

_problem("hermitian quad_form", "an assertion")(
    lambda x, b, P, g, h: (
        cp.Minimize(cp.quad_form(cp.Variable(2, complex=True), cp.psd_wrap(H := cp.Parameter((2, 2), hermitian=True)))),
        [],
        [H],
    )
)
_problem("hermitian quad_form in a constraint", "freezes")(
    lambda x, b, P, g, h: (
        cp.Minimize(cp.real((z := cp.Variable(2, complex=True))[0])),
        [cp.quad_form(z, cp.psd_wrap(H := cp.Parameter((2, 2), hermitian=True))) <= 1],
        [H],
    )
)
_problem("a parameter as exponent of a cone", "freezes")(
    lambda x, b, P, g, h: (cp.Maximize(x[2]), [cp.PowCone3D(x[0], x[1], x[2], g), x <= 1], [])
)
_problem("a parameter as exponent", "not DPP|not DCP|freezes")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum(cp.power(x, g))), [], [g])
)
_problem("partial_optimize", "partial_optimize")(
    lambda x, b, P, g, h: (
        cp.Minimize(partial_optimize(_projection(z := cp.Variable(3), x), [z]) + cp.sum_squares(x - b)),
        [],
        [b],
    )
)
_problem("approximated cone", "ApproxCone2Cone|RelEntr")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum(x)), [cp.RelEntrConeQuad(x, cp.Variable(3), cp.Variable(3), 3, 3)], [])
)
_problem("a stack of matrix parameters", "'S' has shape .2, 3, 3. and a matrix attribute")(
    lambda x, b, P, g, h: (
        cp.Minimize(cp.sum_squares(cp.Variable((2, 3, 3)) - (S := cp.Parameter((2, 3, 3), PSD=True, name="S")))),
        [],
        [S],
    )
)

# What is not continuous.

_problem("boolean", "'k' is boolean.*relax it")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum(cp.Variable(2, boolean=True, name="k"))), [], [])
)
_problem("integer", "'k' is integer")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum(cp.Variable(2, integer=True, name="k"))), [], [])
)
_problem("one integer entry", "'k' is integer")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(cp.Variable(2, integer=[(0,)], name="k"))), [], [])
)
_problem("finite set", "finite set is a mixed-integer constraint")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [cp.FiniteSet(x, [1.0, 2.0])], [b])
)

# The lists of the constructor.

_problem("no variables", "no variables, so there is nothing to optimize")(lambda x, b, P, g, h: (cp.Minimize(g), [], [g]))
_problem("parameter missing", "the parameter 'b', which is missing in parameters=")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [])
)
_problem("parameter of another problem", r"parameters\[1\], 'h', does not occur in the problem")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [b, h])
)
_problem("parameter twice", r"parameters\[1\], 'b', is listed twice")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [b, b])
)
_problem("a number as parameter", r"parameters\[1\] is an object of the type float; expected a cvxpy\.Parameter")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [b, 1.0])
)
_problem("a variable as parameter", r"parameters\[1\] is the variable 'x'; expected a cvxpy\.Parameter")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [b, x])
)
_problem("None as parameter", r"parameters\[0\] is an object of the type NoneType")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [], [None, b])
)
_row("variable of another problem", r"variables\[0\], 'w', does not occur in the problem")(
    lambda x, b, P, g, h: (_projection(x, b), [b], [cp.Variable(2, name="w")])
)
_row("no outputs", "variables=.. is empty")(lambda x, b, P, g, h: (_projection(x, b), [b], []))
_row("a parameter as variable", r"variables\[0\] is the parameter 'b'; expected a cvxpy\.Variable")(
    lambda x, b, P, g, h: (_projection(x, b), [b], [b])
)
_row("None as variable", r"variables\[1\] is an object of the type NoneType")(
    lambda x, b, P, g, h: (_projection(x, b), [b], [x, None])
)
_row("an expression as variable", r"variables\[0\] is the expression 'x\[0:2\]'; expected a cvxpy\.Variable")(
    lambda x, b, P, g, h: (_projection(x, b), [b], [x[:2]])
)
_row("dual variable of another problem", r"variables\[0\], .* does not occur in the problem")(
    lambda x, b, P, g, h: (_projection(x, b), [b], [(x <= 1).dual_variables[0]])
)
_row(
    "a constraint in place of its dual variable", r"variables\[0\] is the constraint .*; write constraint\.dual_variables\[0\]"
)(lambda x, b, P, g, h: ((p := _projection(x, b)), [b], [p.constraints[0]]))
_row("a list of dual variables", r"variables\[0\] is an object of the type list; .*; write constraint\.dual_variables\[0\]")(
    lambda x, b, P, g, h: ((p := _projection(x, b)), [b], [p.constraints[0].dual_variables])
)
_row("text in place of a problem", r"the first argument is the text '.*'; expected a cvxpy\.Problem")(
    lambda x, b, P, g, h: ("minimize x", [b], [x])
)
_row("an objective in place of a problem", r"the first argument is an object of the type Minimize; expected a cvxpy\.Problem")(
    lambda x, b, P, g, h: (cp.Minimize(cp.sum_squares(x - b)), [b], [x])
)

# Options.

_row("unknown solver", "no solver 'simplex'; there are: clarabel")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"solver": "simplex"})
)
_row("unknown option", "has no option 'epsilon'; it has: ")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"solver_args": {"epsilon": 1}})
)
_row("option that is no text", "has no option 3; it has: ")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"solver_args": {3: 1}})
)
_row("options that are no dictionary", "solver_args is a str; expected a dictionary")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"solver_args": "fast"})
)
_row("option of the wrong type", "does not accept the options")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"solver": "clarabel", "solver_args": {"max_iter": "many"}})
)
_row("unknown derivative", "derivative='magic' does not exist; choose one of: implicit, smoothed, lpgd, diffcp")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"derivative": "magic"})
)
_row("a list of derivatives", r"derivative=.'implicit'. does not exist")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"derivative": ["implicit"]})
)
_row("unknown on_error", "on_error is 'ignore'; expected 'raise' or 'nan'")(
    lambda x, b, P, g, h: ((_projection(x, b), [b], [x]), {"on_error": "ignore"})
)
_row("a cone that the solver does not have", "'ecos' has no psd cone")(
    lambda x, b, P, g, h: (
        (cp.Problem(cp.Minimize(cp.sum_squares((X := cp.Variable((3, 3), PSD=True)) - P))), [P], [X]),
        {"solver": "ecos"},
    )
)
_row("a cone that the derivative does not have", "no power cone")(
    lambda x, b, P, g, h: (
        (cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [cp.PowCone3D(x[0], x[1], x[2], 0.3)]), [b], [x]),
        {"derivative": "diffcp"},
    )
)
_row("no constraints for a solver that needs some", "'scs' needs at least one constraint")(
    lambda x, b, P, g, h: ((cp.Problem(cp.Minimize(b @ x)), [b], [x]), {"solver": "scs"})
)
_row("dual variable of a complex constraint", r"CVXPY defines no dual variable for the complex constraint .* \(SOC\)")(
    lambda x, b, P, g, h: (
        cp.Problem(cp.Minimize(cp.sum_squares((z := cp.Variable(2, complex=True)) - 1)), [c := cp.SOC(g, z)]),
        [g],
        [c.dual_variables[0]],
    )
)
