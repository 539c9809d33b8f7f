"""One table of parametrized problems for all tests: every cone, every kind of parameter, variable and dual variable.

Each case builds fresh CVXPY objects and gives values at which the solution is regular: unique, strictly complementary.
"""

from __future__ import annotations

from typing import NamedTuple

import cvxpy as cp
import numpy as np


class Case(NamedTuple):
    """A problem, its parameters, what to return, and a value for each parameter; gp: log-log convex."""

    problem: cp.Problem
    parameters: list
    variables: list
    values: list
    gp: bool = False


def _rng(seed=0):
    return np.random.default_rng(seed)


def lp():
    A, b, c, x = cp.Parameter((3, 6)), cp.Parameter(3), cp.Parameter(6), cp.Variable(6)
    rows = A @ x == b
    rng = _rng(1)
    A0, x0 = rng.standard_normal((3, 6)), np.r_[rng.random(3) + 0.5, np.zeros(3)]
    c0 = A0.T @ rng.standard_normal(3) + np.r_[np.zeros(3), rng.random(3) + 0.3]
    return Case(cp.Problem(cp.Minimize(c @ x), [rows, x >= 0]), [A, b, c], [x, rows.dual_variables[0]], [A0, A0 @ x0, c0])


def qp():
    L, p, G, h, z = cp.Parameter((5, 5)), cp.Parameter(5), cp.Parameter((7, 5)), cp.Parameter(7), cp.Variable(5)
    rows = G @ z <= h
    rng = _rng(2)
    values = [
        np.triu(rng.standard_normal((5, 5))) + 2 * np.eye(5),
        3 * rng.standard_normal(5),
        rng.standard_normal((7, 5)),
        rng.random(7),
    ]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ z) + p @ z), [rows])
    return Case(problem, [L, p, G, h], [z, rows.dual_variables[0]], values)


def qp_quad_form():
    Q, p, A, b, G, h = (
        cp.Parameter((4, 4), PSD=True),
        cp.Parameter(4),
        cp.Parameter((2, 4)),
        cp.Parameter(2),
        cp.Parameter((3, 4)),
        cp.Parameter(3),
    )
    x = cp.Variable(4)
    rng = _rng(3)
    M = rng.standard_normal((4, 4))
    A0, G0, x0 = rng.standard_normal((2, 4)), rng.standard_normal((3, 4)), rng.standard_normal(4)
    values = [M @ M.T + np.eye(4), 2 * rng.standard_normal(4), A0, A0 @ x0, G0, G0 @ x0 + np.array([-0.5, 3.0, 3.0])]
    return Case(
        cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, Q) + p @ x), [A @ x == b, G @ x <= h]),
        [Q, p, A, b, G, h],
        [x],
        values,
    )


def maximize():
    c, r, x = cp.Parameter(4), cp.Parameter(nonneg=True), cp.Variable(4)
    budget = cp.sum(x) <= r
    return Case(
        cp.Problem(cp.Maximize(c @ x - cp.sum_squares(x)), [budget, x >= 0]),
        [c, r],
        [x, budget.dual_variables[0]],
        [np.array([1.0, 2.0, -0.5, 0.9]), np.array(0.8)],
    )


def socp():
    b, g, x = cp.Parameter(5), cp.Parameter(nonneg=True), cp.Variable(5)
    ball, total, low = cp.norm(x) <= g, cp.sum(x) == 1, x >= -0.2
    return Case(
        cp.Problem(cp.Minimize(b @ x), [ball, total, low]),
        [b, g],
        [x, *(c.dual_variables[0] for c in (ball, total, low))],
        [_rng(4).standard_normal(5), np.array(0.9)],
    )


def soc_constraint():
    b, g, F, x = cp.Parameter(4), cp.Parameter(nonneg=True), cp.Parameter((3, 4)), cp.Variable(4)
    cone = cp.SOC(g + x[0], F @ x)
    rng = _rng(5)
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [cone]),
        [b, g, F],
        [x, *cone.dual_variables],
        [rng.standard_normal(4), np.array(0.3), rng.standard_normal((3, 4))],
    )


def soc_columns():
    t0, B, t, X = cp.Parameter(3), cp.Parameter((2, 3)), cp.Variable(3), cp.Variable((2, 3))
    cone = cp.SOC(t, X, axis=0)
    rng = _rng(6)
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(t - t0) + cp.sum_squares(X - B)), [cone]),
        [t0, B],
        [t, X, *cone.dual_variables],
        [0.2 * rng.standard_normal(3), rng.standard_normal((2, 3))],
    )


def soc_rows():
    t0, B, t, X = cp.Parameter(2), cp.Parameter((2, 3)), cp.Variable(2), cp.Variable((2, 3))
    cone = cp.SOC(t, X, axis=1)
    rng = _rng(7)
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(t - t0) + cp.sum_squares(X - B)), [cone]),
        [t0, B],
        [t, X, *cone.dual_variables],
        [0.2 * rng.standard_normal(2), rng.standard_normal((2, 3))],
    )


def psd_variable():
    C, X = cp.Parameter((3, 3)), cp.Variable((3, 3), PSD=True)
    ones = cp.diag(X) == 1
    M = _rng(8).standard_normal((3, 3))
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [ones]),
        [C],
        [X, ones.dual_variables[0]],
        [np.eye(3) + 0.6 * (M + M.T)],
    )


def psd_constraint():
    S, Y = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), symmetric=True)
    cone, trace = Y >> 0, cp.trace(Y) == 1
    M = _rng(9).standard_normal((3, 3))
    return Case(
        cp.Problem(cp.Minimize(cp.trace(S @ Y) + 0.1 * cp.sum_squares(Y)), [cone, trace]),
        [S],
        [Y, cone.dual_variables[0], trace.dual_variables[0]],
        [M + M.T],
    )


def nsd_variable():
    C, X = cp.Parameter((3, 3)), cp.Variable((3, 3), NSD=True)
    M = _rng(10).standard_normal((3, 3))
    return Case(cp.Problem(cp.Minimize(cp.sum_squares(X - C))), [C], [X], [M + M.T])


def entropy():
    x, y = cp.Parameter(4), cp.Variable(4)
    total = cp.sum(y) == 1
    return Case(
        cp.Problem(cp.Minimize(-x @ y - cp.sum(cp.entr(y))), [total]),
        [x],
        [y, total.dual_variables[0]],
        [_rng(11).standard_normal(4)],
    )


def exp_constraint():
    q, p = cp.Parameter(3), cp.Variable(3)
    cone = cp.ExpCone(p[0], p[1], p[2])
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(p - q)), [cone]),
        [q],
        [p, *cone.dual_variables],
        [np.array([0.7, 0.5, 0.2])],
    )


def logistic():
    X, l, a, b = cp.Parameter((12, 3)), cp.Parameter(nonneg=True), cp.Variable(3), cp.Variable()
    rng = _rng(12)
    y = (rng.random(12) > 0.5).astype(float)
    loss = cp.sum(cp.logistic(X @ a + b) - cp.multiply(y, X @ a + b)) / 12
    return Case(
        cp.Problem(cp.Minimize(loss + l * cp.sum_squares(a))),
        [X, l],
        [a, b],
        [rng.standard_normal((12, 3)), np.array(0.1)],
    )


def power_constraint():
    q, p = cp.Parameter(3), cp.Variable(3)
    cone = cp.PowCone3D(p[0], p[1], p[2], 0.3)
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(p - q)), [cone]),
        [q],
        [p, *cone.dual_variables],
        [np.array([0.3, 0.5, 2.0])],
    )


def power_nd():
    q, w, z = cp.Parameter(4), cp.Variable(3), cp.Variable()
    cone = cp.constraints.PowConeND(w, z, np.array([0.2, 0.3, 0.5]))
    return Case(
        cp.Problem(cp.Minimize(cp.sum_squares(w - q[:3]) + cp.square(z - q[3])), [cone]),
        [q],
        [w, z, *cone.dual_variables],
        [np.array([0.3, 0.5, 0.4, 2.0])],
    )


def attributes():
    u, q, d = cp.Parameter(4), cp.Parameter(4), cp.Parameter(3)
    z, w = cp.Variable(4, nonneg=True), cp.Variable(4, bounds=[-1, u])
    D, s = cp.Variable((3, 3), diag=True), cp.Variable((3, 3), sparsity=[(0, 1, 2), (1, 2, 0)])
    Y, m = cp.Variable((2, 2), symmetric=True), cp.Variable(4, nonpos=True)
    objective = (
        cp.sum_squares(z - q)
        + cp.sum_squares(w - q)
        + cp.sum_squares(cp.diag(D) - d)
        + cp.sum_squares(s - 2)
        + (d @ s)[0]
        + cp.sum_squares(Y - cp.reshape(q, (2, 2), order="C"))
        + cp.sum_squares(m - q)
    )
    rng = _rng(13)
    return Case(
        cp.Problem(cp.Minimize(objective)),
        [u, q, d],
        [z, w, D, s, Y, m],
        [np.full(4, 0.5), rng.standard_normal(4), rng.standard_normal(3)],
    )


def parameter_kinds():
    P, S = cp.Parameter((3, 3), PSD=True), cp.Parameter((3, 3), symmetric=True)
    D, s = cp.Parameter((3, 3), diag=True), cp.Parameter((3, 3), sparsity=[(2, 0, 1), (0, 2, 1)])
    F, g, N = cp.Parameter((2, 3)), cp.Parameter(nonneg=True), cp.Parameter((3, 3), NSD=True)
    x = cp.Variable(3)
    problem = cp.Problem(
        cp.Minimize(cp.quad_form(x, P) - cp.quad_form(x, N) + g * cp.sum_squares(x) + cp.sum(F @ x) - 3 * cp.sum(x)),
        [S @ x <= 1, D @ x >= -4, s @ x <= g, cp.norm(F @ x) <= 7, x >= -1],
    )
    rng = _rng(14)
    M, R = rng.standard_normal((2, 3, 3))
    pattern = np.zeros((3, 3))
    pattern[[2, 0, 1], [0, 2, 1]] = [1.0, 2.0, 3.0]
    return Case(
        problem,
        [P, S, D, s, F, g, N],
        [x],
        [M @ M.T, R + R.T, np.diag([1.0, 2.0, 3.0]), pattern, rng.standard_normal((2, 3)), np.array(0.7), -R @ R.T],
    )


def geometric():
    a, b, c = cp.Parameter(pos=True), cp.Parameter(pos=True), cp.Parameter()
    x, y, z = (cp.Variable(pos=True) for _ in range(3))
    problem = cp.Problem(cp.Minimize(1 / (x * y * z)), [a * (x * y + x * z + y * z) <= b, x >= y**c])
    return Case(problem, [a, b, c], [x, y, z], [np.array(2.0), np.array(1.0), np.array(0.5)], gp=True)


def geometric_shared():
    a, x, y = cp.Parameter(pos=True), cp.Variable(pos=True), cp.Variable(2, pos=True)
    problem = cp.Problem(cp.Minimize(a * x**a + cp.sum(y) / x), [cp.prod(y) >= a])
    return Case(problem, [a], [x, y], [np.array(1.7)], gp=True)


def complex_least_squares():
    A, b, x = cp.Parameter((3, 2), complex=True), cp.Parameter(3, complex=True), cp.Variable(2, complex=True)
    rng = _rng(15)

    def draw(*shape):
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    total = cp.sum(x) == 0.05 - 0.2j
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.real(x) <= 0.1, total])
    return Case(problem, [A, b], [x, total.dual_variables[0]], [draw(3, 2), draw(3)])


def hermitian_variable():
    C, X = cp.Parameter((2, 2), hermitian=True), cp.Variable((2, 2), hermitian=True)
    M = np.array([[0.3, 1.0 + 0.5j], [1.0 - 0.5j, -0.4]])
    cone = X >> 0
    return Case(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cone]), [C], [X, cone.dual_variables[0]], [M])


def mixed_cones():
    q, x, y = cp.Parameter(3), cp.Variable(3), cp.Variable((2, 2), symmetric=True)
    constraints = [
        cp.sum(x) == 1,
        x >= -1,
        cp.norm(x) <= 1.2,
        y >> 0,
        y[0, 0] == x[0] + 1,
        cp.exp(x[1]) <= 1 + y[1, 1],
        cp.PowCone3D(x[0] + 2, y[1, 1] + 1, x[2], 0.4),
    ]
    return Case(cp.Problem(cp.Minimize(q @ x + cp.sum_squares(y)), constraints), [q], [x, y], [np.array([0.4, -1.0, -0.7])])


POLYHEDRAL = (lp, qp, qp_quad_form, maximize, attributes)
SECOND_ORDER = (socp, soc_constraint, soc_columns, soc_rows, parameter_kinds, complex_least_squares)
OTHERS = (
    psd_variable,
    psd_constraint,
    nsd_variable,
    entropy,
    exp_constraint,
    logistic,
    power_constraint,
    power_nd,
    geometric,
    geometric_shared,
    hermitian_variable,
    mixed_cones,
)
CASES = {f.__name__: f for f in (*POLYHEDRAL, *SECOND_ORDER, *OTHERS)}
REAL = {name: f for name, f in CASES.items() if name not in ("complex_least_squares", "hermitian_variable")}
