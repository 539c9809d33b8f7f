"""The contract of every function of the ready-made layers: values, derivatives, batches, transformations of the frameworks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import cvxlayers.torch
from cvxlayers import ShapeError, sets

from .frameworks import FRAMEWORKS, numpy
from .function_cases import CASES

WEIGHTS = np.random.default_rng(5)


def of(case, framework):
    """The function with its options, whose results are a tuple."""
    module = FRAMEWORKS[framework].module
    own = functools.partial(case.call, module) if case.call else getattr(module, case.function)
    function = functools.partial(own, **case.options)

    def results(*args):
        out = function(*args)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)

    return results


def arrays(framework, args, dtype=None):
    return [FRAMEWORKS[framework].array(a, dtype if np.asarray(a).dtype.kind == "f" else None) for a in args]


def values(case, framework, args, dtype=None):
    with FRAMEWORKS[framework].session():
        return [numpy(o) for o in of(case, framework)(*arrays(framework, args, dtype))]


def weights(outputs):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(o.shape) for o in outputs]


def loss(case, framework, args):
    """The loss as a function of the arguments with derivatives."""
    fw, places = FRAMEWORKS[framework], case.varying()
    fixed = dict(enumerate(arrays(framework, args)))

    def function(*moving):
        outputs = of(case, framework)(*{**fixed, **dict(zip(places, moving, strict=True))}.values())
        return sum(fw.dot(o, w) for o, w in zip(outputs, weights([np.empty(tuple(o.shape)) for o in outputs]), strict=True))

    return function


def gradients(case, framework, args):
    with FRAMEWORKS[framework].session():
        moving = arrays(framework, [args[i] for i in case.varying()])
        return [numpy(g) for g in FRAMEWORKS[framework].gradients(loss(case, framework, args), moving)]


def differences(case, args, e=1e-6):
    """The same gradients by central differences."""
    found = []
    for i in case.varying():
        g = np.zeros(args[i].shape)
        for j in np.ndindex(args[i].shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a, copy=True) for a in args]
                moved[i][j] += sign * e
                out = values(case, "torch", moved)
                ends.append(sum((w * o).sum() for w, o in zip(weights(out), out, strict=True)))
            g[j] = (ends[0] - ends[1]) / (2 * e)
        found.append(g)
    return found


def close(found, expected, tolerance):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= tolerance * (1 + np.abs(b).max(initial=0))


each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
other = pytest.mark.parametrize("framework", ["jax", "tensorflow"])


@each
@other
def test_frameworks_agree(case, framework):
    for args in (case.items[0], case.batch()):
        close(values(case, framework, args), values(case, "torch", args), 1e-9)
        close(gradients(case, framework, args), gradients(case, "torch", args), 1e-8)


@each
def test_gradients_are_those_of_differences(case):
    for args in case.items:
        close(gradients(case, "torch", args), differences(case, args), case.tolerance)


@each
def test_a_batch_is_its_items(case):
    batch = values(case, "torch", case.batch())
    for b, args in enumerate(case.items):
        close([o[b] for o in batch], values(case, "torch", args), 1e-9)
    deep = [np.stack([a, a])[:, None] for a in case.batch()]
    for o, single in zip(values(case, "torch", deep), batch, strict=True):
        assert o.shape == (2, 1, *single.shape)


@each
def test_the_gradient_of_a_shared_argument_is_the_sum(case):
    if len(case.items[0]) == 1:
        pytest.skip("there is nothing to share with")
    for place, i in enumerate(case.varying()):
        mixed = [(*item[:i], case.items[0][i], *item[i + 1 :]) for item in case.items]
        shared = gradients(case, "torch", case.batch(shared=(i,)))[place]
        stacked = case._replace(items=tuple(mixed))
        close([shared], [gradients(case, "torch", stacked.batch())[place].sum(0)], 1e-8)


@each
def test_an_axis_may_be_any(case):
    if not case.axis:
        pytest.skip("the function has no axis")
    batch = case.batch()
    expected = values(case, "torch", batch)
    for framework in FRAMEWORKS:
        name = "dim" if framework == "torch" else "axis"
        along = range(len(batch)) if case.along is None else case.along
        moved = [np.moveaxis(a, -1, 0) if a.ndim == 2 and i in along else a for i, a in enumerate(batch)]
        out = values(case._replace(options={**case.options, name: 0}), framework, moved)
        close([np.moveaxis(o, 0, -1) for o in out], expected, 1e-9)


@each
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_single_precision(case, framework):
    for o, exact in zip(values(case, framework, case.batch(), "float32"), values(case, "torch", case.batch()), strict=True):
        assert o.dtype == np.float32
        np.testing.assert_allclose(o, exact, atol=case.single * (1 + np.abs(exact).max()))


@each
def test_an_empty_batch(case):
    for framework in FRAMEWORKS:
        out = values(case, framework, [a[:0] for a in case.batch()])
        assert [o.shape[0] for o in out] == [0] * len(out)


@each
def test_torch_forward_mode_and_vmap(case):
    args = arrays("torch", case.batch())
    places, function = case.varying(), of(case, "torch")

    def moving(*own):
        return function(*{**dict(enumerate(args)), **dict(zip(places, own, strict=True))}.values())

    own = [args[i] for i in places]
    t = [torch.from_numpy(WEIGHTS.standard_normal(tuple(a.shape))) for a in own]
    out, dout = torch.func.jvp(moving, tuple(own), tuple(t))
    c = [torch.from_numpy(w) for w in weights(out)]
    leaves = [a.clone().requires_grad_() for a in own]
    back = torch.autograd.grad(moving(*leaves), leaves, c)
    left, right = (float(sum((a * b).sum() for a, b in zip(*pair, strict=True))) for pair in ((c, dout), (back, t)))
    assert left == pytest.approx(right, rel=1e-8, abs=1e-8)
    close([numpy(o) for o in torch.func.vmap(function)(*args)], [numpy(o) for o in out], 1e-9)
    jacobians = torch.func.vmap(torch.func.jacrev(function, tuple(places)))(*args)
    forward = torch.func.vmap(torch.func.jacfwd(function, tuple(places)))(*args)
    for a, b in zip(jacobians, forward, strict=True):
        close([numpy(j) for j in a], [numpy(j) for j in b], 1e-8)


@each
def test_torch_compile(case):
    args = arrays("torch", case.batch())
    places = case.varying()

    def total(*args):
        return sum((o * o).sum() for o in of(case, "torch")(*args))

    def both(function):
        leaves = [a.clone().requires_grad_(i in places) for i, a in enumerate(args)]
        out = function(*leaves)
        return [out.detach().numpy()], [g.numpy() for g in torch.autograd.grad(out, [leaves[i] for i in places])]

    torch._dynamo.reset()
    for found, expected in zip(both(torch.compile(total, fullgraph=True, backend="aot_eager")), both(total), strict=True):
        close(found, expected, 1e-9)


@each
def test_jax_transformations(case):
    with jax.enable_x64(True):
        args = arrays("jax", case.batch())
        function, places = of(case, "jax"), tuple(case.varying())
        expected = [numpy(o) for o in function(*args)]
        close([numpy(o) for o in jax.jit(function)(*args)], expected, 1e-9)
        close([numpy(o) for o in jax.vmap(function)(*args)], expected, 1e-9)

        def scalar(*args):
            return sum(jnp.sum(o * o) for o in function(*args))

        close(
            [numpy(g) for g in jax.jit(jax.vmap(jax.grad(scalar, places)))(*args)],
            [numpy(g) for g in jax.grad(scalar, places)(*args)],
            1e-9,
        )
        t = [jnp.asarray(WEIGHTS.standard_normal(args[i].shape)) for i in places]

        def moving(*own):
            return scalar(*{**dict(enumerate(args)), **dict(zip(places, own, strict=True))}.values())

        own = [args[i] for i in places]
        _, tangent = jax.jvp(moving, own, t)
        grads = jax.grad(moving, tuple(range(len(own))))(*own)
        assert float(tangent) == pytest.approx(
            float(sum((g * d).sum() for g, d in zip(grads, t, strict=True))), rel=1e-8, abs=1e-8
        )


@each
def test_tensorflow_graphs(case):
    args = arrays("tensorflow", case.batch())
    signature = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in args]
    graph = tf.function(of(case, "tensorflow"), input_signature=signature)
    close([numpy(o) for o in graph(*args)], values(case, "torch", case.batch()), 1e-9)


@each
def test_second_derivatives_are_right_or_raise(case):
    args, i = arrays("torch", case.items[0]), case.varying()[0]

    def scalar(a):
        return sum((o**2).sum() for o in of(case, "torch")(*args[:i], a, *args[i + 1 :]))

    if not case.second:
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.func.hessian(scalar)(args[i])
        return
    t = torch.from_numpy(WEIGHTS.standard_normal(tuple(args[i].shape)))
    e, gradient = 1e-6, torch.func.grad(scalar)
    expected = (gradient(args[i] + e * t) - gradient(args[i] - e * t)) / (2 * e)
    _, along = torch.func.jvp(gradient, (args[i],), (t,))
    close([numpy(along)], [numpy(expected)], 10 * case.tolerance)


@pytest.mark.parametrize("name", ["sparsemax", "constrained_softmax", "lml", "sparse_topk", "sinkhorn", "project"])
def test_vectors_without_entries(name):
    more = {"constrained_softmax": (1.0,), "lml": (0,), "sparse_topk": (0,), "project": (sets.Simplex(),)}.get(name, ())
    with pytest.raises(ShapeError, match=r"of an array of shape \(0, 0\) has the length 0; expected at least 1"):
        getattr(cvxlayers.torch, name)(torch.zeros(0, 0), *more)
