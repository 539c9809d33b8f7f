"""Dual variables of every kind of constraint: CVXPY's values and signs, and their derivatives by central differences."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import ConeLayer

from .problems import Case
from .support import central, cvxpy_solution, flat

RNG = np.random.default_rng(0)
B = RNG.standard_normal((2, 3))


def _near(constraint_of, shape=(2, 3), sense=cp.Minimize, value=B, tilt=0.0):
    """The point of the constraints that is nearest to the parameter; their dual variables."""
    b, x = cp.Parameter(shape), cp.Variable(shape)
    constraints = constraint_of(x)
    sign = 1 if sense is cp.Minimize else -1
    objective = sense(sign * (cp.sum_squares(x - b) + tilt * cp.sum(x)))
    return Case(cp.Problem(objective, constraints), [b], [d for c in constraints for d in c.dual_variables], [value])


def _cone(make, shape, value):
    return _near(lambda x: [make(x)], shape, value=value)


S = RNG.standard_normal((3, 3))
S = S + S.T
CASES = {
    "equality": lambda: _near(lambda x: [x[:, :2] == np.arange(4.0).reshape(2, 2)]),
    "equality of a number": lambda: _near(lambda x: [cp.sum(x) == 1]),
    "equality, promoted": lambda: _near(lambda x: [x[0] == 1]),
    "equality with an affine map": lambda: _near(lambda x: [np.array([[1.0, 2.0]]) @ x == np.ones((1, 3))]),
    "less or equal": lambda: _near(lambda x: [x <= 0.1]),
    "greater or equal": lambda: _near(lambda x: [x >= 0.1]),
    "constant on the left": lambda: _near(lambda x: [0.1 * np.ones((2, 3)) <= x]),
    "both": lambda: _near(lambda x: [x <= 0.2, x >= -0.2, cp.sum(x, axis=0) == 0.1]),
    "Zero": lambda: _near(lambda x: [cp.Zero(cp.sum(x, axis=1) - 1)]),
    "NonNeg": lambda: _near(lambda x: [cp.NonNeg(x)]),
    "NonPos": lambda: _near(lambda x: [cp.NonPos(x)]),
    "maximize": lambda: _near(lambda x: [x <= 0.1, cp.sum(x) == -1], sense=cp.Maximize),
    "a norm": lambda: _near(lambda x: [cp.norm(x, "fro") <= 0.5]),
    "a square": lambda: _near(lambda x: [cp.sum_squares(x) <= 0.5]),
    "an absolute value": lambda: _near(lambda x: [cp.abs(x) <= 0.3]),
    "a largest entry": lambda: _near(lambda x: [cp.max(x, axis=1) <= 0.1]),
    "an exponential": lambda: _near(lambda x: [cp.exp(x) <= 0.7]),
    "a logarithm": lambda: _near(lambda x: [cp.log(x + 5) >= 1.7]),
    "SOC": lambda: _cone(lambda x: cp.SOC(x[0], x[1:]), (4,), np.array([0.3, 1.0, -2.0, 0.5])),
    "SOC with matrix": lambda: _cone(lambda x: cp.SOC(x[0, 0], cp.vec(x[1:], order="C")), (3, 2), RNG.standard_normal((3, 2))),
    "SOC, axis 0": lambda: _cone(lambda x: cp.SOC(x[0], x[1:], axis=0), (3, 4), RNG.standard_normal((3, 4))),
    "SOC, axis 1": lambda: _cone(lambda x: cp.SOC(x[:, 0], x[:, 1:], axis=1), (4, 3), RNG.standard_normal((4, 3))),
    "PSD": lambda: _near(lambda x: [x >> 0], (3, 3), value=S),
    "NSD": lambda: _near(lambda x: [x << 0], (3, 3), value=S),
    "PSD, shifted": lambda: _near(lambda x: [x >> 0.3 * np.eye(3)], (3, 3), value=S),
    "PSD, maximize": lambda: _near(lambda x: [x >> 0], (3, 3), cp.Maximize, S),
    "a largest eigenvalue": lambda: _near(lambda x: [cp.lambda_max((x + x.T) / 2) <= 0.5], (3, 3), value=S),
    "ExpCone": lambda: _cone(lambda x: cp.ExpCone(x[0], x[1], x[2]), (3,), np.array([0.7, 0.5, 0.2])),
    "ExpCone of matrices": lambda: _cone(lambda x: cp.ExpCone(x[:2], x[2:4], x[4:]), (6, 2), _exp_values()),
    "PowCone3D": lambda: _cone(lambda x: cp.PowCone3D(x[0], x[1], x[2], 0.3), (3,), np.array([0.3, 0.5, 2.0])),
    "PowCone3D of vectors": lambda: _cone(
        lambda x: cp.PowCone3D(x[0], x[1], x[2], np.array([0.3, 0.7])), (3, 2), np.array([[0.3, 0.4], [0.5, 0.2], [2.0, -1.0]])
    ),
}


def _exp_values():
    return np.array([[0.7, 0.2], [0.5, 0.9], [0.5, 0.6], [0.4, 0.8], [0.2, 0.3], [0.1, 0.5]])


@pytest.mark.parametrize("name", CASES)
def test_values_are_cvxpys(name):
    case = CASES[name]()
    outputs, _ = ConeLayer(case.problem, case.parameters, case.variables).forward(*flat(case.values))
    expected = cvxpy_solution(case)
    assert max(np.abs(e).max() for e in expected) > 1e-2
    for out, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(out[0], value.ravel(), rtol=1e-4, atol=3e-5)  # Clarabel's own accuracy


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_central_differences(name):
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables)
    theta = flat(case.values)
    _, saved = layer.forward(*theta)
    t = RNG.standard_normal(case.values[0].shape)
    if case.values[0] is S:
        t = t + t.T
    t = flat([t])
    found = layer.jvp(saved, *t)
    assert max(np.abs(f).max() for f in found) > 1e-3
    for f, expected in zip(found, central(lambda v: layer.forward(*v)[0], theta, t), strict=True):
        np.testing.assert_allclose(f, expected, rtol=1e-6, atol=1e-7)
    c = [RNG.standard_normal(f.shape) for f in found]
    left = sum((a * b).sum() for a, b in zip(c, found, strict=True))
    right = sum((a * b).sum() for a, b in zip(layer.vjp(saved, *c), t, strict=True))
    assert left == pytest.approx(right, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["equality", "both", "SOC, axis 0", "SOC, axis 1", "PSD", "ExpCone of matrices"])
def test_a_batch_is_its_items(name):
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables)
    batch = flat(case.values)[0] * np.array([[1.0], [1.1], [0.9]])
    outputs, _ = layer.forward(batch)
    for i in range(3):
        for out, one in zip(outputs, layer.forward(batch[[i]])[0], strict=True):
            np.testing.assert_allclose(out[[i]], one, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sense, sign", [(cp.Minimize, -1.0), (cp.Maximize, 1.0)])
def test_duals_are_sensitivities_of_the_optimal_value(sense, sign):
    """lhs == u: df*/du = -dual for Minimize, +dual for Maximize."""
    u, x = cp.Parameter(), cp.Variable(3)
    rows = cp.sum(x) == u
    f = cp.sum_squares(x - np.arange(3.0))
    layer = ConeLayer(cp.Problem(sense(f if sense is cp.Minimize else -f), [rows]), [u], [x, rows.dual_variables[0]])

    def optimum(u):
        value = ((layer.forward(np.array([[u]]))[0][0] - np.arange(3.0)) ** 2).sum()
        return value if sense is cp.Minimize else -value

    dual = layer.forward(np.array([[1.0]]))[0][1][0, 0]
    assert (optimum(1 + 1e-5) - optimum(1 - 1e-5)) / 2e-5 == pytest.approx(sign * dual, rel=1e-6)
