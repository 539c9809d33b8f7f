"""The table of problems that look bad and are not: redundant, without interior, at kinks, in odd units. Each has a solution.

A layer has to return it; the expected values follow from a line of thought that stands with the problem.
"""

from __future__ import annotations

from typing import NamedTuple

import cvxpy as cp
import numpy as np


class Row(NamedTuple):
    """A problem, its parameters and variables, a value of each parameter, and the value of each variable at the solution."""

    problem: cp.Problem
    parameters: list
    variables: list
    values: list
    expected: list
    gp: bool = False


def redundant_equalities():
    A, b, x = cp.Parameter((3, 2)), cp.Parameter(3), cp.Variable(2)
    values = [np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([1.0, 2, 3])]
    return Row(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), [A, b], [x], values, [[1, 2]])


def redundant_equalities_in_an_lp():
    b, x = cp.Parameter(2), cp.Variable(3)
    rows = [np.array([[1.0, 1, 1], [2, 2, 2]]) @ x == b, x >= 0]
    problem = cp.Problem(cp.Minimize(np.array([1.0, 2, 3]) @ x), rows)
    return Row(problem, [b], [x], [np.array([1.0, 2])], [[1, 0, 0]])


def constraints_twice():
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - b)), [x >= 0, x >= 0, x <= 1, 2 * x <= 2, cp.sum(x) <= 1, x[0] + x[1] <= 1]
    )
    return Row(problem, [b], [x], [np.array([2.0, -1.0])], [[1, 0]])


def equality_as_two_inequalities():
    """No interior."""
    b, x = cp.Parameter(2), cp.Variable(2)
    return Row(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x <= b, x >= b]), [b], [x], [np.array([1.0, -2.0])], [[1, -2]])


def equality_and_its_inequalities():
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x == b, x <= b, x >= b])
    return Row(problem, [b], [x], [np.array([1.0, -2.0])], [[1, -2]])


def a_point_at_the_corner_of_many_rows():
    c, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) >= 0, x[0] + 2 * x[1] >= 0, 3 * x[0] + x[1] >= 0])
    return Row(problem, [c], [x], [np.ones(2)], [[0, 0]])


def assignment():
    """The assignment problem: one of its equalities is redundant, and every vertex has ties. The identity is cheapest."""
    C, X = cp.Parameter((3, 3)), cp.Variable((3, 3))
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(C, X))), [X >= 0, cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1])
    return Row(problem, [C], [X], [np.array([[1.0, 4, 5], [6, 2, 7], [8, 9, 3]])], [np.eye(3)])


def free_columns():
    """w does not matter."""
    b, x, w = cp.Parameter(2), cp.Variable(2), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b) + 0 * cp.sum(w)), [x >= 0])
    return Row(problem, [b], [x], [np.array([1.0, -1.0])], [[1, 0]])


def a_parameter_that_frees_a_column():
    """At a = 0 the second variable has no influence; the first is 1."""
    a, x = cp.Parameter(nonneg=True), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.square(x[0] - 1) + a * cp.square(x[1])), [x <= 5])
    return Row(problem, [a], [x], [np.array(0.0)], [[1, np.nan]])


def zero_rows():
    """0 x == 0 and 0 x <= 1."""
    A, G, x = cp.Parameter((2, 2)), cp.Parameter((2, 2)), cp.Variable(2)
    rows = [A @ x == np.array([1.0, 0.0]), G @ x <= 1]
    values = [np.array([[1.0, 1.0], [0, 0]]), np.zeros((2, 2))]
    return Row(cp.Problem(cp.Minimize(cp.sum_squares(x)), rows), [A, G], [x], values, [[0.5, 0.5]])


def no_curvature_and_no_force():
    """P = 0 and q = 0 in the direction of x[1], which the rows fix."""
    P, x = cp.Parameter((2, 2), PSD=True), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) - x[0]), [x[0] + x[1] == 1])
    return Row(problem, [P], [x], [np.diag([1.0, 0.0])], [[0.5, 0.5]])


def a_ball_of_radius_zero():
    r, x = cp.Parameter(), cp.Variable(3)
    return Row(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [cp.norm(x) <= r]), [r], [x], [np.array(0.0)], [[0, 0, 0]])


def a_norm_at_its_kink():
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x) + 0.5 * cp.sum_squares(x - b)))
    return Row(problem, [b], [x], [np.array([0.3, 0.4])], [[0, 0]])


def a_norm_at_the_edge_of_its_kink():
    """|b| = 1 is where x starts to move."""
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x) + 0.5 * cp.sum_squares(x - b)))
    return Row(problem, [b], [x], [np.array([0.6, 0.8])], [[0, 0]])


def a_matrix_of_trace_zero():
    t, X = cp.Parameter(), cp.Variable((2, 2), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - 1)), [cp.trace(X) == t])
    return Row(problem, [t], [X], [np.array(0.0)], [np.zeros((2, 2))])


def eigenvalues_that_coincide():
    C, X = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)))
    return Row(problem, [C], [X], [np.diag([2.0, 2.0, -1.0])], [np.diag([2.0, 2.0, 0.0])])


def a_projection_onto_the_matrices_of_zero():
    C, X = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)))
    return Row(problem, [C], [X], [np.zeros((3, 3))], [np.zeros((3, 3))])


def an_exponential_of_one_point():
    """exp(x) <= 1 and x >= 0."""
    t, x = cp.Parameter(), cp.Variable()
    return Row(cp.Problem(cp.Minimize(cp.square(x - 1)), [cp.exp(x) <= t, x >= 0]), [t], [x], [np.array(1.0)], [0.0])


def entropy_at_the_boundary():
    """x log x at x = 0: the weight of the second entry is so large that it is e^-40."""
    c, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    return Row(problem, [c], [x], [np.array([0.0, 40.0])], [[1, np.exp(-40.0)]])


def a_power_at_zero():
    b, x = cp.Parameter(), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.power(cp.pos(x), 1.5) + 0.5 * cp.square(x - b)))
    return Row(problem, [b], [x], [np.array(0.0)], [0.0])


def an_empty_inside_of_bounds():
    u, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 3)), [x >= 0, x <= u])
    return Row(problem, [u], [x], [np.array([0.0, 1.0])], [[0, 1]])


def nothing_to_minimize():
    """A single feasible point, and no objective."""
    b, x = cp.Parameter(2), cp.Variable(2)
    return Row(cp.Problem(cp.Minimize(0), [x == b]), [b], [x], [np.array([1.0, -1.0])], [[1, -1]])


def all_is_zero():
    b, x = cp.Parameter(2), cp.Variable(2)
    return Row(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x], [np.zeros(2)], [[0, 0]])


def a_geometric_program_with_redundant_rows():
    a, x = cp.Parameter(pos=True), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(x), [x >= a, x**2 >= a**2, x * 3 >= 3 * a])
    return Row(problem, [a], [x], [np.array(2.0)], [2.0], gp=True)


def _scaled_qp(scale):
    """The projection onto a simplex, in other units."""
    b, r, x = cp.Parameter(3), cp.Parameter(), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0, cp.sum(x) == r])
    return Row(problem, [b, r], [x], [scale * np.array([1.0, 0.5, -1.0]), np.array(scale)], [scale * np.array([0.75, 0.25, 0])])


def _scaled_lp(scale):
    b, c, x = cp.Parameter(), cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) >= b])
    return Row(problem, [b, c], [x], [np.array(scale), np.array([1.0, 2.0]) / scale], [[scale, 0]])


def _scaled_ball(scale):
    c, r, x = cp.Parameter(2), cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= r])
    return Row(problem, [c, r], [x], [np.array([3.0, 4.0]), np.array(scale)], [scale * np.array([-0.6, -0.8])])


def _scaled_matrix(scale):
    C, X = cp.Parameter((2, 2), symmetric=True), cp.Variable((2, 2), PSD=True)
    golden = (1 + np.sqrt(5)) / 2
    expected = scale * np.array([[golden, 1], [1, golden - 1]])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)))
    return Row(problem, [C], [X], [scale * np.array([[1.0, 2], [2, -1]])], [expected])


def _scaled_rows(scale):
    """One row in large numbers, one in small ones."""
    A, b, x = cp.Parameter((2, 2)), cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b])
    values = [np.array([[scale, 0], [0, 1 / scale]]), np.array([scale, 2 / scale])]
    return Row(problem, [A, b], [x], values, [[1, 2]])


DEGENERATE = {
    row.__name__: row
    for row in (
        redundant_equalities,
        redundant_equalities_in_an_lp,
        constraints_twice,
        equality_as_two_inequalities,
        equality_and_its_inequalities,
        a_point_at_the_corner_of_many_rows,
        assignment,
        free_columns,
        a_parameter_that_frees_a_column,
        zero_rows,
        no_curvature_and_no_force,
        a_ball_of_radius_zero,
        a_norm_at_its_kink,
        a_norm_at_the_edge_of_its_kink,
        a_matrix_of_trace_zero,
        eigenvalues_that_coincide,
        a_projection_onto_the_matrices_of_zero,
        an_exponential_of_one_point,
        entropy_at_the_boundary,
        a_power_at_zero,
        an_empty_inside_of_bounds,
        nothing_to_minimize,
        all_is_zero,
        a_geometric_program_with_redundant_rows,
    )
}
SCALES = [1e-8, 1e-4, 1e4, 1e8]
for _row in (_scaled_qp, _scaled_lp, _scaled_ball, _scaled_matrix, _scaled_rows):
    DEGENERATE.update({f"{_row.__name__[1:]}_{s:.0e}": (lambda row=_row, s=s: row(s)) for s in SCALES})
