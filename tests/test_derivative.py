"""The derivative of the conic layer: adjoint law, central differences of refined solutions, linearity at every scale."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import linsolve
from cvxlayers.layer import ConeLayer

from .problems import CASES, POLYHEDRAL, SECOND_ORDER
from .support import compiled, factored, relative, tangents, without_engine

RNG = np.random.default_rng(1)
PRECISE = {f.__name__ for f in (*POLYHEDRAL, *SECOND_ORDER)}


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("scale_c", [1.0, 1e-12])
@pytest.mark.parametrize("name", CASES)
def test_adjoint_law(name, scale_c):
    _, layer, _, outputs, saved = compiled(name)
    t = tangents(layer)
    c = [scale_c * RNG.standard_normal(o.shape) for o in outputs]
    forward, backward = layer.jvp(saved, *t), layer.vjp(saved, *c)
    size = sum(np.abs(x * y).sum() for x, y in zip(c, forward, strict=True))
    assert abs(inner(c, forward) - inner(backward, t)) <= 1e-12 * size


@pytest.mark.parametrize("name", CASES)
def test_central_differences_of_refined_solutions(name):
    _, layer, theta, _, saved = compiled(name)
    t = tangents(layer)
    difference = []
    for e in (1e-4, 5e-5):
        up, down = (layer.forward(*(x + s * e * d for x, d in zip(theta, t, strict=True)))[0] for s in (1, -1))
        difference.append([(a - b) / (2 * e) for a, b in zip(up, down, strict=True)])
    for coarse, fine, exact in zip(*difference, layer.jvp(saved, *t), strict=True):
        extrapolated = (4 * fine - coarse) / 3  # Richardson: what is left is the rounding of the solutions, divided by e
        assert relative(exact, extrapolated) <= (1e-9 if name in PRECISE else 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_linear_at_every_scale(name):
    _, layer, _, outputs, saved = compiled(name)
    c = [RNG.standard_normal(o.shape) for o in outputs]
    full = layer.vjp(saved, *c)
    for scale in (1e-12, 1e12):
        for a, b in zip(layer.vjp(saved, *(scale * x for x in c)), full, strict=True):
            assert relative(a / scale, b) <= 1e-10


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_items(name):
    _, layer, theta, *_ = compiled(name)
    scale = 1 + 1e-3 * np.arange(3)[:, None]
    if name == "lp":  # A x = b keeps its solution if A, b stay and c scales
        batch = [theta[0], theta[1], theta[2] * scale]
    else:
        batch = [theta[0] * scale, *theta[1:]]
    outputs, saved = layer.forward(*batch)
    c = [RNG.standard_normal(o.shape) for o in outputs]
    grads = layer.vjp(saved, *c)
    for i in range(3):
        out, own = layer.forward(*(b[[min(i, len(b) - 1)]] for b in batch))
        for a, b in zip(outputs, out, strict=True):
            assert relative(a[[i]], b) <= 1e-12
        for a, b in zip(grads, layer.vjp(own, *(x[[i]] for x in c)), strict=True):
            assert np.allclose(a[[i]], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["qp", "qp_quad_form", "socp", "psd_variable", "logistic", "mixed_cones", "lp"])
def test_large_systems_take_the_factored_path_to_the_same_derivative(name, monkeypatch):
    case, layer, theta, outputs, saved = compiled(name)
    factored(monkeypatch)
    large = ConeLayer(case.problem, case.parameters, case.variables)
    assert large.derivative.extra == ()
    out, own = large.forward(*theta)
    for a, b in zip(out, outputs, strict=True):
        assert relative(a, b) <= 1e-10
    c, t = [RNG.standard_normal((4, o.shape[-1])) for o in outputs], tangents(layer)
    for a, b in zip(large.vjp(own, *c), layer.vjp(saved, *c), strict=True):
        assert relative(a, b) <= 1e-9
    for a, b in zip(large.jvp(own, *t), layer.jvp(saved, *t), strict=True):
        assert relative(a, b) <= 1e-9


@pytest.mark.parametrize("engine", [True, False], ids=["engine", "without engine"])
def test_a_sparse_problem_beyond_the_dense_limit(monkeypatch, engine):
    if not engine:
        without_engine(monkeypatch)
    n = 400
    b, x = cp.Parameter(n), cp.Variable(n)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.sum_squares(x[1:] - x[:-1])), [x >= 0]), [b], [x])
    assert layer.structure.n + layer.structure.m > linsolve.DENSE
    value = RNG.standard_normal((1, n))
    (solution,), saved = layer.forward(value)
    c = RNG.standard_normal((1, n))
    (g,) = layer.vjp(saved, c)
    D = np.diff(np.eye(n), axis=0)
    active = solution[0] > 0
    H = (np.eye(n) + D.T @ D)[np.ix_(active, active)]  # on the support: H x = b
    expected = np.zeros(n)
    expected[active] = np.linalg.solve(H, c[0, active])
    assert relative(g[0], expected) <= 1e-10


def test_redundant_equalities_have_the_derivative_of_the_solution():
    A, b, c, x = cp.Parameter((3, 4)), cp.Parameter(3), cp.Parameter(4), cp.Variable(4)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x) + c @ x), [A @ x == b]), [A, b, c], [x])
    A0 = RNG.standard_normal((2, 4))
    A0 = np.vstack([A0, A0[0] + A0[1]])
    b0, c0 = A0 @ RNG.standard_normal(4), RNG.standard_normal(4)
    (out,), saved = layer.forward(A0.reshape(1, -1), b0[None], c0[None])
    pinv = np.linalg.pinv(A0)
    N = np.eye(4) - pinv @ A0
    assert np.allclose(out[0], pinv @ b0 - N @ c0 / 2, atol=1e-12)
    w = RNG.standard_normal((1, 4))
    gA, gb, gc = layer.vjp(saved, w)
    assert np.allclose(gc[0], -N @ w[0] / 2, atol=1e-12)
    assert np.allclose(gb[0], pinv.T @ w[0], atol=1e-12)  # least norm among all directions that agree on the range
    assert np.isfinite(gA).all()


def test_a_solution_that_is_not_unique_has_a_finite_derivative():
    c, x = cp.Parameter(3), cp.Variable(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(c[0] * x[0]), [x >= 0, x <= 1]), [c], [x])
    (out,), saved = layer.forward(np.ones((1, 3)))
    assert out[0, 0] == pytest.approx(0, abs=1e-9)
    assert np.isfinite(layer.vjp(saved, np.ones((1, 3)))[0]).all()


@pytest.mark.parametrize("name", ["qp", "socp", "soc_constraint", "psd_variable", "entropy", "logistic"])
def test_diffcp_agrees_as_far_as_it_is_accurate(name):
    pytest.importorskip("diffcp", reason="the reference implementation is an optional package")
    case, layer, theta, outputs, saved = compiled(name)
    reference = ConeLayer(case.problem, case.parameters, case.variables[:1], derivative="diffcp")
    (out,), own = reference.forward(*theta)
    assert relative(out, outputs[0]) <= 1e-8
    c = RNG.standard_normal(out.shape)
    ours = layer.vjp(saved, c, *(np.zeros_like(o) for o in outputs[1:]))
    for a, b in zip(reference.vjp(own, c), ours, strict=True):
        assert relative(a, b) <= 1e-5  # of SCS at 1e-12 and LSQR on the embedding; seen: 2e-6
    t = tangents(layer)
    assert relative(reference.jvp(own, *t)[0], layer.jvp(saved, *t)[0]) <= 1e-6
