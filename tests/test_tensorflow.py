"""TensorFlow: every way to differentiate a layer, eager and in graphs, on the same few cases."""

import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest
import tensorflow as tf

from cvxlayers import ShapeError, SolverError
from cvxlayers.layer import ConeLayer
from cvxlayers.tensorflow import CvxpyLayer, jvp, lift

from .conic import ROWS, conic
from .custom_maps import Cube, Product, SmoothCube
from .problems import CASES
from .support import Calculus, batch_size, central, largest


class QP:
    """One output of the QP as a function of p, a loss with random weights, and the same in NumPy."""

    def __init__(self):
        case = CASES["qp"]()
        self.layer = CvxpyLayer(case.problem, case.parameters, case.variables)
        self.values = self.L, self.p, self.G, self.h = [tf.constant(v) for v in case.values]
        rng = np.random.default_rng(0)
        self.w, self.t = tf.constant(rng.standard_normal(5)), tf.constant(rng.standard_normal(5))
        calculus = Calculus(self.layer._handle.map, case.values, self.w)
        self.solution, self.jacobian, self.expected_gradient = calculus.solution, calculus.jacobian, calculus.gradient
        self.batch = self.p + 0.1 * rng.standard_normal((4, 5))

    def f(self, p):
        return self.layer(self.L, p, self.G, self.h)[0]

    def loss(self, *values):
        return tf.reduce_sum(tf.sin(self.layer(*values)[0]) * self.w)

    def gradient(self, *values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = self.loss(*values)
        return tape.gradient(loss, values)


@pytest.fixture(scope="module")
def qp():
    return QP()


def _taped(qp, value, use, persistent=False):
    with tf.GradientTape(persistent=persistent) as tape:
        tape.watch(value)
        x = qp.f(value)
    return use(tape, x, value)


def _recompute(qp):
    with tf.GradientTape() as tape:
        tape.watch(qp.p)
        loss = tf.recompute_grad(lambda p: qp.loss(qp.L, p, qp.G, qp.h))(qp.p)
    return tape.gradient(loss, qp.p)


def _each(function):
    return lambda qp: np.stack([function(qp)(p) for p in qp.batch])


TABLE = {  # name: (a TensorFlow function of the QP, its value by NumPy)
    "call": (lambda qp: qp.f(qp.p), lambda qp: qp.solution(qp.p)),
    "batch": (lambda qp: qp.f(qp.batch), _each(lambda qp: qp.solution)),
    "gradient": (lambda qp: qp.gradient(*qp.values)[1], lambda qp: qp.expected_gradient(qp.p)),
    "gradient of a batch": (
        lambda qp: qp.gradient(qp.L, qp.batch, qp.G, qp.h)[1],
        _each(lambda qp: qp.expected_gradient),
    ),
    "gradient of what a batch shares": (
        lambda qp: qp.gradient(qp.L, qp.batch, qp.G, qp.h)[0],
        lambda qp: sum(qp.gradient(qp.L, p, qp.G, qp.h)[0] for p in qp.batch),
    ),
    "persistent tape": (
        lambda qp: _taped(
            qp, qp.p, lambda tape, x, p: tape.gradient(x, p) + tape.gradient(x, p, 2 * tf.ones_like(x)), persistent=True
        ),
        lambda qp: 3 * qp.jacobian(qp.p).sum(0),
    ),
    "jacobian": (
        lambda qp: _taped(qp, qp.p, lambda tape, x, p: tape.jacobian(x, p), persistent=True),
        lambda qp: qp.jacobian(qp.p),
    ),
    "jacobian without pfor": (
        lambda qp: _taped(qp, qp.p, lambda tape, x, p: tape.jacobian(x, p, experimental_use_pfor=False), persistent=True),
        lambda qp: qp.jacobian(qp.p),
    ),
    "batch_jacobian": (
        lambda qp: _taped(qp, qp.batch, lambda tape, x, p: tape.batch_jacobian(x, p), persistent=True),
        _each(lambda qp: qp.jacobian),
    ),
    "recompute_grad": (_recompute, lambda qp: qp.expected_gradient(qp.p)),
    "vectorized_map": (lambda qp: tf.vectorized_map(qp.f, qp.batch), _each(lambda qp: qp.solution)),
    "map_fn": (lambda qp: tf.map_fn(qp.f, qp.batch), _each(lambda qp: qp.solution)),
    "jvp": (lambda qp: jvp(qp.f, [qp.p], [qp.t])[1], lambda qp: qp.jacobian(qp.p) @ qp.t.numpy()),
    "while_loop": (
        lambda qp: tf.while_loop(lambda i, p: i < 2, lambda i, p: (i + 1, qp.f(p)), (0, qp.p))[1],
        lambda qp: qp.solution(qp.solution(qp.p)),
    ),
    "cond": (
        lambda qp: tf.cond(tf.reduce_sum(qp.p) > -1e9, lambda: qp.f(qp.p), lambda: qp.p),
        lambda qp: qp.solution(qp.p),
    ),
}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("name", TABLE)
def test_transformations(qp, name, graph):
    transform, expected = TABLE[name]
    found = tf.function(lambda: transform(qp))() if graph else transform(qp)
    assert found.dtype == tf.float64 and np.abs(expected(qp)).max() > 1e-3
    np.testing.assert_allclose(found, expected(qp), rtol=1e-9, atol=1e-10)


def test_float32(qp):
    single = [tf.cast(v, tf.float32) for v in qp.values]
    with tf.GradientTape() as tape:
        tape.watch(single)
        x = qp.layer(*single)[0]
    g = tape.gradient(x, single[1], tf.cast(qp.w, tf.float32))
    assert x.dtype == g.dtype == tf.float32
    np.testing.assert_allclose(g, qp.w.numpy() @ qp.jacobian(qp.p), rtol=1e-4, atol=1e-5)


def test_an_unknown_batch_size_is_one_trace(qp):
    spec = [tf.TensorSpec(qp.L.shape, tf.float64), tf.TensorSpec([None, 5], tf.float64)]
    spec += [tf.TensorSpec(qp.G.shape, tf.float64), tf.TensorSpec([None, 7], tf.float64)]

    @tf.function(input_signature=spec)
    def run(*values):
        return qp.layer(*values)[0], qp.gradient(*values)

    for batch in (qp.batch, qp.batch[:1], qp.batch[:0]):
        for h in (qp.h[None], tf.tile(qp.h[None], [len(batch), 1])):
            x, grads = run(qp.L, batch, qp.G, h)
            expected = qp.gradient(qp.L, batch, qp.G, h)
            np.testing.assert_allclose(x, qp.layer(qp.L, batch, qp.G, h)[0], atol=1e-12)
            for a, b in zip(grads, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-10)
    assert run.experimental_get_tracing_count() == 1
    assert run.get_concrete_function().output_shapes[0].as_list() == [None, 5]


def test_unknown_shapes(qp):
    def run(*shapes):
        spec = [tf.TensorSpec(shape, tf.float64) for shape in shapes]
        return tf.function(lambda *values: qp.layer(*values)[0], input_signature=spec)

    h = tf.tile(qp.h[None], [4, 1])
    expected = qp.layer(qp.L, qp.batch, qp.G, h)[0]
    for p in ([None, 5], [None, None], [4, None]):
        np.testing.assert_allclose(run([5, 5], p, [None, None], [4, 7])(qp.L, qp.batch, qp.G, h), expected, atol=1e-12)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[4,4\]"):
        run([5, 5], [None, None], [7, 5], [7])(qp.L, qp.batch[:, :4], qp.G, qp.h)
    with pytest.raises(Exception, match=r"ShapeError: .*unknown number of dimensions"):  # AutoGraph chooses the type
        run([5, 5], None, [7, 5], [7])(qp.L, qp.batch, qp.G, qp.h)


def test_a_batch_is_one_solve_and_so_is_a_jacobian(qp, monkeypatch):
    solves, forward = [], ConeLayer.forward
    monkeypatch.setattr(ConeLayer, "forward", lambda layer, *a: solves.append(batch_size(a)) or forward(layer, *a))
    tf.function(lambda: qp.gradient(qp.L, qp.batch, qp.G, qp.h))()
    assert solves == [4]
    _taped(qp, qp.p, lambda tape, x, p: tape.jacobian(x, p), persistent=True)
    assert solves == [4, 1]


# Second derivatives.


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("cone", ROWS)
def test_hessian_vector_products_are_differences_of_gradients(cone, graph):
    case = conic(cone)
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    values = [tf.constant(v) for v in case.values]
    rng = np.random.default_rng(0)
    d = [tf.constant(rng.standard_normal(v.shape)) for v in values]

    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = layer(*values)
            ramps = [np.linspace(1, 2, o.shape.num_elements()).reshape(o.shape) for o in outputs]
            loss = sum(tf.reduce_sum(tf.sin(o) * r) for o, r in zip(outputs, ramps, strict=True))
        return tape.gradient(loss, values)

    def tape_over_tape(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            product = sum(tf.reduce_sum(g * t) for g, t in zip(gradient(values), d, strict=True))
        return tape.gradient(product, values)

    found = {"tape over tape": (tf.function(tape_over_tape) if graph else tape_over_tape)(values)}

    def forward(values):
        return jvp(lambda *values: gradient(list(values)), values, d)[1]

    found["jvp of a gradient"] = (tf.function(forward) if graph else forward)(values)
    if not graph:
        with tf.autodiff.ForwardAccumulator(values, d) as accumulator:
            grads = gradient(values)
        found["forward over reverse"] = [accumulator.jvp(g) for g in grads]
    expected = central(gradient, values, d)
    for way, product in found.items():
        assert largest(product, expected) <= 1e-8, way


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
def test_third_derivatives_raise(qp, graph):
    def third(L):
        with tf.GradientTape() as t3:
            t3.watch(L)
            with tf.GradientTape() as t2:
                t2.watch(L)
                g = qp.gradient(L, qp.p, qp.G, qp.h)[0]
            h = t2.gradient(g, L)
        return t3.gradient(h, L)

    with pytest.raises(NotImplementedError, match="third derivatives"):
        (tf.function(third) if graph else third)(qp.L)


def test_the_gradient_of_a_hessian_vector_product_in_its_vector(qp):
    """Linear in the vector: no third derivative, although TensorFlow asks for the gradients of all arguments at once."""
    with tf.GradientTape() as outer:
        outer.watch(qp.t)
        with tf.GradientTape() as tape:
            tape.watch(qp.p)
            product = tf.reduce_sum(qp.gradient(*qp.values)[1] * qp.t)
        hvp = tape.gradient(product, qp.p)
    g = outer.gradient(hvp, qp.t, qp.w)
    with tf.GradientTape() as tape:
        tape.watch(qp.p)
        product = tf.reduce_sum(qp.gradient(*qp.values)[1] * qp.w)
    np.testing.assert_allclose(g, tape.gradient(product, qp.p), atol=1e-10)


# Forward mode, and what cannot work.


def test_forward_accumulator_when_eager(qp):
    with tf.autodiff.ForwardAccumulator(qp.p, qp.t) as accumulator:
        x = qp.f(qp.p)
    np.testing.assert_allclose(accumulator.jvp(x), qp.jacobian(qp.p) @ qp.t.numpy(), atol=1e-10)


def test_forward_accumulator_inside_of_a_graph_raises_instead_of_being_zero(qp):
    """TensorFlow goes through custom gradients op by op there, and takes a numpy_function for a constant."""

    def forward():
        with tf.autodiff.ForwardAccumulator(qp.p, qp.t) as accumulator:
            x = qp.f(qp.p)
        return accumulator.jvp(x)

    with pytest.raises(Exception, match=r"use cvxlayers\.tensorflow\.jvp"):
        tf.function(forward)()


def test_forward_accumulator_around_a_graph_raises(qp):
    run = tf.function(qp.f)
    with pytest.raises((tf.errors.InternalError, TypeError)), tf.autodiff.ForwardAccumulator(qp.p, qp.t) as accumulator:
        accumulator.jvp(run(qp.p))


def test_xla_is_refused(qp):
    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFuncStateless"):
        tf.function(qp.f, jit_compile=True)(qp.p)


def test_a_saved_model_runs_in_the_process_that_made_it_only(qp, tmp_path):
    module = tf.Module()
    module.run = tf.function(qp.f, input_signature=[tf.TensorSpec([5], tf.float64)])
    tf.saved_model.save(module, str(tmp_path))
    np.testing.assert_allclose(tf.saved_model.load(str(tmp_path)).run(qp.p), qp.f(qp.p))
    code = f"import tensorflow as tf\ntf.saved_model.load({str(tmp_path)!r}).run(tf.ones(5, tf.float64))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode and "callback" in out.stderr


# Errors, copies, custom maps.


def infeasible():
    b, x = cp.Parameter(2), cp.Variable(2)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1]), [b], [x])


def test_errors_name_item_and_status():
    bad = tf.constant([[0.0, 0.0], [2.0, 0.0], [0.5, 3.0]])
    with pytest.raises(SolverError, match="item 1: infeasible; item 2: infeasible"):
        infeasible()(bad)
    layer = infeasible()
    with pytest.raises(tf.errors.OpError, match=r"SolverError: .*item 1: infeasible; item 2: infeasible"):
        tf.function(lambda b: layer(b))(bad)


def test_shapes_are_checked(qp):
    with pytest.raises(ShapeError, match=r"has shape \(4,\); expected \(5,\)"):
        qp.f(qp.p[:4])
    with pytest.raises(ShapeError, match="got a complex value"):
        qp.f(tf.cast(qp.p, tf.complex128))
    with pytest.raises(ShapeError, match="is a object; expected a tensor"):
        qp.f(object())


def test_a_problem_without_parameters():
    x = cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5]), [], [x])
    np.testing.assert_allclose(layer()[0], [0.5, 0.5])


def twice(f, x):
    """(f(x), its gradient, a function that gives the gradient of that)."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)[0]
        g = tape.gradient(y, x)
    return y, g, lambda: outer.gradient(g, x)


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_lift(native):
    x = tf.constant([[1.0, 2.0, -3.0]], tf.float64)
    y, g, second = twice(lift(SmoothCube(native)), x)
    np.testing.assert_allclose(y, x**3)
    np.testing.assert_allclose(g, 3 * x**2)
    np.testing.assert_allclose(second(), 6 * x)


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_inputs_with_different_batches(native):
    f = lift(Product(native))
    a, b = tf.reshape(tf.range(1.0, 7.0), (2, 3)), tf.constant([[2.0, -1.0, 0.5]])

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
    def derivatives(a, b):
        with tf.GradientTape() as outer:
            outer.watch([a, b])
            with tf.GradientTape() as tape:
                tape.watch([a, b])
                loss = tf.reduce_sum(f(a, b)[0] ** 2)
            g = tape.gradient(loss, [a, b])
            total = tf.reduce_sum(g[0])
        return g, outer.gradient(total, [a, b])

    g, h = derivatives(a, b)
    np.testing.assert_allclose(g[0], 2 * a * b**2)
    np.testing.assert_allclose(g[1], tf.reduce_sum(2 * a**2 * b, 0)[None])
    np.testing.assert_allclose(h[0], tf.broadcast_to(2 * b**2, (2, 3)))
    np.testing.assert_allclose(h[1], tf.reduce_sum(4 * a * b, 0)[None])


def test_a_map_without_second_derivatives_raises():
    x = tf.constant([[1.0, 2.0, -3.0]], tf.float64)
    _, g, second = twice(lift(Cube()), x)
    np.testing.assert_allclose(g, 3 * x**2)
    with pytest.raises(NotImplementedError, match="Cube has no jvp2"):
        second()
