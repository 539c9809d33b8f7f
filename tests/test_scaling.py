"""Units must not matter: the same problem in other units has the same solution and gradient, or an error."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxlayers import SolverError
from cvxlayers.solvers import SOLVERS
from cvxlayers.torch import CvxpyLayer

INSTALLED = [None, *(name for name in sorted(SOLVERS) if SOLVERS[name].installed())]


def value_and_jacobian(layer, *values):
    tensors = [torch.tensor(np.asarray(v, np.float64)) for v in values]
    return layer(*tensors)[0].numpy(), torch.func.jacrev(lambda *a: layer(*a)[0])(*tensors).numpy()


@pytest.mark.parametrize("spread", [1e2, 1e4, 1e6])
def test_least_squares_with_badly_scaled_columns(spread):
    rng = np.random.default_rng(0)
    scale = np.array([1 / spread, 1, 1, spread])
    A = rng.standard_normal((8, 4))
    x, b = cp.Variable(4), cp.Parameter(8)
    _, J = value_and_jacobian(CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A * scale @ x - b))), [b], [x]), np.ones(8))
    expected = np.linalg.pinv(A) / scale[:, None]
    assert (np.abs(J - expected).max(1) <= 1e-9 * np.abs(expected).max(1)).all()


@pytest.mark.parametrize("n", [3, 170])  # both ways to factorize
def test_a_separable_objective_with_weights_from_1e_minus_5_to_1e5(n):
    weights = np.ones(n)
    weights[:2] = 1e5, 1e-5
    x, b = cp.Variable(n), cp.Parameter(n)
    objective = cp.sum(cp.multiply(weights, cp.square(x))) - 2 * b @ cp.multiply(weights, x)
    value, J = value_and_jacobian(CvxpyLayer(cp.Problem(cp.Minimize(objective)), [b], [x]), np.arange(1.0, n + 1))
    assert np.allclose(value, np.arange(1.0, n + 1), rtol=1e-9)
    assert np.allclose(J, np.eye(n), atol=1e-9)


@pytest.mark.parametrize("unit", [1e-14, 1e-8, 1.0, 1e8])
def test_the_unit_of_the_objective(unit):
    z, q = cp.Variable(3), cp.Parameter(3)

    def objective(c):
        return cp.Minimize(c * (cp.sum_squares(z - q) + cp.norm(z)))

    point = np.array([1.0, 2.0, -0.5])
    expected = value_and_jacobian(CvxpyLayer(cp.Problem(objective(1.0), [cp.sum(z) == 1]), [q], [z]), point)
    found = value_and_jacobian(CvxpyLayer(cp.Problem(objective(unit), [cp.sum(z) == 1]), [q], [z]), point)
    for a, b in zip(found, expected, strict=True):
        assert np.allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e5, 1e8])
def test_the_unit_of_the_data(unit):
    X, B = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - B))), [B], [X])
    golden = (1 + np.sqrt(5)) / 2
    value, J = value_and_jacobian(layer, unit * np.array([[1.0, 2.0], [2.0, -1.0]]))
    assert np.allclose(value / unit, [[golden, 1], [1, golden - 1]], rtol=1e-9)
    assert np.allclose(J, value_and_jacobian(layer, np.array([[1.0, 2.0], [2.0, -1.0]]))[1], atol=1e-9)


def test_units_differ_from_item_to_item():
    y, q, u = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - q)), [cp.sum(y) == u, y <= 0.9 * u, y >= 0])
    unit = torch.tensor([1e-12, 1.0, 1e7], dtype=torch.float64)
    q0 = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)
    q1, u1 = (unit[:, None] * q0).requires_grad_(), unit.clone().requires_grad_()
    (out,) = CvxpyLayer(problem, [q, u], [y])(q1, u1)
    assert torch.allclose(out / unit[:, None], torch.tensor([0.1, 0.9, 0.0], dtype=torch.float64), atol=1e-9)
    g = torch.autograd.grad((out * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).sum(), (q1, u1))
    assert torch.allclose(g[1], torch.full((3,), 0.1 + 2 * 0.9, dtype=torch.float64), rtol=1e-9)


def test_one_row_with_large_numbers_does_not_excuse_the_others():
    x, p = cp.Variable(2), cp.Parameter()
    constraints = [x[0] == 1e9, x[1] >= 1, x[1] <= 1 - p]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.norm(x)), constraints), [p], [x], solver="scs")
    with pytest.raises(SolverError):
        layer(torch.tensor(0.5))


@pytest.mark.parametrize("solver", INSTALLED)
@pytest.mark.parametrize("large", [1e4, 1e5, 1e6])
def test_large_numbers_do_not_excuse_a_contradiction_of_1e_minus_5(solver, large, request):
    if solver == "diffcp" and large == 1e4:  # it runs all the same
        limit = "|x|^2 = 1e8 is a variable there, and 1e-12 of the largest entry of x is the documented limit of the test"
        request.applymarker(pytest.mark.xfail(reason=limit, strict=True))
    x, b = cp.Variable(2), cp.Parameter(3)
    for rows in ([x[0] == b[0], x[1] == b[1], x[1] == b[2]], [x[0] >= b[0], x[1] <= b[1], x[1] >= b[2]]):
        layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), rows), [b], [x], solver=solver)
        with pytest.raises(SolverError):
            layer(torch.tensor([large, 1, 1 + 1e-5], dtype=torch.float64))


@pytest.mark.parametrize("solver", INSTALLED)
def test_large_costs_do_not_excuse_a_direction_of_descent(solver):
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], solver=solver)
    with pytest.raises(SolverError):
        layer(torch.tensor([1e6, -1e-5], dtype=torch.float64))


def test_one_huge_bound_does_not_set_the_unit():
    x, b = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0, cp.sum(x) <= 1e15]), [b], [x])
    value, J = value_and_jacobian(layer, np.array([1.0, -2.0, 3.0]))
    assert np.allclose(value, [1, 0, 3], atol=1e-9)
    assert np.allclose(J, np.diag([1, 0, 1]), atol=1e-9)


@pytest.mark.parametrize("spread", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("solver", [None, "clarabel", "scs"])
def test_equations_in_very_different_units_are_solved_or_refused(solver, spread):
    A, b, x = cp.Parameter((2, 2)), cp.Parameter(2), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), [A, b], [x], solver=solver)
    _right_or_loud(layer, np.diag([spread, 1 / spread]), np.array([spread, 2 / spread]))


@pytest.mark.parametrize("spread", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("solver", [None, "clarabel", "scs"])
def test_weights_of_very_different_size_are_obeyed_or_refused(solver, spread):
    q, x = cp.Parameter(2, nonneg=True), cp.Variable(2)
    objective = cp.Minimize(q @ cp.square(x - np.array([1.0, 2.0])))
    _right_or_loud(CvxpyLayer(cp.Problem(objective, [x <= 10]), [q], [x], solver=solver), np.array([spread, 1 / spread]))


def _right_or_loud(layer, *values):
    """x = (1, 2), or an error; the default must not give up as long as the numbers are within 1e8 of each other."""
    try:
        (x,) = layer(*map(torch.tensor, values))
    except SolverError:
        assert max(v.max() for v in values) > 1e4
    else:
        np.testing.assert_allclose(x, [1, 2], rtol=1e-6)  # an equation may be off by 1e-7 of its own terms
