"""The table of bad values: fine problems, with one value at which they have a solution and one at which they have none.

Each row is a function that builds fresh CVXPY objects; what it returns says what the error for the bad value is.
"""

from __future__ import annotations

from typing import NamedTuple

import cvxpy as cp
import numpy as np

from cvxlayers import ProblemError, SolverError


class Row(NamedTuple):
    """A problem, its parameters and variables; a value of each parameter that is good, and one that is bad; the type of the
    error and what its text must contain (a regular expression; {} is the place of the item's number)."""

    problem: cp.Problem
    parameters: list
    variables: list
    good: list
    bad: list
    error: type
    message: str
    gp: bool = False


INFEASIBLE = r"item {}: infeasible"
UNBOUNDED = r"item {}: unbounded"
CERTIFIED = r"item {}: (infeasible|unbounded)"
UNSOLVED = r"item {}: \w+"


def _finite(bad):
    b, x = cp.Parameter(2, name="b"), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0])
    return Row(
        problem, [b], [x], [np.ones(2)], [np.array([1.0, bad])], ProblemError, "'b' .* NaN or infinite in batch items {}$"
    )


def nan():
    return _finite(np.nan)


def inf():
    return _finite(np.inf)


def minus_inf():
    return _finite(-np.inf)


def _nan_in(position):
    """P, q, A, b of one problem: NaN in each of them."""
    P, q, A, b = (cp.Parameter((2, 2), PSD=True), cp.Parameter(2), cp.Parameter((1, 2)), cp.Parameter(1))
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [A @ x == b])
    good = [np.eye(2), np.ones(2), np.array([[1.0, 2.0]]), np.ones(1)]
    bad = [v.copy() for v in good]
    bad[position].flat[0] = np.nan
    return Row(
        problem, [P, q, A, b], [x], good, bad, ProblemError, rf"\(position {position}\) .* NaN or infinite in batch items {{}}$"
    )


def nan_in_P():
    return _nan_in(0)


def nan_in_q():
    return _nan_in(1)


def nan_in_A():
    return _nan_in(2)


def nan_in_b():
    return _nan_in(3)


def nan_without_effect():
    b, k, x = cp.Parameter(2), cp.Parameter(name="k"), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b) + k))
    return Row(
        problem,
        [b, k],
        [x],
        [np.ones(2), np.array(1.0)],
        [np.ones(2), np.array(np.nan)],
        ProblemError,
        "'k' .* NaN or infinite",
    )


def _sign(attribute):
    g, x = cp.Parameter(name="g", **{attribute: True}), cp.Variable()
    sign = 1.0 if attribute in ("pos", "nonneg") else -1.0
    problem = cp.Problem(cp.Minimize(sign * g * cp.square(x) + cp.square(x - 1)))
    message = f"'g' .* declared {attribute}=True .* would not be convex in batch items {{}}$"
    return Row(problem, [g], [x], [np.array(sign)], [np.array(-sign)], ProblemError, message)


def pos():
    return _sign("pos")


def nonneg():
    return _sign("nonneg")


def neg():
    return _sign("neg")


def nonpos():
    return _sign("nonpos")


def _definite(attribute, bad):
    P, x = cp.Parameter((2, 2), name="P", **{attribute: True}), cp.Variable(2)
    sign = 1.0 if attribute == "PSD" else -1.0
    problem = cp.Problem(cp.Minimize(sign * cp.quad_form(x, P)), [cp.sum(x) == 1])
    message = f"'P' .* declared {attribute}=True .* semidefinite .* in batch items {{}}$"
    return Row(problem, [P], [x], [sign * np.eye(2)], [sign * np.array(bad)], ProblemError, message)


def boolean():
    """CVXPY counts it as nonnegative. With -1 the epigraph of exp is loose, and the point (1, 1) looks optimal."""
    g, x = cp.Parameter(name="g", boolean=True), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.exp(g * cp.norm1(x)) + cp.sum_squares(x - 1)))
    message = "'g' .* declared boolean=True .* would not be convex in batch items {}$"
    return Row(problem, [g], [x], [np.array(1.0)], [np.array(-1.0)], ProblemError, message)


def psd():
    return _definite("PSD", [[1.0, 2.0], [2.0, 1.0]])


def psd_slightly():
    return _definite("PSD", [[1.0, 0.0], [0.0, -1e-5]])


def nsd():
    return _definite("NSD", [[1.0, 2.0], [2.0, 1.0]])


def psd_wrap():
    S, x = cp.Parameter((2, 2), symmetric=True, name="S"), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, cp.psd_wrap(S)) + cp.sum(x)), [x >= -1, x <= 1])
    message = "(depends on 'S', is not convex|root of psd_wrap.S. has a value that is NaN.*) in batch items {}(: |$)"
    return Row(problem, [S], [x], [np.eye(2)], [np.diag([1.0, -1.0])], ProblemError, message)


def _wrapped(P, parameters, good, bad):
    """psd_wrap vouches for a matrix: what is declared of its parameters must not stand for what it promises."""
    q, x = cp.Parameter(2), cp.Variable(2)
    message = "(is not convex|root of psd_wrap.* NaN or infinite.*) in batch items {}(: |$)"
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, cp.psd_wrap(P)) + q @ x), [x <= 100])
    return Row(problem, [*parameters, q], [x], [*good, np.ones(2)], [*bad, np.ones(2)], ProblemError, message)


def psd_wrap_of_a_difference():
    P, Q = cp.Parameter((2, 2), PSD=True), cp.Parameter((2, 2), PSD=True)
    return _wrapped(P - Q, [P, Q], [np.eye(2), np.eye(2) / 2], [np.eye(2), np.diag([2.0, 0.1])])


def psd_wrap_of_nonnegative_entries():
    P = cp.Parameter((2, 2), nonneg=True)
    return _wrapped(P, [P], [np.eye(2)], [np.array([[1.0, 5.0], [5.0, 1.0]])])


def two_attributes():
    S, x = cp.Parameter((2, 2), PSD=True, nonneg=True, name="S"), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum(S @ cp.square(x))), [cp.sum(x) == 1])
    return Row(problem, [S], [x], [np.eye(2)], [np.array([[1.0, -2], [-2, 5]])], ProblemError, "declared nonneg=True")


def not_positive_in_a_geometric_program():
    a, x = cp.Parameter(pos=True, name="a"), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(x + a / x))
    message = "'a' .* not positive; geometric programs take its logarithm in batch items {}$"
    return Row(problem, [a], [x], [np.array(4.0)], [np.array(0.0)], ProblemError, message, gp=True)


def infeasible_qp():
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1])
    return Row(problem, [b], [x], [np.array([0.0, 0.5])], [np.array([0.0, 2.0])], SolverError, INFEASIBLE)


def infeasible_lp():
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= b, cp.sum(x) <= 1])
    return Row(problem, [b], [x], [np.array([0.1, 0.5])], [np.array([1.0, 2.0])], SolverError, INFEASIBLE)


def infeasible_by_little():
    b, x = cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1])
    return Row(problem, [b], [x], [np.array(0.5)], [np.array(1 + 1e-5)], SolverError, UNSOLVED)


def _inconsistent(by):
    """The third equality is the sum of the first two."""
    b, x = cp.Parameter(3), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [np.array([[1.0, 0], [0, 1], [1, 1]]) @ x == b])
    return Row(problem, [b], [x], [np.array([1.0, 2, 3])], [np.array([1.0, 2, 3 + by])], SolverError, UNSOLVED)


def inconsistent_equalities():
    return _inconsistent(1.0)


def inconsistent_equalities_by_little():
    return _inconsistent(1e-6)


def inconsistent_data():
    """The matrix of the equalities loses its rank."""
    A, x = cp.Parameter((2, 2)), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == np.array([1.0, 2.0])])
    return Row(problem, [A], [x], [np.eye(2)], [np.array([[1.0, 1], [1, 1]])], SolverError, UNSOLVED)


def zero_row():
    """0 x = 1."""
    A, x = cp.Parameter((2, 2)), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == 1])
    return Row(problem, [A], [x], [np.eye(2)], [np.array([[1.0, 0], [0, 0]])], SolverError, UNSOLVED)


def infeasible_ball():
    r, x = cp.Parameter(), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [cp.norm(x - 2) <= r, cp.sum(x) <= 1])
    return Row(problem, [r], [x], [np.array(4.0)], [np.array(1.0)], SolverError, INFEASIBLE)


def negative_radius():
    r, x = cp.Parameter(), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [cp.norm(x) <= r])
    return Row(problem, [r], [x], [np.array(1.0)], [np.array(-1.0)], SolverError, INFEASIBLE)


def infeasible_semidefinite():
    t, X = cp.Parameter(), cp.Variable((4, 4), PSD=True)  # LAPACK raises on NaN from order 3 on
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - np.eye(4))), [cp.trace(X) == t])
    return Row(problem, [t], [X], [np.array(1.0)], [np.array(-1.0)], SolverError, INFEASIBLE)


def weakly_infeasible_semidefinite():
    """[x, 1; 1, t] is positive semidefinite for no x if t = 0, and almost so for large ones: there is no certificate."""
    t, X = cp.Parameter(), cp.Variable((2, 2), PSD=True)
    problem = cp.Problem(cp.Minimize(X[0, 0]), [X[1, 0] == 1, X[1, 1] == t])
    return Row(problem, [t], [X], [np.array(1.0)], [np.array(0.0)], SolverError, UNSOLVED)


def weakly_infeasible_ball():
    """|(x, 1)| <= x + t has no solution for t = 0, and almost one for large x."""
    t, x = cp.Parameter(), cp.Variable()
    problem = cp.Problem(cp.Minimize(x), [cp.norm(cp.hstack([x, 1])) <= x + t])
    return Row(problem, [t], [x], [np.array(1.0)], [np.array(0.0)], SolverError, UNSOLVED)


def infeasible_exponential():
    t, x = cp.Parameter(), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.square(x)), [cp.exp(x) <= t])
    return Row(problem, [t], [x], [np.array(0.5)], [np.array(-1.0)], SolverError, INFEASIBLE)


def infeasible_power():
    t, x, z = cp.Parameter(), cp.Variable(2), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.square(z - 1)), [cp.PowCone3D(x[0], x[1], z, 0.3), x <= t])
    return Row(problem, [t], [x, z], [np.array(0.5)], [np.array(-1.0)], SolverError, INFEASIBLE)


def infeasible_geometric():
    a, x = cp.Parameter(pos=True), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(1 / x), [x <= 2, a / x <= 1])
    return Row(problem, [a], [x], [np.array(1.0)], [np.array(5.0)], SolverError, INFEASIBLE, gp=True)


def unbounded_lp():
    c, x = cp.Parameter(2), cp.Variable(2)
    return Row(
        cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], [np.ones(2)], [np.array([-1.0, 1.0])], SolverError, UNBOUNDED
    )


def unbounded_free():
    """No bounds at all: bounded for c = 0 only, and there every x is a solution."""
    c, x = cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c * x[0]), [x[0] + x[1] == 1])
    return Row(problem, [c], [x], [np.array(0.0)], [np.array(1.0)], SolverError, UNSOLVED)


def unbounded_qp():
    """No curvature in the direction of x[1]."""
    c, x = cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.square(x[0] - 1) + c * x[1]), [x >= 0])
    return Row(problem, [c], [x], [np.array(1.0)], [np.array(-1.0)], SolverError, UNBOUNDED)


def unbounded_quad_form():
    P, q, x = cp.Parameter((2, 2), PSD=True), cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x[0] >= 0])
    return Row(problem, [P, q], [x], [np.eye(2), np.ones(2)], [np.diag([1.0, 0.0]), np.ones(2)], SolverError, UNBOUNDED)


def unbounded_norm():
    c, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - 1) + c @ x))
    return Row(problem, [c], [x], [np.array([0.3, 0.4])], [np.array([3.0, 4.0])], SolverError, UNBOUNDED)


def unbounded_semidefinite():
    C, X = cp.Parameter((4, 4), symmetric=True), cp.Variable((4, 4), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [X[0, 0] <= 1])
    return Row(problem, [C], [X], [np.eye(4)], [np.diag([1.0, 1, 1, -1])], SolverError, UNBOUNDED)


def unbounded_exponential():
    c, x = cp.Parameter(), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.exp(x) + c * x))
    return Row(problem, [c], [x], [np.array(-1.0)], [np.array(1.0)], SolverError, UNBOUNDED)


def unbounded_power():
    c, x, z = cp.Parameter(), cp.Variable(2), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.sum(x) - c * z), [cp.PowCone3D(x[0], x[1], z, 0.5), x[0] >= 1])
    return Row(problem, [c], [x, z], [np.array(1.0)], [np.array(3.0)], SolverError, UNBOUNDED)


def unbounded_geometric():
    a, x = cp.Parameter(), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(x**a), [x >= 1])
    return Row(problem, [a], [x], [np.array(1.0)], [np.array(-1.0)], SolverError, UNBOUNDED, gp=True)


def infeasible_and_unbounded():
    b, x = cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(-b * x[1]), [x[0] >= b, x[0] <= -b, x[1] <= 1 - 2 * b, x[1] >= b - 1])
    return Row(problem, [b], [x], [np.array(-1.0)], [np.array(1.0)], SolverError, CERTIFIED)


VALUES = {
    row.__name__: row
    for row in (
        nan,
        inf,
        minus_inf,
        nan_in_P,
        nan_in_q,
        nan_in_A,
        nan_in_b,
        nan_without_effect,
        pos,
        nonneg,
        neg,
        nonpos,
        boolean,
        psd,
        psd_slightly,
        nsd,
        psd_wrap,
        psd_wrap_of_a_difference,
        psd_wrap_of_nonnegative_entries,
        two_attributes,
        not_positive_in_a_geometric_program,
        infeasible_qp,
        infeasible_lp,
        infeasible_by_little,
        inconsistent_equalities,
        inconsistent_equalities_by_little,
        inconsistent_data,
        zero_row,
        infeasible_ball,
        negative_radius,
        infeasible_semidefinite,
        weakly_infeasible_semidefinite,
        weakly_infeasible_ball,
        infeasible_exponential,
        infeasible_power,
        infeasible_geometric,
        unbounded_lp,
        unbounded_free,
        unbounded_qp,
        unbounded_quad_form,
        unbounded_norm,
        unbounded_semidefinite,
        unbounded_exponential,
        unbounded_power,
        unbounded_geometric,
        infeasible_and_unbounded,
    )
}
