"""Lifting: every form of the table runs, with CVXPY's solution at fixed parameters, and with the derivative of that."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.atoms.affine.wraps import nonneg_wrap, nsd_wrap

from cvxlayers import ProblemError
from cvxlayers.layer import ConeLayer

from . import lifted
from .support import central, flat, largest

RNG = np.random.default_rng(0)


def fixed(problem, parameters, values):
    """The problem with constants in place of its parameters."""
    constants = {id(p): cp.Constant(v) for p, v in zip(parameters, values, strict=True)}
    return cp.Problem(problem.objective.tree_copy(constants), [c.tree_copy(constants) for c in problem.constraints])


def solve(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return problem.solve("CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", lifted.NAMES)
def test_solution_and_derivative(name):
    problem, parameters, variable, values = lifted.problem(name)
    layer = ConeLayer(problem, parameters, [variable])
    assert layer.lifted and all(p.value is None for p in parameters)
    for value in values:
        theta = flat(value)
        outputs, saved = layer.forward(*theta)
        reference = fixed(problem, parameters, value)
        best = solve(reference)
        np.testing.assert_allclose(outputs[0].reshape(variable.shape), variable.value, atol=2e-6)  # CVXPY's solution
        variable.save_value(outputs[0].reshape(variable.shape))
        assert abs(reference.objective.value - best) <= 1e-8 * (1 + abs(best))  # flat at the optimum: a finer test
        assert all(np.max(c.violation()) <= 1e-8 for c in reference.constraints)
        t = [RNG.standard_normal(v.shape) for v in theta]
        tangent = layer.jvp(saved, *t)
        assert largest(tangent, central(lambda at: layer.forward(*at)[0], theta, t)) <= 1e-8
        c = [RNG.standard_normal(o.shape) for o in outputs]
        size = sum(np.abs(a * b).sum() for a, b in zip(c, tangent, strict=True))
        assert abs(inner(c, tangent) - inner(layer.vjp(saved, *c), t)) <= 1e-11 * (1 + size)


def solved(objective, constraints, parameters, values, variables, **options):
    layer = ConeLayer(cp.Problem(objective, constraints), parameters, variables, **options)
    outputs, saved = layer.forward(*flat(values))
    return layer, [o.reshape(v.shape) for o, v in zip(outputs, variables, strict=True)], saved


def test_bounds_of_variables():
    g, h, b = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True), cp.Parameter(3)
    v = cp.Variable(3, bounds=[-g * h, np.array([np.inf, 0.5, 0.4])])
    row = v[0] <= 10
    objective, value = cp.Minimize(cp.sum_squares(v - b)), [2.0, 0.5, [-3.0, 0.2, 7.0]]
    layer, (x, _), saved = solved(objective, [row], [g, h, b], value, [v, row.dual_variables[0]])
    np.testing.assert_allclose(x, [-1.0, 0.2, 0.4], atol=1e-12)
    np.testing.assert_allclose(layer.vjp(saved, np.ones((1, 3)), np.zeros((1, 1)))[0], [[-0.5]], atol=1e-12)


def test_a_variable_with_parametric_bounds_in_a_product():
    g, b, F = cp.Parameter(nonneg=True), cp.Parameter(2), cp.Parameter((2, 2))
    v = cp.Variable(2, bounds=[-g, g])
    layer, (out,), saved = solved(cp.Minimize(cp.sum_squares(F @ v - b)), [], [g, b, F], [2.0, [-5.0, 1.0], np.eye(2)], [v])
    np.testing.assert_allclose(out, [-2, 1], atol=1e-9)
    np.testing.assert_allclose(layer.vjp(saved, np.ones((1, 2)))[0], [[-1]], atol=1e-9)
    low, high = -g, g + cp.square(g)
    v = cp.Variable(2, bounds=[low, high])
    layer, (out,), _ = solved(cp.Minimize(cp.sum_squares(v - b)), [], [g, b], [1.5, [-5.0, 5.0]], [v])
    np.testing.assert_allclose(out, [-1.5, 3.75], atol=1e-9)


def test_the_threshold_of_huber():
    g, h, x = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True), cp.Variable(2)
    objective = cp.Minimize(cp.sum(cp.huber(x - 2, g * h)) + 0.1 * cp.sum_squares(x))
    layer, (out,), saved = solved(objective, [], [g, h], [0.5, 0.2], [x])
    np.testing.assert_allclose(out, [1, 1], atol=1e-9)  # x = 10 g h
    np.testing.assert_allclose(layer.vjp(saved, np.array([[1.0, 0.0]])), [[[2.0]], [[5.0]]], atol=1e-8)
    objective = cp.Minimize(cp.sum(g * cp.huber(x - 2, h)) + 0.1 * cp.sum_squares(x))
    layer, (out,), saved = solved(objective, [], [g, h], [0.5, 0.2], [x])
    np.testing.assert_allclose(out, [1, 1], atol=1e-9)
    np.testing.assert_allclose(layer.vjp(saved, np.array([[1.0, 0.0]])), [[[2.0]], [[5.0]]], atol=1e-8)


def test_what_needs_no_lifting_stays_as_it_is():
    g, h, b = cp.Parameter(nonneg=True), cp.Parameter(), cp.Parameter(3)
    F, P, x = cp.Parameter((3, 3)), cp.Parameter((3, 3), PSD=True), cp.Variable(3)
    objective = cp.Minimize(cp.quad_form(x, P + np.eye(3)) + (g + 1) * cp.norm(x) + cp.sum_squares(F @ x - 2 * b))
    constraints = [F @ x <= b + h, cp.norm(x) <= 2 * g, cp.huber(x, g) <= 3, cp.matrix_frac(x, P) <= 5]
    layer = ConeLayer(cp.Problem(objective, constraints), [g, h, F, P, b], [x])
    assert layer.lifted == () and not layer.param_map.curved and layer.param_map.formulas.kept == ()


def test_geometric_programs_stay_as_they_are():
    a, x = cp.Parameter(pos=True), cp.Variable(pos=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(1 / x), [a**2 * x <= 2]), [a], [x], gp=True)
    assert layer.lifted == ()
    assert layer.forward(np.array([[2.0]]))[0][0] == pytest.approx(0.5, abs=1e-9)


def test_signs_that_wraps_promise_are_checked():
    """exp(g t), t >= norm1(x), is not tight for a negative g."""
    S, g, b, x = cp.Parameter((2, 2), symmetric=True), cp.Parameter(), cp.Parameter(2), cp.Variable(2)
    for weight, p, good in ((cp.trace(cp.psd_wrap(S)), S, np.eye(2)), (nonneg_wrap(g), g, np.ones(()))):
        problem = cp.Problem(cp.Minimize(cp.exp(weight * cp.norm1(x)) + cp.sum_squares(x - b)))
        layer = ConeLayer(problem, [p, b], [x])
        found = layer.forward(*flat([good, np.ones(2)]))[0][0]
        assert largest([found], [np.zeros((1, 2))]) < 1  # it shrinks
        with pytest.raises(ProblemError, match="counts as nonneg and has a value that is not nonnegative"):
            layer.forward(*flat([-good, np.ones(2)]))
    problem = cp.Problem(cp.Maximize(cp.quad_form(x, nsd_wrap(S)) + b @ x), [x <= 9])
    layer = ConeLayer(problem, [S, b], [x])
    np.testing.assert_allclose(layer.forward(*flat([-np.eye(2), np.ones(2)]))[0][0], [[0.5, 0.5]], atol=1e-9)
    with pytest.raises(ProblemError, match="not convex"):
        layer.forward(*flat([np.diag([-1.0, 1.0]), np.ones(2)]))
    with pytest.raises(ProblemError, match=r"nsd_wrap.* is not negative semidefinite"):
        ConeLayer(cp.Problem(cp.Maximize(cp.quad_form(x, nsd_wrap(np.eye(2))) + b @ x)), [b], [x])
