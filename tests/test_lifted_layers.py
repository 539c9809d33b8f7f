"""Lifted problems as layers: batches, duals, second derivatives, copies, bad values, the frameworks, and CVXPY's traps."""

import copy
import pickle

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers.jax
import cvxlayers.torch
from cvxlayers import ProblemError
from cvxlayers.layer import ConeLayer

from . import lifted
from .support import central, flat, largest

RNG = np.random.default_rng(0)


def ellipsoid():
    """The projection of p on an ellipsoid with shape A and center z, and a budget that grows with |p|."""
    A, z, p, y = (
        cp.Parameter((3, 3), PSD=True, name="A"),
        cp.Parameter(3, name="z"),
        cp.Parameter(3, name="p"),
        cp.Variable(3, name="y"),
    )
    rows = [0.5 * cp.quad_form(y - z, A) <= 1, cp.sum(y) <= cp.norm(p) / 6]
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), rows), [p, A, z], [y, *(c.dual_variables[0] for c in rows)]


M = RNG.standard_normal((3, 3))
VALUES = [np.array([3.0, -1.0, 2.0]), M @ M.T + np.eye(3), np.array([0.2, 0.4, -0.1])]


def test_second_derivatives_of_the_core():
    layer = ConeLayer(*ellipsoid())
    theta = flat(VALUES)
    s, t = ([RNG.standard_normal(v.shape) for v in theta] for _ in range(2))
    outputs, saved = layer.forward(*theta)
    second = layer.jvp2(saved, s, t)
    assert largest(second, central(lambda at: layer.jvp(layer.forward(*at)[1], *t), theta, s)) <= 1e-7
    c = [RNG.standard_normal(o.shape) for o in outputs]
    left = sum((a * b).sum() for a, b in zip(c, second, strict=True))
    right = sum((a * b).sum() for a, b in zip(layer.vjp2(saved, t, c), s, strict=True))
    assert left == pytest.approx(right, rel=1e-10)


def test_a_batch_is_its_items():
    layer = ConeLayer(*ellipsoid())
    p, A, z = flat(VALUES)
    theta = [p * (1 + 0.1 * np.arange(4)[:, None]), A, z + 0.1 * RNG.standard_normal((4, 3))]
    outputs, saved = layer.forward(*theta)
    c, t = [RNG.standard_normal(o.shape) for o in outputs], [RNG.standard_normal(v.shape) for v in theta]
    grads, tangents = layer.vjp(saved, *c), layer.jvp(saved, *t)
    for i in range(4):
        own, state = layer.forward(theta[0][[i]], A, theta[2][[i]])
        for many, one in (
            (outputs, own),
            (grads, layer.vjp(state, *(a[[i]] for a in c))),
            (tangents, layer.jvp(state, t[0][[i]], t[1], t[2][[i]])),
        ):
            for a, b in zip(many, one, strict=True):
                np.testing.assert_allclose(a[[i]], b, rtol=1e-9, atol=1e-11)


def test_only_what_formulas_look_at_is_saved():
    layer = ConeLayer(*ellipsoid())
    assert layer.param_map.formulas.kept == (0, 1)  # norm(p) and the root of A; y - z needs no formula
    k = len(layer.derivative.needs)
    assert {s.inputs for s in layer.saved[:k]} == {(), (1,)}  # P is constant, and A of the program holds the root


def test_dual_variables_are_those_of_the_users_constraints():
    problem, parameters, variables = ellipsoid()
    layer = ConeLayer(problem, parameters, variables)
    (y, ball, budget), _ = layer.forward(*flat(VALUES))
    assert ball > 0.01 and budget > 0.01
    p, A, z = VALUES
    np.testing.assert_allclose(y[0] - p + ball[0] * A @ (y[0] - z) + budget[0], 0, atol=1e-9)  # stationarity
    assert all(c.dual_value is None for c in problem.constraints) and all(q.value is None for q in parameters)


def test_the_other_way_round():
    """The center is the variable."""
    A, z, y = cp.Parameter((3, 3), PSD=True), cp.Variable(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(z)), [0.5 * cp.quad_form(y - z, A) <= 1]), [A, y], [z])
    (out,), saved = layer.forward(*flat([np.diag([2.0, 2.0, 2.0]), [3.0, 0.0, 4.0]]))
    np.testing.assert_allclose(out[0], np.array([3, 0, 4]) * 0.8, atol=1e-9)  # a ball of radius 1 around y
    (gA, gy) = layer.vjp(saved, np.array([[0.6, 0, 0.8]]))
    np.testing.assert_allclose(gy[0], [0.6, 0, 0.8], atol=1e-9)
    np.testing.assert_allclose(gA.reshape(3, 3), np.outer([0.6, 0, 0.8], [0.6, 0, 0.8]) / 4, atol=1e-8)  # r = (2/a)^1/2


def test_a_singular_matrix_has_the_right_gradient():
    """min |y - p|^2, a y1^2 <= 2 and P = diag(a, 0): y1 = (2/a)^1/2, and all derivatives exist."""
    P, p, y = cp.Parameter((2, 2), PSD=True), cp.Parameter(2), cp.Variable(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - p)), [cp.quad_form(y, P) <= 2]), [P, p], [y])
    (out,), saved = layer.forward(*flat([np.diag([0.5, 0.0]), [5.0, 3.0]]))
    np.testing.assert_allclose(out[0], [2, 3], atol=1e-9)
    gP, gp = layer.vjp(saved, np.array([[1.0, 1.0]]))
    # y - p + 3Py = 0 and y'Py = 2: dy2 = -6 dP12 - 9 dP22, dy1 = -2 dP11 - 6 dP12 - 4.5 dP22
    expected = np.array([[-2.0, -6.0], [-6.0, -13.5]])
    np.testing.assert_allclose(gp[0], [0, 1], atol=1e-8)
    np.testing.assert_allclose(gP.reshape(2, 2), expected, rtol=1e-9)


def test_copies_and_digests():
    layer = ConeLayer(*ellipsoid())
    theta = flat(VALUES)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), ConeLayer(*ellipsoid())):
        assert other.fingerprint() == layer.fingerprint()
        assert str(other.lifted) == str(layer.lifted)
        np.testing.assert_array_equal(other.forward(*theta)[0][0], layer.forward(*theta)[0][0])
    prints = set()
    for bound in (cp.exp, cp.logistic, lambda b: cp.power(b, 3), lambda b: cp.power(b, 4), lambda b: 2 * cp.exp(b)):
        b, x = cp.Parameter(2, nonneg=True), cp.Variable(2)
        prints.add(ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= bound(b)]), [b], [x]).fingerprint())
    assert len(prints) == 5


def test_unpickled_layers_know_no_ids():
    """Ids of CVXPY objects start again in a new process, where those of unpickled ones clash silently."""
    data = pickle.dumps(ConeLayer(*ellipsoid()))
    assert b"cvxpy" not in data


def test_what_is_lifted_can_be_read():
    layer = cvxlayers.torch.CvxpyLayer(*ellipsoid())
    where = "in the constraint 0.5 * quad_form(y - z, A) <= 1.0"
    assert [repr(r) for r in layer.lifted] == [
        f"y - z {where} -> variable",
        f"quad_form(y - z, A) {where} -> sum_squares(R @ (y - z)), R'R = A",
        "norm(p, 2) / 6.0 in the constraint sum(y) <= norm(p, 2) / 6.0 -> parameter",
    ]


def test_values_outside_of_a_domain():
    b, x = cp.Parameter(2, name="b"), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= cp.log(b)])
    with pytest.raises(ProblemError, match=r"the expression log\(b\) has a value that is NaN or infinite, .* in batch items 1"):
        ConeLayer(problem, [b], [x]).forward(np.array([[1.0, 2.0], [1.0, -2.0]]))
    layer = ConeLayer(problem, [b], [x], on_error="nan")
    values = np.array([[1.0, 2.0], [1.0, -2.0], [np.nan, 1.0], [0.5, 0.0], [0.5, 3.0]])
    (out,), saved = layer.forward(values)
    good = [0, 4]
    np.testing.assert_allclose(out[good], np.minimum(np.log(values[good]), 1), atol=1e-12)
    assert np.isnan(out[1:4]).all()
    (g,) = layer.vjp(saved, np.where(np.isnan(out), np.nan, 1.0))
    np.testing.assert_allclose(g[good], [[1, 0.5], [2, 0]], atol=1e-9)
    assert not g[1:4].any()
    (d,) = layer.jvp(saved, np.ones((5, 2)))
    assert np.isfinite(d[good]).all() and not d[1:4].any()
    for second in (layer.jvp2(saved, (np.ones((5, 2)),), (np.ones((5, 2)),)), layer.vjp2(saved, (np.ones((5, 2)),), (out,))):
        assert np.isfinite(second[0][good]).all() and not second[0][1:4].any()


def test_values_that_would_make_a_lifted_problem_nonconvex():
    S, x = cp.Parameter((2, 2), symmetric=True, name="S"), cp.Variable(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum(x)), [cp.quad_form(x, cp.psd_wrap(S)) <= 1]), [S], [x])
    layer.forward(np.array([[1.0, 0, 0, 1]]))
    with pytest.raises(ProblemError, match="root of psd_wrap"):
        layer.forward(np.array([[1.0, 0, 0, -1]]))
    q, F = cp.Parameter(name="q"), cp.Parameter((2, 2), name="F")
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.quad_over_lin(x, q)), [cp.sum(x) == 1]), [q], [x])
    with pytest.raises(ProblemError, match=r"counts as nonneg and has a value that is not nonnegative"):
        layer.forward(np.array([[-1.0]]))
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, cp.psd_wrap(F @ F)) + cp.sum(x)), [x >= -1])
    with pytest.raises(ProblemError, match=r"F @ F.* counts as PSD and has a value that is not positive semidefinite"):
        ConeLayer(problem, [F], [x]).forward(np.array([[0.0, 1.0, -1.0, 0.0]]))


def test_complex_variables():
    P, c, v = cp.Parameter((2, 2), PSD=True), cp.Parameter(2, complex=True), cp.Variable(2, complex=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(v)), [cp.quad_form(v - c, P) <= 1]), [P, c], [v])
    (out,), saved = layer.forward(*flat([np.eye(2) / 4, np.array([3.0, 4j])]))
    np.testing.assert_allclose(out[0], [3 * 0.6, 0, 0, 4 * 0.6], atol=1e-9)  # a ball of radius 2 around c, |c| = 5
    gP, gc = layer.vjp(saved, np.array([[0.6, 0, 0, 0.8]]))
    np.testing.assert_allclose(gc, [[0.6, 0, 0, 0.8]], atol=1e-9)
    assert gP.sum() == pytest.approx(4 * (0.36 + 0.64), abs=1e-8)  # the radius is p^-1/2 for P = pI, its slope -4 at p = 1/4


@pytest.mark.parametrize("solver", ["ecos", "scs", "clarabel"])
def test_a_quadratic_form_for_solvers_that_take_none(solver):
    P, q, x = cp.Parameter((2, 2), PSD=True), cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x), [x <= 10])
    layer = ConeLayer(problem, [P, q], [x], solver=solver)
    assert bool(layer.lifted) == (solver == "ecos")
    P0, q0 = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])
    np.testing.assert_allclose(layer.forward(*flat([P0, q0]))[0][0][0], -np.linalg.solve(P0, q0), atol=1e-9)


def test_torch():
    layer = cvxlayers.torch.CvxpyLayer(*ellipsoid())
    p, A, z = map(torch.tensor, VALUES)
    assert torch.autograd.gradcheck(
        lambda p, A, z: layer(p, A @ A.T, z), [v.clone().requires_grad_() for v in (p, A, z)], atol=1e-6
    )

    def loss(p, z):
        return (layer(p, A, z)[0] ** 3).sum()

    H = torch.func.hessian(loss, argnums=(0, 1))(p, z)
    e = 1e-5
    for i in range(3):
        step = e * torch.eye(3, dtype=torch.float64)[i]
        up, down = (torch.func.grad(loss, argnums=(0, 1))(p + k * step, z) for k in (1, -1))
        for k in (0, 1):
            torch.testing.assert_close(H[k][0][:, i], (up[k] - down[k]) / (2 * e), rtol=1e-6, atol=1e-6)


def test_jax():
    with jax.enable_x64(True):
        layer = cvxlayers.jax.CvxpyLayer(*ellipsoid())
        p, A, z = map(jnp.asarray, VALUES)
        batch = p * (1 + 0.1 * jnp.arange(4)[:, None])
        f = jax.jit(
            jax.vmap(jax.value_and_grad(lambda p, A: (layer(p, A, z)[0] ** 2).sum(), argnums=(0, 1)), in_axes=(0, None))
        )
        value, (gp, gA) = f(batch, A)
        core = ConeLayer(*ellipsoid())
        outputs, saved = core.forward(np.asarray(batch), *flat(VALUES[1:]))
        grads = core.vjp(saved, 2 * outputs[0], *(0 * o for o in outputs[1:]))
        np.testing.assert_allclose(value, (outputs[0] ** 2).sum(-1), rtol=1e-12)
        np.testing.assert_allclose(gp, grads[0], rtol=1e-10)
        np.testing.assert_allclose(gA, grads[1].reshape(4, 3, 3), rtol=1e-10)


def test_a_constraint_listed_twice_counts_once():
    b, x = cp.Parameter(2), cp.Variable(2)
    row = x >= cp.abs(b)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum(x)), [row, row]), [b], [x, row.dual_variables[0]])
    assert layer.structure.m == 2
    (x0, y0), _ = layer.forward(np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(x0[0], [1, 2], atol=1e-9)
    np.testing.assert_allclose(y0[0], [1, 1], atol=1e-9)


def test_a_variable_without_effect_does_no_harm():
    b, x, w = cp.Parameter(2), cp.Variable(2), cp.Variable(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - cp.exp(b)) + 0 * cp.sum(w))), [b], [x, w])
    (out, free), saved = layer.forward(np.array([[0.5, -0.5]]))
    np.testing.assert_allclose(out[0], np.exp([0.5, -0.5]), atol=1e-12)
    assert np.isfinite(free).all()
    np.testing.assert_allclose(layer.vjp(saved, np.ones((1, 2)), np.zeros((1, 2)))[0], np.exp([[0.5, -0.5]]), atol=1e-12)


x, X, v, t = cp.Variable(3, name="x"), cp.Variable((2, 2), name="X"), cp.Variable(), cp.Variable(nonneg=True)
g, h, b, F = cp.Parameter(pos=True, name="g"), cp.Parameter(name="h"), cp.Parameter(2, name="b"), cp.Parameter((2, 2), name="F")
SET = cp.Parameter(value=1.0)
REFUSED = {
    "kron": (cp.sum_squares(cp.kron(F, X)), [], r"kron\(F, X\).* write it as cp.reshape\(K @ cp.vec\(v, order='F'\), \(4, 4\)"),
    "convolve": (cp.sum_squares(cp.convolve(b, x)), [], r"convolve\(b, x\).* K = cp.Parameter\(\(4, v.size\)\)"),
    "perspective": (cp.perspective(cp.square(v) + h * v, t), [t >= 1], "write the function out"),
    "no formula": (cp.sum_squares(x), [x >= cp.lambda_max(F + F.T) * cp.exp(h)], "before the call, in the framework"),
    "huber": (cp.sum(cp.huber(x, cp.exp(cp.lambda_max(F + F.T)))), [], "one new parameter"),
    "exponent": (-x[2], [cp.PowCone3D(x[0], x[1], x[2], cp.exp(-SET)), x <= 1], "freezes"),
    "finite set": (cp.sum_squares(x), [cp.FiniteSet(g * h * x[0], [1.0, 2.0])], "finite set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lifted_is_an_error_with_a_rewrite(name):
    objective, constraints, message = REFUSED[name]
    problem = cp.Problem(cp.Minimize(objective), constraints)
    with pytest.raises(ProblemError, match=message):
        ConeLayer(problem, problem.parameters(), problem.variables()[:1])


def test_the_rewrite_of_a_kronecker_product_works():
    K = cp.Parameter((16, 4))
    rewritten = cp.reshape(K @ cp.vec(X, order="F"), (4, 4), order="F")
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(rewritten - 1))), [K], [X])
    F0 = np.array([[1.0, 2.0], [0.5, -1.0]])
    matrix = np.stack([np.kron(F0, E).ravel("F") for E in np.eye(4).reshape(4, 2, 2).swapaxes(1, 2)], 1)
    (out,), _ = layer.forward(matrix.reshape(1, -1))
    best = np.linalg.lstsq(matrix, np.ones(16), rcond=None)[0]
    np.testing.assert_allclose(out.reshape(2, 2), best.reshape(2, 2, order="F"), atol=1e-10)


@pytest.mark.parametrize("name", lifted.NAMES)
def test_the_users_problem_stays_as_it_is(name):
    problem, parameters, variable, _ = lifted.problem(name)
    before = str(problem), [c.id for c in problem.constraints], [id(c) for c in problem.constraints]
    ConeLayer(problem, parameters, [variable])
    assert before == (str(problem), [c.id for c in problem.constraints], [id(c) for c in problem.constraints])
    assert all(p.value is None for p in parameters)
