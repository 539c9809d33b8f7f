"""Dual variables of every kind of constraint: CVXPY's values and signs, and their derivatives by central differences."""

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.constraints import PowConeND

from cvxlayers import ConeLayer

from .problems import Case
from .support import central, cvxpy_solution, flat

RNG = np.random.default_rng(0)
B = RNG.standard_normal((2, 3))


def _near(constraint_of, shape=(2, 3), sense=cp.Minimize, value=B, **attributes):
    """The point of the constraints that is nearest to the parameter; their dual variables. attributes: of the point."""
    b, x = cp.Parameter(shape, complex=np.iscomplexobj(value)), cp.Variable(shape, **attributes)
    constraints = constraint_of(x)
    sign = 1 if sense is cp.Minimize else -1
    objective = sense(sign * cp.sum_squares(x - b))
    return Case(cp.Problem(objective, constraints), [b], [d for c in constraints for d in c.dual_variables], [value])


def _cone(make, shape, value):
    return _near(lambda x: [make(x)], shape, value=value)


def _complex(constraint_of, sense=cp.Minimize, **attributes):
    return _near(constraint_of, sense=sense, value=B + 1j * B[::-1, ::-1], **(attributes or {"complex": True}))


def _hermitian(constraint_of, value=None, sense=cp.Minimize):
    value = H if value is None else value
    return _near(constraint_of, value.shape, sense, value, hermitian=True)


def _power(alpha, value, axis=0):
    """The nearest point to `value` in cones W^alpha >= |z|; z is the last entry along the axis."""
    if axis == 0:
        return _cone(lambda x: PowConeND(x[:-1], x[-1], alpha), value.shape, value)
    return _cone(lambda x: PowConeND(x[:, :-1], x[:, -1], alpha, axis=1), value.shape, value)


S = RNG.standard_normal((3, 3))
S = S + S.T
H = S + 1j * np.array([[0.0, 1.0, -0.5], [-1.0, 0.0, 2.0], [0.5, -2.0, 0.0]])
POINTS = np.array([[0.2, 0.3, 0.5], [0.8, 0.4, 0.3], [0.4, 0.6, 0.2], [0.3, 0.5, 0.5], [0.6, 0.2, 0.4], [2.0, -1.5, 1.7]])
ALPHA = np.array([[0.1, 0.2, 0.3], [0.3, 0.15, 0.1], [0.2, 0.25, 0.3], [0.25, 0.3, 0.2], [0.15, 0.1, 0.1]])
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
    "PowConeND": lambda: _power(ALPHA[:, 0], POINTS[:, 0]),
    "PowConeND, axis 0": lambda: _power(ALPHA, POINTS),
    "PowConeND, axis 1": lambda: _power(ALPHA.T, POINTS.T, axis=1),
    "PowConeND of two": lambda: _power(np.array([[0.3, 0.6], [0.7, 0.4]]), POINTS[3:, :2]),
    "PowConeND, three in a vector": lambda: _power(np.array([0.2, 0.3, 0.5]), POINTS[2:, 2]),
    "complex equality": lambda: _complex(lambda z: [z[:, :2] == np.array([[1.0, 2j], [1j, 0.0]])]),
    "complex equality, maximize": lambda: _complex(lambda z: [z[:, :2] == np.ones((2, 2))], sense=cp.Maximize),
    "complex equality of a number": lambda: _complex(lambda z: [cp.sum(z) == 1]),
    "complex equality, promoted": lambda: _complex(lambda z: [z[0] == 1 + 1j]),
    "complex equality with a map": lambda: _complex(
        lambda z: [np.array([[1.0, 2j]]) @ z == np.ones((1, 3)), cp.imag(z) <= 0.4]
    ),
    "complex Zero": lambda: _complex(lambda z: [cp.Zero(cp.sum(z, axis=1) - 1j)]),
    "imaginary equality": lambda: _complex(lambda z: [z[0] == 1j * np.arange(3.0)], imag=True),
    "imaginary Zero": lambda: _complex(lambda z: [cp.Zero(z[:, 0] - 1j * np.ones(2))], imag=True),
    "hermitian PSD": lambda: _hermitian(lambda z: [z >> 0]),
    "hermitian NSD, shifted": lambda: _hermitian(lambda z: [z << 0.1 * np.eye(3)]),
    "hermitian PSD, maximize": lambda: _hermitian(lambda z: [z >> 0], sense=cp.Maximize),
    "hermitian PSD of order one": lambda: _hermitian(lambda z: [z >> 0], -np.ones((1, 1)) + 0j),
    "PSD of a real part": lambda: _hermitian(lambda z: [cp.real(z) >> 0]),
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
        np.testing.assert_allclose(out, *flat([value]), rtol=1e-4, atol=3e-5)  # Clarabel's own accuracy


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_central_differences(name):
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables)
    theta = flat(case.values)
    _, saved = layer.forward(*theta)
    t = RNG.standard_normal(case.values[0].shape)
    if case.values[0] is S:
        t = t + t.T
    t = flat([t + 1j * t[::-1] if np.iscomplexobj(case.values[0]) else t])
    found = layer.jvp(saved, *t)
    assert max(np.abs(f).max() for f in found) > 1e-3
    for f, expected in zip(found, central(lambda v: layer.forward(*v)[0], theta, t), strict=True):
        np.testing.assert_allclose(f, expected, rtol=1e-6, atol=1e-7)
    c = [RNG.standard_normal(f.shape) for f in found]
    left = sum((a * b).sum() for a, b in zip(c, found, strict=True))
    right = sum((a * b).sum() for a, b in zip(layer.vjp(saved, *c), t, strict=True))
    assert left == pytest.approx(right, rel=1e-10, abs=1e-12)


BATCHED = ["equality", "both", "SOC, axis 0", "SOC, axis 1", "PSD", "ExpCone of matrices"]
BATCHED += ["PowConeND, axis 1", "complex equality", "hermitian PSD"]


@pytest.mark.parametrize("name", BATCHED)
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


@pytest.mark.parametrize("solver", ["moreau", "clarabel", "scs"])
def test_a_hermitian_dual_is_that_of_the_complex_problem(solver):
    """The nearest positive semidefinite matrix to H has the dual variable -2 min(H, 0), whichever real one the solver finds."""
    case = CASES["hermitian PSD"]()
    layer = ConeLayer(case.problem, case.parameters, case.variables, solver=solver)
    l, Q = np.linalg.eigh(H)
    expected = (Q * np.maximum(-2 * l, 0)) @ Q.conj().T
    np.testing.assert_allclose(layer.forward(*flat(case.values))[0][0], *flat([expected]), rtol=0, atol=1e-8)


def test_complex_duals_are_sensitivities_of_the_optimal_value():
    """X >> U and X[0, 1] == w: df* = Re tr(Y^H dU) - Re(conj(y) dw). CVXPY's Y is not even Hermitian here (1.9.3, Clarabel)."""
    U, w, X = cp.Parameter((3, 3), hermitian=True), cp.Parameter(complex=True), cp.Variable((3, 3), hermitian=True)
    cone, corner = X >> U, X[0, 1] == w
    duals = [cone.dual_variables[0], corner.dual_variables[0]]
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - H)), [cone, corner]), [U, w], [X, *duals])
    theta, t = flat([0.1 * np.eye(3) + 0j, 0.1 + 0.2j]), flat([H[::-1, ::-1].conj(), 0.7 - 0.4j])
    _, Y, y = layer.forward(*theta)[0]
    (found,) = central(lambda v: [((layer.forward(*v)[0][0] - flat([H])[0]) ** 2).sum()], theta, t)
    assert (Y * t[0]).sum() - (y * t[1]).sum() == pytest.approx(found, rel=1e-7)
    assert abs((Y * t[0]).sum()) > 0.1 and abs((y * t[1]).sum()) > 0.1


def test_second_derivatives_of_complex_duals():
    """d2Y along (t, t) by central differences of the first derivative."""
    for name in ("hermitian PSD", "complex equality with a map", "PowConeND, axis 0"):
        case = CASES[name]()
        layer = ConeLayer(case.problem, case.parameters, case.variables)
        theta = flat(case.values)
        t = [RNG.standard_normal(v.shape) for v in theta]
        found = layer.jvp2(layer.forward(*theta)[1], t, t)
        expected = central(lambda v, layer=layer, t=t: layer.jvp(layer.forward(*v)[1], *t), theta, t)
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6)


def test_a_complex_equality_that_is_lifted():
    g, h, b, z = cp.Parameter(), cp.Parameter(), cp.Parameter(2, complex=True), cp.Variable(2, complex=True)
    row = g * h * z[0] == 1j
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(z - b)), [row]), [g, h, b], [row.dual_variables[0]])
    assert layer.lifted
    found = layer.forward(*flat([3.0, 0.5, np.array([0.2, 0.0j])]))[0][0]
    np.testing.assert_allclose(found, [[2 * 0.2 / 1.5, -2 / 1.5**2]], atol=1e-12)  # g h z0 = i and 2 (z0 - b0) + g h y = 0
