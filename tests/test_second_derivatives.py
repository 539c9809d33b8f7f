"""Second derivatives of the core: the derivative of D for each cone, and jvp2 and vjp2 of the conic layer."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import linsolve
from cvxlayers.cones import PSD, SOC, Exp, NonNeg, Power, ProductCone, Zero
from cvxlayers.layer import ConeLayer
from cvxlayers.program import ConeDims

from .conic import ROWS, conic
from .problems import CASES
from .support import central, compiled, factored, flat, largest, relative, without_engine

CONES = {
    "zero": Zero(3),
    "nonneg": NonNeg(4),
    "soc": SOC(5),
    "soc of two": SOC(2),
    "psd": PSD(4),
    "exp": Exp(),
    "power .3": Power(0.3),
    "power .5": Power(0.5),
    "power .9": Power(0.9),
    "product": ProductCone(ConeDims(zero=1, nonneg=2, soc=(3, 3, 4), psd=(2, 3), exp=2, power=(0.3, 0.6))),
}


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def differences(K, v, a, h):
    """The derivative of D(v) h along a."""
    e = 1e-5 * np.linalg.norm(v) / np.linalg.norm(a)
    return central(lambda at: [K.spectrum(at[0]).apply(h)], [v], [a], e)[0]


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
@pytest.mark.parametrize("name", CONES)
def test_third_is_the_derivative_of_D_and_symmetric(name, scale):
    K, rng = CONES[name], np.random.default_rng(0)
    curved = 0
    for _ in range(20):
        v, a, h, c = scale * rng.standard_normal(K.dim), *rng.standard_normal((3, K.dim))
        at = K.spectrum(v)
        T = at.third(a, h)
        size = max(np.abs(differences(K, v, a, h)).max(), 1 / scale)
        assert np.abs(T - differences(K, v, a, h)).max() <= 2e-7 * size
        assert abs(c @ T - a @ at.third(c, h)) <= 1e-12 * np.abs(c * T).sum()
        assert abs(c @ T - h @ at.third(a, c)) <= 1e-12 * np.abs(c * T).sum()
        curved += np.abs(T).max() > 0
    assert curved >= 5 or name in ("zero", "nonneg", "soc of two")  # these are orthants


def test_third_of_a_batch_is_that_of_its_items():
    K, rng = CONES["product"], np.random.default_rng(0)
    v, a, h = rng.standard_normal((3, 6, K.dim))
    T = K.spectrum(v).third(a, h)
    shared = K.spectrum(v[:1]).third(a, h)
    for i in range(6):
        assert np.allclose(T[i], K.spectrum(v[i]).third(a[i], h[i]), atol=1e-14)
        assert np.allclose(shared[i], K.spectrum(v[0]).third(a[i], h[i]), atol=1e-14)


def test_third_with_coinciding_eigenvalues():
    K, rng = PSD(7), np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    v = K.svec.vec((Q * [2, 2, 2, 1, -1, -1, -3]) @ Q.T)
    a, h = rng.standard_normal((2, K.dim))
    assert relative(K.spectrum(v).third(a, h), differences(K, v, a, h)) <= 1e-7


KINKS = {
    "nonneg": (NonNeg(3), [0.0, 1.0, -1.0]),
    "soc, apex": (SOC(3), [0.0, 0.0, 0.0]),
    "soc, almost at the apex": (SOC(3), [1e-160, 2e-160, 0.0]),
    "psd, almost zero": (PSD(3), [1e-160, 1e-170, -1e-160, 1e-180, 0.0, 0.0]),
    "exp, almost zero": (Exp(), [-1e-160, 1e-170, 1e-160]),
    "power, almost zero": (Power(0.3), [-1e-160, 1e-160, 1e-161]),
    "soc, boundary": (SOC(3), [5.0, 3.0, 4.0]),
    "soc, boundary of the polar": (SOC(3), [-5.0, 3.0, 4.0]),
    "soc, axis": (SOC(3), [2.0, 0.0, 0.0]),
    "psd, zero": (PSD(3), [0.0] * 6),
    "psd, rank two": (PSD(3), [1.0, 0.0, 2.0, 0.0, 0.0, 0.0]),
    "psd, both signs and zero": (PSD(3), [1.0, 0.0, -2.0, 0.0, 0.0, 0.0]),
    "exp, zero": (Exp(), [0.0, 0.0, 0.0]),
    "exp, boundary": (Exp(), [0.0, -1.0, -1.0]),
    "exp, face": (Exp(), [1.0, 0.0, -1.0]),
    "power, zero": (Power(0.3), [0.0, 0.0, 0.0]),
    "power, boundary": (Power(0.5), [-1.0, -1.0, 1.0]),
    "power, face": (Power(0.3), [1.0, -1.0, 0.0]),
}


@pytest.mark.parametrize("name", KINKS)
def test_third_at_a_kink_is_finite(name):
    K, v = KINKS[name]
    rng = np.random.default_rng(0)
    a, h = rng.standard_normal((2, K.dim))
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(K.spectrum(np.array(v)).third(a, h)).all()


def test_third_at_a_kink_is_that_of_the_side_of_D():
    K, rng = SOC(3), np.random.default_rng(0)
    a, h = rng.standard_normal((2, 3))
    at = np.array([5.0, 3.0, 4.0])  # D is the limit from outside of K*: the eigenvalue of (1, -u) is 0
    outside, inside = (K.spectrum(at + np.array([e, 0, 0])) for e in (-1e-9, 1e-9))
    T = K.spectrum(at).third(a, h)
    assert relative(T, outside.third(a, h)) <= 1e-8
    assert (inside.third(a, h) == 0).all() and np.abs(T).max() > 1e-2


# The layer. Directions are taken at random; differences are those of first derivatives at refined solutions.


def directions(layer, batch=1):
    rng = np.random.default_rng(7)
    sizes = layer.in_sizes, layer.in_sizes, layer.out_sizes
    return ([rng.choice([-1, 1], (batch, k)) * rng.uniform(0.5, 1.5, (batch, k)) for k in group] for group in sizes)


@pytest.mark.parametrize("name", CASES)
def test_jvp2_and_vjp2_are_differences_of_first_derivatives(name):
    _, layer, theta, _, saved = compiled(name)
    s, t, c = directions(layer)
    assert largest(layer.jvp2(saved, s, t), central(lambda x: layer.jvp(layer.forward(*x)[1], *t), theta, s)) <= 1e-8
    assert largest(layer.vjp2(saved, s, c), central(lambda x: layer.vjp(layer.forward(*x)[1], *c), theta, s)) <= 1e-8


@pytest.mark.parametrize("name", CASES)
def test_the_laws_of_second_derivatives(name):
    _, layer, _, _, saved = compiled(name)
    s, t, c = directions(layer)
    second, gradient = layer.jvp2(saved, s, t), layer.vjp2(saved, t, c)
    assert largest(layer.jvp2(saved, t, s), second) <= 1e-13
    assert abs(inner(c, second) - inner(gradient, s)) <= 1e-12 * max(inner(map(np.abs, c), map(np.abs, second)), 1e-12)


@pytest.mark.parametrize("cone", ROWS)
def test_the_hessian_in_all_of_P_q_A_b_is_differences_of_gradients(cone):
    case = conic(cone)
    layer = ConeLayer(case.problem, case.parameters, case.variables)
    theta = flat(case.values)
    _, saved = layer.forward(*theta)
    *_, c = directions(layer)
    edges = np.cumsum((0, *layer.in_sizes))
    basis = np.split(np.eye(edges[-1]), edges[1:-1], axis=1)
    hessian = np.concatenate(layer.vjp2(saved, basis, c), -1)
    expected = np.empty_like(hessian)
    for i in range(edges[-1]):
        row = [e[[i]] for e in basis]
        expected[i] = np.concatenate(central(lambda x: layer.vjp(layer.forward(*x)[1], *c), theta, row), -1)
    assert relative(hessian, hessian.T) <= 1e-12
    assert relative(hessian, expected) <= 1e-8


@pytest.mark.parametrize("name", ["qp", "socp", "psd_variable", "geometric"])
def test_many_directions_share_one_saved_item(name):
    _, layer, _, _, saved = compiled(name)
    s, t, c = (list(d) for d in directions(layer, batch=3))
    for k in range(3):
        one = [[a[[k]] for a in d] for d in (s, t, c)]
        assert largest([a[[k]] for a in layer.jvp2(saved, s, t)], layer.jvp2(saved, one[0], one[1])) <= 1e-12
        assert largest([a[[k]] for a in layer.vjp2(saved, t, c)], layer.vjp2(saved, one[1], one[2])) <= 1e-12


@pytest.mark.parametrize("name", ["qp", "socp", "psd_variable", "logistic"])
def test_large_systems_have_the_same_second_derivatives(name, monkeypatch):
    case, layer, theta, _, saved = compiled(name)
    factored(monkeypatch)
    large = ConeLayer(case.problem, case.parameters, case.variables)
    _, own = large.forward(*theta)
    s, t, c = directions(layer)
    assert largest(large.jvp2(own, s, t), layer.jvp2(saved, s, t)) <= 1e-9
    assert largest(large.vjp2(own, t, c), layer.vjp2(saved, t, c)) <= 1e-9


def test_one_factorization_serves_all_solves_of_a_second_derivative(monkeypatch):
    without_engine(monkeypatch)
    n = 200
    b, w, x = cp.Parameter(n), cp.Parameter(nonneg=True), cp.Variable(n)
    layer = ConeLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x - b) + w * cp.sum_squares(x[1:] - x[:-1])), [x >= 0]), [b, w], [x]
    )
    rng = np.random.default_rng(0)
    _, saved = layer.forward(rng.standard_normal((1, n)), np.ones((1, 1)))
    factors, made = linsolve.ItemFactors, []
    monkeypatch.setattr("cvxlayers.derivatives.implicit.ItemFactors", lambda *a: made.append(1) or factors(*a))
    _, t, c = directions(layer)
    layer.vjp2(saved, t, c)
    assert len(made) == 1


def test_units_do_not_change_second_derivatives():
    b, x = cp.Parameter(3), cp.Variable(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.norm(x - b) + cp.sum_squares(x) / 1e6), [cp.norm(x) <= 1e6]), [b], [x])
    small = ConeLayer(cp.Problem(cp.Minimize(cp.norm(x - b) + cp.sum_squares(x)), [cp.norm(x) <= 1]), [b], [x])
    value = np.array([[1.5, 2.0, -1.0]])
    t = np.random.default_rng(0).standard_normal((1, 3))
    _, large_saved = layer.forward(1e6 * value)
    _, saved = small.forward(value)
    (found,), (expected,) = layer.jvp2(large_saved, [t], [t]), small.jvp2(saved, [t], [t])
    assert relative(1e6 * found, expected) <= 1e-9 and np.abs(expected).max() > 1e-2


KINK_LAYERS = {  # constraints, b at the kink, a step to the documented side
    "nonneg": (lambda x: [x >= 0], [0.0, 1.0, -1.0], [1.0, 0, 0]),
    "soc, boundary": (lambda x: [cp.SOC(x[0], x[1:])], [5.0, 3.0, 4.0], [1.0, 0, 0]),  # x = b inside of the cone
    "soc, boundary of the polar": (lambda x: [cp.SOC(x[0], x[1:])], [-5.0, 3.0, 4.0], [1.0, 0, 0]),  # x moves, not 0
    "soc, apex": (lambda x: [cp.SOC(x[0], x[1:])], [0.0, 0.0, 0.0], [1.0, 0, 0]),
    "exp, boundary": (lambda x: [cp.ExpCone(x[0], x[1], x[2])], [0.0, 1.0, 1.0], None),  # rounding chooses the side
}


@pytest.mark.parametrize("name", KINK_LAYERS)
def test_a_layer_at_a_kink_has_the_second_derivative_of_one_side(name):
    constraints, value, step = KINK_LAYERS[name]
    b, x = cp.Parameter(3), cp.Variable(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), constraints(x)), [b], [x])
    t = np.random.default_rng(0).standard_normal((1, 3))

    def second(value):
        _, saved = layer.forward(np.array([value]))
        return layer.jvp2(saved, [t], [t])[0], layer.vjp2(saved, [t], [t])[0]

    found = second(value)
    assert all(np.isfinite(a).all() for a in found)
    if step is not None:
        beside = second(np.array(value) + 1e-7 * np.array(step))
        assert all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(found, beside, strict=True))
    assert (np.abs(found[0]).max() > 1e-2) == (name == "soc, boundary of the polar")


def test_a_derivative_without_second_order_says_so():
    pytest.importorskip("diffcp", reason="the reference implementation is an optional package")
    case = CASES["socp"]()
    layer = ConeLayer(case.problem, case.parameters, case.variables, derivative="diffcp")
    assert not layer.second_order
