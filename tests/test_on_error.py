"""on_error="nan": bad items have NaN and zero gradients, and the others are exactly what they are without them."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from cvxlayers import ProblemError, SolverError
from cvxlayers.layer import ConeLayer

from .frameworks import FRAMEWORKS, numpy

# One batch: good, infeasible, NaN in b, wrong sign in u, good.
B = np.array([[0.5, 0.3], [9.0, 9.0], [0.1, np.nan], [0.2, 0.7], [0.2, 0.7]])
U = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [2.0, 2.0]])
GOOD, BAD = [0, 4], [1, 2, 3]


def problem():
    b, u, a, x = cp.Parameter(2), cp.Parameter(2, nonneg=True), cp.Parameter(), cp.Variable(2)
    rows = [x <= u, x >= -1, cp.sum(x) >= b[0]]
    return (
        cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.norm(x) + a * x[1]), rows),
        [b, u, a],
        [x, rows[2].dual_variables[0]],
    )


def weighted(fw, layer, weights, **options):
    """A loss that is finite: it reads the good items."""

    def loss(*values):
        x, y = layer(*values, **options)
        return fw.dot(x[0], weights[0]) + fw.dot(x[-1], weights[1]) + fw.dot(y[0], np.array(0.3))

    return loss


@pytest.mark.parametrize("per_call", [False, True], ids=["construction", "call"])
@pytest.mark.parametrize("solver", [None, "moreau", "clarabel", "scs"])
def test_good_items_are_those_of_a_batch_without_the_bad_ones(fw, solver, per_call):
    weights = np.random.default_rng(0).standard_normal((2, 2))
    options = {"on_error": "nan"}
    layer = fw.module.CvxpyLayer(*problem(), solver=solver, **({} if per_call else options))
    options = options if per_call else {}
    alone = fw.module.CvxpyLayer(*problem(), solver=solver)
    values = [fw.array(B), fw.array(U), fw.array(0.1)]
    subset = [fw.array(B[GOOD]), fw.array(U[GOOD]), fw.array(0.1)]
    for out, expected in zip(layer(*values, **options), alone(*subset), strict=True):
        assert np.isnan(numpy(out)[BAD]).all()
        np.testing.assert_allclose(numpy(out)[GOOD], numpy(expected), rtol=0, atol=1e-12)
    found = fw.gradients(weighted(fw, layer, weights, **options), values)
    expected = fw.gradients(weighted(fw, alone, weights), subset)
    for k in (0, 1):
        assert not numpy(found[k])[BAD].any()
        np.testing.assert_allclose(numpy(found[k])[GOOD], numpy(expected[k]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(numpy(found[2]), numpy(expected[2]), rtol=0, atol=1e-12)  # the sum over the good ones


def test_cotangents_of_bad_items_do_not_count(fw):
    """The loss is NaN, the gradients are not."""
    layer = fw.module.CvxpyLayer(*problem(), on_error="nan")
    values = [fw.array(B), fw.array(U), fw.array(0.1)]
    gradients = fw.gradients(lambda *v: fw.dot(layer(*v)[0] ** 2, np.ones((5, 2))), values)
    assert all(np.isfinite(numpy(g)).all() for g in gradients)
    assert numpy(gradients[0])[GOOD].any() and not numpy(gradients[0])[BAD].any()


@pytest.mark.parametrize("value", ["raise", "nan"])
def test_calls_override_the_construction(fw, value):
    layer = fw.module.CvxpyLayer(*problem(), on_error={"raise": "nan", "nan": "raise"}[value])
    values = [fw.array(B[:2]), fw.array(U[:2]), fw.array(0.1)]
    if value == "nan":
        assert np.isnan(numpy(layer(*values, on_error=value)[0])[1]).all()
    with pytest.raises(SolverError, match="item 1: infeasible"):
        layer(*values, on_error="raise")
    with pytest.raises(ProblemError, match="on_error is 'ignore'; expected 'raise' or 'nan'"):
        layer(*values, on_error="ignore")


def test_compiled_code():
    b, u = torch.tensor(B, requires_grad=True), torch.tensor(U)
    expected = FRAMEWORKS["torch"].module.CvxpyLayer(*problem(), on_error="nan")(b.detach(), u, 0.1)[0].numpy()
    with jax.enable_x64(True):
        layer = FRAMEWORKS["jax"].module.CvxpyLayer(*problem(), on_error="nan")
        f = jax.jit(jax.vmap(lambda b, u: layer(b, u, 0.1)[0]))
        np.testing.assert_array_equal(f(B, U), expected)
        g = jax.jit(jax.vmap(jax.grad(lambda b, u: layer(b, u, 0.1)[0].sum())))(B, U)
        assert np.isfinite(g).all() and not g[jnp.array(BAD)].any() and g[0].any()
        H = jax.jit(jax.vmap(jax.hessian(lambda b, u: (layer(b, u, 0.1)[0] ** 2).sum())))(B, U)
        assert np.isfinite(H).all() and not H[jnp.array(BAD)].any() and H[0].any()
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem())
    compiled = torch.compile(lambda b, u: layer(b, u, 0.1, on_error="nan")[0], fullgraph=True, backend="aot_eager")
    out = compiled(b, u)
    out.nansum().backward()
    np.testing.assert_array_equal(out.detach(), expected)
    assert b.grad.isfinite().all() and not b.grad[BAD].any() and b.grad[0].any()
    layer = FRAMEWORKS["tensorflow"].module.CvxpyLayer(*problem(), on_error="nan")
    np.testing.assert_array_equal(tf.function(lambda b, u: layer(b, u, tf.constant(0.1, tf.float64))[0])(B, U), expected)


def test_a_shared_bad_value_makes_all_items_bad(fw):
    layer = fw.module.CvxpyLayer(*problem(), on_error="nan")
    x, y = layer(fw.array(B[GOOD]), fw.array(U[GOOD]), fw.array(np.nan))
    assert np.isnan(numpy(x)).all() and np.isnan(numpy(y)).all() and numpy(x).shape == (2, 2)


def test_a_bad_value_of_a_parameter_without_effect(fw):
    b, k, x = cp.Parameter(2), cp.Parameter(), cp.Variable(2)
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + k)), [b, k], [x], on_error="nan")
    (out,) = layer(fw.array(np.ones(2)), fw.array(np.array([1.0, np.nan, 2.0])))
    np.testing.assert_allclose(numpy(out), [[1, 1], [np.nan, np.nan], [1, 1]], atol=1e-12)


def test_unbounded_indefinite_and_geometric_items():
    c, x = cp.Parameter(2), cp.Variable(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], on_error="nan")
    (out,), _ = layer.forward(np.array([[1.0, 1.0], [1.0, -1.0]]))
    np.testing.assert_allclose(out, [[0, 0], [np.nan, np.nan]], atol=1e-9)

    P, q, y = cp.Parameter((2, 2), PSD=True), cp.Parameter(2), cp.Variable(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.quad_form(y, P) + q @ y)), [P, q], [y], on_error="nan")
    (out,), _ = layer.forward(np.array([[1.0, 0, 0, 1], [1, 0, 0, -1], [np.inf, 0, 0, 1]]), np.ones((1, 2)))
    np.testing.assert_allclose(out, [[-0.5, -0.5], [np.nan] * 2, [np.nan] * 2], atol=1e-12)

    a, z = cp.Parameter(pos=True), cp.Variable(pos=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(1 / z), [a * z <= 2]), [a], [z], gp=True, on_error="nan")
    (out,), saved = layer.forward(np.array([[1.0], [-1.0], [4.0]]))
    np.testing.assert_allclose(out, [[2], [np.nan], [0.5]], atol=1e-9)
    np.testing.assert_allclose(layer.vjp(saved, np.ones((3, 1)))[0], [[-2], [0], [-1 / 8]], atol=1e-9)


def test_the_reference_derivative():
    pytest.importorskip("diffcp", reason="the reference implementation is an optional package")
    layer = ConeLayer(*problem(), on_error="nan", derivative="diffcp")
    exact = ConeLayer(*problem(), on_error="nan")
    theta = B, U, np.full((1, 1), 0.1)
    (out, _), saved = layer.forward(*theta)
    c = [np.where(np.isnan(out), np.nan, 1.0), np.zeros((5, 1))]
    for a, b in zip(layer.vjp(saved, *c), exact.vjp(exact.forward(*theta)[1], *c), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    tangents = np.full((5, 2), np.nan), np.ones((1, 2)), np.ones((1, 1))
    tangents[0][GOOD] = 1.0
    (found, _), (expected, _) = layer.jvp(saved, *tangents), exact.jvp(exact.forward(*theta)[1], *tangents)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not found[BAD].any()


def test_large_systems():
    n = 200
    b, x = cp.Parameter(n), cp.Variable(n)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0, cp.sum(x) <= b[0]]), [b], [x], on_error="nan")
    value = np.random.default_rng(0).random((3, n))
    value[1, 0] = -1.0
    (out,), saved = layer.forward(value)
    (alone,), own = layer.forward(value[[0, 2]])
    np.testing.assert_allclose(out[[0, 2]], alone, atol=1e-12)
    assert np.isnan(out[1]).all()
    c = np.random.default_rng(1).standard_normal((3, n))
    g = layer.vjp(saved, c)[0]
    np.testing.assert_allclose(g[[0, 2]], layer.vjp(own, c[[0, 2]])[0], atol=1e-12)
    assert not g[1].any()
