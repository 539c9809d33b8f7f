"""Warm starts: the same solutions, from the info of another call, in every framework; a bad start does no harm."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from cvxlayers import ProblemError

from .frameworks import FRAMEWORKS, numpy
from .test_on_error import GOOD, B, U, problem

NEAR = B[GOOD] + 1e-3
WARM = ["warm start", "warm start"]


@pytest.mark.parametrize("solver", [None, "scs", "clarabel"])
def test_a_start_nearby_is_refined_to_the_same_solution(fw, solver):
    layer = fw.module.CvxpyLayer(*problem(), solver=solver)
    u, a = fw.array(U[GOOD]), fw.array(0.1)
    _, start = layer(fw.array(B[GOOD]), u, a, return_info=True)
    values = [fw.array(NEAR), u, a]
    cold, warm = layer(*values), layer(*values, warm_start=start)
    for x, y in zip(warm, cold, strict=True):
        np.testing.assert_allclose(numpy(x), numpy(y), atol=1e-13)
    _, info = layer(*values, warm_start=start, return_info=True)
    assert info.solver_names.tolist() == WARM and (numpy(info.iterations) <= 4).all()
    w = np.random.default_rng(0).standard_normal((2, 2))
    warm = fw.gradients(lambda *v: fw.dot(layer(*v, warm_start=start)[0], w), values)
    for g, h in zip(warm, fw.gradients(lambda *v: fw.dot(layer(*v)[0], w), values), strict=True):
        np.testing.assert_allclose(numpy(g), numpy(h), atol=1e-11)


@pytest.mark.parametrize("start", ["far", "nan", "zero", "huge"])
@pytest.mark.parametrize("solver", [None, "scs"])
def test_a_bad_start_does_no_harm(fw, start, solver):
    layer = fw.module.CvxpyLayer(*problem(), solver=solver)
    values = [fw.array(B[GOOD]), fw.array(U[GOOD]), fw.array(0.1)]
    (x, y), info = layer(*values, return_info=True)
    rng, size = np.random.default_rng(0), {"far": 1.0, "nan": np.nan, "zero": 0.0, "huge": 1e200}[start]
    state = {k: fw.array(size * rng.standard_normal(numpy(getattr(info, k)).shape)) for k in "xys"}
    (again, dual), _ = layer(*values, warm_start=info._replace(**state), return_info=True)
    np.testing.assert_allclose(numpy(again), numpy(x), atol=1e-12)
    np.testing.assert_allclose(numpy(dual), numpy(y), atol=1e-12)


def test_a_problem_without_rows_and_an_empty_batch(fw):
    q, z = cp.Parameter(2), cp.Variable(2)
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(z) - q @ z)), [q], [z])
    for size in (3, 0):
        values = np.arange(2.0 * size).reshape(size, 2)
        _, start = layer(fw.array(values), return_info=True)
        assert numpy(start.y).shape == (size, 0)
        (out,), info = layer(fw.array(values), return_info=True, warm_start=start)
        np.testing.assert_allclose(numpy(out), values, atol=1e-14)
        assert info.solver_names.tolist() == ["warm start"] * size


def test_failures_are_found_from_a_warm_start_too(fw):
    layer = fw.module.CvxpyLayer(*problem(), on_error="nan")
    values = [fw.array(B), fw.array(U), fw.array(0.1)]
    (x, _), start = layer(*values, return_info=True)
    (again, _), info = layer(*values, warm_start=start, return_info=True)
    np.testing.assert_array_equal(numpy(info.status), numpy(start.status))
    np.testing.assert_allclose(numpy(again), numpy(x), atol=1e-13)


def test_one_start_for_a_batch_and_a_batch_of_starts_for_one(fw):
    layer = fw.module.CvxpyLayer(*problem())
    u, a = fw.array(U[0]), fw.array(0.1)
    _, one = layer(fw.array(B[0]), u, a, return_info=True)
    (x, _), info = layer(fw.array(NEAR), u, a, warm_start=one, return_info=True)
    np.testing.assert_allclose(numpy(x), numpy(layer(fw.array(NEAR), u, a)[0]), atol=1e-13)
    (y, _) = layer(fw.array(B[0]), u, a, warm_start=info)
    np.testing.assert_allclose(numpy(y), np.tile(numpy(layer(fw.array(B[0]), u, a)[0]), (2, 1)), atol=1e-13)


def test_what_is_no_start_is_refused(fw):
    layer = fw.module.CvxpyLayer(*problem())
    values = [fw.array(B[GOOD]), fw.array(U[GOOD]), fw.array(0.1)]
    (x, _), info = layer(*values, return_info=True)
    with pytest.raises(ProblemError, match=r"warm_start is a .*; expected the info that a call with return"):
        layer(*values, warm_start=x)
    p, z = cp.Parameter(3), cp.Variable(3)
    other = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(z - p)), [z >= 0]), [p], [z])
    with pytest.raises(ProblemError, match=r"warm_start is of another problem, with .*; expected the info of this layer"):
        other(fw.array(np.ones(3)), warm_start=info)


def test_compiled_loops():
    """Training loops that carry the info of the last step, compiled."""
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem())
    b, u = torch.tensor(B[GOOD]), torch.tensor(U[GOOD])

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(b, info):
        (x, _), info = layer(b, u, 0.1, warm_start=info, return_info=True)
        return b + 1e-3 * x, info

    _, info = layer(b, u, 0.1, return_info=True)
    for _ in range(3):
        b, info = step(b, info)
    assert info.solver_names.tolist() == WARM
    expected = b.numpy()
    with jax.enable_x64(True):
        layer = FRAMEWORKS["jax"].module.CvxpyLayer(*problem())

        def body(carry, _):
            b, info = carry
            (x, _), info = jax.vmap(lambda b, u, i: layer(b, u, 0.1, warm_start=i, return_info=True))(
                b, jnp.array(U[GOOD]), info
            )
            return (b + 1e-3 * x, info), info.solver

        _, info = layer(B[GOOD], U[GOOD], 0.1, return_info=True)
        (b, info), solvers = jax.jit(lambda c: jax.lax.scan(body, c, None, length=3))((jnp.array(B[GOOD]), info))
        assert not solvers.any() and info.solver_names.tolist() == WARM
        np.testing.assert_allclose(b, expected, atol=1e-13)
    layer = FRAMEWORKS["tensorflow"].module.CvxpyLayer(*problem())
    a = tf.constant(0.1, tf.float64)

    @tf.function
    def tf_step(b, info):
        (x, _), info = layer(b, U[GOOD], a, warm_start=info, return_info=True)
        return b + 1e-3 * x, info

    b = tf.constant(B[GOOD])
    _, info = layer(b, U[GOOD], a, return_info=True)
    for _ in range(3):
        b, info = tf_step(b, info)
    assert info.solver_names.tolist() == WARM
    np.testing.assert_allclose(b, expected, atol=1e-13)


def test_a_chain_of_warm_starts_keeps_no_graph():
    """The state has no derivatives: the graph of a step does not hold those of the steps before."""
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem())
    b = torch.tensor(B[GOOD], requires_grad=True)
    _, info = layer(b, torch.tensor(U[GOOD]), 0.1, return_info=True)
    assert info.objective.requires_grad
    assert not any(a.requires_grad for name, a in info._asdict().items() if name != "objective")
