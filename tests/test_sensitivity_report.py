"""What sensitivity says: its table, its errors, and what it finds not to be unique."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from cvxlayers import ProblemError, ShapeError, SolverError, sensitivity

from .problems import Case
from .test_fuzz import DRAFTS
from .test_sensitivity import solved


def portfolio():
    """(problem, mu, gamma, w, constraints): both constraints have a label."""
    mu, gamma = cp.Parameter(3, name="mu", value=[0.1, 0.2, 0.4]), cp.Parameter(nonneg=True, name="gamma", value=1.0)
    w, budget = cp.Variable(3, name="w"), cp.Parameter(name="budget", value=1.0)
    spent, long = (cp.sum(w) == budget).set_label("spent"), (w >= 0).set_label("long only")
    return cp.Problem(cp.Maximize(mu @ w - gamma * cp.sum_squares(w)), [spent, long]), mu, gamma, w, spent, long


def test_the_table():
    """w = 1/3 + (mu - mean(mu)) / 2, so that the slopes are w, -|w|^2 = -0.345 and mean(mu) - 2/3."""
    problem, mu, _, w, spent, _ = portfolio()
    s = sensitivity(problem)
    assert repr(s) == "Sensitivity((mu, gamma, budget) -> (w), maximum -0.0883333)"
    assert str(s) == TABLE.strip("\n")
    mu.value = [0, 0.5, 1.5]  # w = (0, 1/4, 3/4)
    assert "\ndegenerate: at a kink" in str(sensitivity(problem))
    assert w.value is None and spent.dual_value is None


TABLE = """
maximum -0.0883333

parameter   slope of the maximum   1 % more moves it by   and the variables by
budget      -0.433                 -0.00433               0.00577
gamma       -0.345                 -0.00345               0.00108
mu          0.417 at [2]           0.00257                0.00108

constraint   slope of the maximum in its slack
spent        -0.433
long only    0
"""

SIGMA, OTHER = cp.Parameter(2, name="sigma"), cp.Variable(2, name="other")
CALLS = {
    "another parameter": (
        lambda s, mu, w, c: s.jacobian(w, SIGMA),
        ProblemError,
        r"got the parameter 'sigma'; expected .*\(mu, ",
    ),
    "another variable": (
        lambda s, mu, w, c: s.jacobian(OTHER, mu),
        ProblemError,
        r"the variable 'other'; expected a variable .*w",
    ),
    "in the wrong order": (lambda s, mu, w, c: s.jacobian(mu, w), ProblemError, "got the parameter 'mu'; expected a variable"),
    "a name": (lambda s, mu, w, c: s.jacobian("w", mu), ProblemError, "got the text 'w'; expected a variable"),
    "an entry": (lambda s, mu, w, c: s.jacobian(w[0], mu), ProblemError, r"the expression 'w\[0\]'; expected a variable"),
    "a constraint": (
        lambda s, mu, w, c: s.jacobian(c, mu),
        ProblemError,
        r"'spent'; .*; that of .* is constraint\.dual_variables",
    ),
    "a short direction": (lambda s, mu, w, c: s.jvp({mu: [1, 2]}), ShapeError, r"'mu' has shape \(2,\); expected \(3,\)"),
    "a number": (lambda s, mu, w, c: s.jvp({mu: 1}), ShapeError, r"direction for the .*'mu' has shape \(\); expected \(3,\)"),
    "nothing": (lambda s, mu, w, c: s.jvp({mu: None}), ShapeError, "'mu' has the dtype object; expected real numbers"),
    "complex": (lambda s, mu, w, c: s.jvp({mu: 1j * np.ones(3)}), ShapeError, "dtype complex128; expected real numbers"),
    "ragged": (
        lambda s, mu, w, c: s.jvp({mu: [[1], [1, 2]]}),
        ShapeError,
        "'mu' is an object of the type list; expected an arr",
    ),
    "no dictionary": (
        lambda s, mu, w, c: s.jvp(np.ones(3)),
        ProblemError,
        "type ndarray; expected a dictionary with a direction",
    ),
    "jvp of a variable": (
        lambda s, mu, w, c: s.jvp({w: np.ones(3)}),
        ProblemError,
        "got the variable 'w'; expected a parameter",
    ),
    "vjp of a parameter": (
        lambda s, mu, w, c: s.vjp({mu: np.ones(3)}),
        ProblemError,
        "the parameter 'mu'; expected a variable",
    ),
    "a result": (lambda s, mu, w, c: s.jvp({mu: np.ones(3)})[mu], ProblemError, "got the parameter 'mu'; expected a variable"),
    "a solution": (lambda s, mu, w, c: s.solution[c], ProblemError, r"got the constraint 'spent'; expected a variable"),
    "value in a variable": (lambda s, mu, w, c: s.value_sensitivity(w), ProblemError, "the variable 'w'; expected a parameter"),
    "another constraint": (
        lambda s, mu, w, c: s.value_sensitivity(w <= 1),
        ProblemError,
        "'w <= 1.0' is not .*: spent, long only",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name):
    call, error, message = CALLS[name]
    problem, mu, _, w, spent, _ = portfolio()
    with pytest.raises(error, match=message):
        call(sensitivity(problem), mu, w, spent)


def _minimum(objective, *constraints):
    return lambda x, b: cp.Problem(cp.Minimize(objective(x, b)), [make(x, b) for make in constraints])


N, S = cp.Variable(2, integer=True, name="n"), cp.Parameter((2, 2), symmetric=True, name="S", value=np.eye(2))
PROBLEMS = {
    "no value": (
        _minimum(lambda x, b: cp.sum_squares(x - SIGMA)),
        ProblemError,
        r"'sigma' has no value; set its .value, .*\(2,\)",
    ),
    "an objective": (lambda x, b: cp.Minimize(b @ x), ProblemError, "an object of the type Minimize; expected a cvxpy.Problem"),
    "not DPP": (_minimum(lambda x, b: cp.sum(cp.lambda_max(S) * x)), ProblemError, "not D.P"),
    "integers": (_minimum(lambda x, b: cp.sum_squares(N - b)), ProblemError, "variable 'n' is integer: .*; relax it"),
    "infeasible": (
        _minimum(lambda x, b: cp.sum_squares(x), lambda x, b: x >= b, lambda x, b: x <= 0),
        SolverError,
        "the problem is infeasible at the values of its parameters",
    ),
    "unbounded": (_minimum(lambda x, b: b @ x), SolverError, "the problem is unbounded at the values of its parameters"),
    "an unbounded set": (_minimum(lambda x, b: cp.sum(cp.pos(x - b))), SolverError, "are an unbounded set"),
    "an infimum": (_minimum(lambda x, b: cp.sum(cp.exp(x + b))), SolverError, "off at infinity"),
    "a slow infimum": (_minimum(lambda x, b: cp.sum(cp.inv_pos(x + b))), SolverError, "off at infinity|is not solved at"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_bad_problems(name):
    make, error, message = PROBLEMS[name]
    x, b = cp.Variable(2, name="x"), cp.Parameter(2, name="b", value=[1.0, 2.0])
    with pytest.raises(error, match=message):
        sensitivity(make(x, b))


SETS = {
    "one point": (lambda y, c: cp.Problem(cp.Minimize(cp.sum_squares(y - c)), [y >= 0, cp.sum(y) <= 3]), False, ()),
    "a kink": (lambda y, c: cp.Problem(cp.Minimize(cp.sum_squares(y)), [y >= 0]), True, ()),
    "redundant rows": (lambda y, c: cp.Problem(cp.Minimize(cp.sum_squares(y - c)), [y[0] == 1, 2 * y[0] == 2]), True, ()),
    "a flat minimum": (lambda y, c: cp.Problem(cp.Minimize(cp.sum(y**4) - 0 * c @ y)), True, ()),
    "an edge": (lambda y, c: cp.Problem(cp.Minimize(c @ y), [y >= 0, cp.sum(y) == 3]), True, ("y",)),
    "of one of two": (
        lambda y, c: cp.Problem(cp.Minimize(c @ y + cp.abs(cp.Variable(name="t") - c[0])), [y >= 0, cp.sum(y) == 3]),
        True,
        ("y",),
    ),
    "small weights": (lambda y, c: cp.Problem(cp.Minimize(cp.logistic(-c[0] * y[0]) + 1e-5 * cp.norm1(y))), False, ()),
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_not_unique(name):
    make, degenerate, loose = SETS[name]
    y, c = cp.Variable(2, name="y"), cp.Parameter(2, name="c", value=[1.0, 1.0])
    s = sensitivity(make(y, c))
    assert s.degenerate == degenerate and tuple(v.name() for v in s.not_unique) == loose


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(DRAFTS)
def test_nothing_is_said_of_one_solution(d):
    """Degenerate or not, random problems with one solution pass as that."""
    s = solved(Case(cp.Problem(cp.Minimize(sum(d.terms)), d.constraints), d.parameters, [d.x], d.values))
    assert s.not_unique == ()
