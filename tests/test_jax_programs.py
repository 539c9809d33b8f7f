"""JAX: a layer among devices, in programs, in threads and as a custom map; its errors and its copies."""

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvxlayers import ShapeError, SolverError
from cvxlayers.jax import CvxpyLayer, lift

from .custom_maps import Product, SmoothCube
from .jax_support import QP, float64, make  # noqa: F401


@pytest.fixture(scope="module")
def layer():
    return make("qp")[0]


# Devices.


def _mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:2]), ("i",))


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_shard_map_and_the_gradient_of_a_replicated_parameter(layer, where):
    """A bare pure_callback is typed as replicated here, and its gradient is wrong, silently."""
    q, P = QP(layer, jnp.float64), jax.sharding.PartitionSpec

    def losses(L, batch):
        return jax.vmap(lambda p: jnp.sum(jnp.sin(q.all(L, p, q.G, q.h)) * q.w))(batch)

    expected = jax.grad(lambda L: jnp.sum(losses(L, q.batch)))(q.L)
    if where == "outside":
        sharded = jax.shard_map(losses, mesh=_mesh(), in_specs=(P(), P("i")), out_specs=P("i"))
        found = jax.jit(jax.grad(lambda L: jnp.sum(sharded(L, q.batch))))(q.L)
    else:  # the gradient of a replicated value inside of shard_map is summed over the devices: JAX's rule
        inside = jax.shard_map(
            lambda L, b: jax.grad(lambda L: jnp.sum(losses(L, b)))(L), mesh=_mesh(), in_specs=(P(), P("i")), out_specs=P()
        )
        found = jax.jit(inside)(q.L, q.batch)
    assert np.abs(expected).max() > 1e-2
    assert np.allclose(found, expected, atol=1e-10)


def test_a_sharded_argument_and_a_device(layer):
    q = QP(layer, jnp.float64)
    expected = q.each(q.gradient)
    sharding = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec("i"))
    assert np.allclose(jax.jit(jax.vmap(jax.grad(q.loss)))(jax.device_put(q.batch, sharding)), expected, atol=1e-10)
    assert np.allclose(jax.vmap(q.f)(jax.device_put(q.batch, sharding)), q.each(q.solution), atol=1e-10)
    there = [jax.device_put(v, jax.devices()[1]) for v in q.values]
    assert q.all(*there).devices() == {jax.devices()[1]}


# Errors, copies, and the layer as part of a program.


def infeasible():
    b, x = cp.Parameter(2), cp.Variable(2)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1]), [b], [x])


BAD = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 3.0]])


def test_an_eager_error_is_the_original_one():
    with pytest.raises(SolverError, match="item 1: infeasible; item 2: infeasible"):
        infeasible()(jnp.asarray(BAD))
    with pytest.raises(SolverError, match="item 0: infeasible"):
        jax.grad(lambda b: infeasible()(b)[0].sum())(jnp.asarray(BAD[1]))


@pytest.mark.parametrize(
    "transform", [jax.jit, lambda f: jax.jit(jax.vmap(f)), lambda f: jax.jit(jax.grad(lambda b: f(b).sum()))]
)
def test_an_error_from_inside_of_jit_names_item_and_status(transform):
    layer = infeasible()
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"SolverError.*item 1: infeasible; item 2: infeasible"):
        jax.block_until_ready(transform(lambda b: layer(b)[0])(jnp.asarray(BAD)))


def test_shapes_are_checked_at_trace_time(layer):
    q = QP(layer, jnp.float64)
    with pytest.raises(ShapeError, match=r"has shape \(4,\); expected \(5,\)"):
        jax.jit(q.f)(q.p[:4])
    with pytest.raises(ShapeError, match="got a complex value"):
        q.f(q.p + 1j)
    with pytest.raises(ShapeError, match="is a str; expected an array"):
        q.f("p")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "deepcopy", "pickle"]
)
def test_copies_are_the_same_layer_to_the_compiler(layer, duplicate):
    q = QP(layer, jnp.float64)
    twin = duplicate(layer)
    assert twin == layer and hash(twin) == hash(layer)
    traced = []
    run = jax.jit(lambda layer, p: traced.append(1) or layer(q.L, p, q.G, q.h)[0])
    assert np.array_equal(run(layer, q.p), run(twin, q.p))
    assert len(traced) == 1
    assert make("socp")[0] != layer


def test_errors_of_a_layer_never_name_the_parameters_of_an_equal_one():
    def make(name):
        b, x = cp.Parameter(2, name=name), cp.Variable(2)
        return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b))), [b], [x])

    run = jax.jit(lambda layer, b: layer(b)[0], static_argnums=0)
    run(make("alpha"), jnp.ones(2))
    with pytest.raises(jax.errors.JaxRuntimeError, match="parameter 'beta'"):
        jax.block_until_ready(run(make("beta"), jnp.array([jnp.nan, 1.0])))


def test_a_layer_as_a_field_of_a_module(layer):
    """As in equinox or flax: a dataclass that is a pytree, with arrays as leaves and the layer as a part without any."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Model:
        weight: jax.Array
        layer: CvxpyLayer

        def __call__(self, z):
            return self.layer(q.L, self.weight @ z, q.G, q.h)[0]

    q = QP(layer, jnp.float64)
    model = Model(jnp.outer(q.p, jnp.ones(3)) / 3, layer)
    assert len(jax.tree.leaves(model)) == 1
    g = jax.jit(jax.grad(lambda model: jnp.sum(model(jnp.ones(3)) * q.w)))(model)
    assert g.layer == layer
    assert np.allclose(g.weight, np.outer(np.asarray(q.w) @ q.jacobian(q.p), np.ones(3)), atol=1e-10)


def test_options_of_one_call_compile_anew(layer):
    q = QP(layer, jnp.float64)
    f = jax.jit(lambda p, k: layer(q.L, p, q.G, q.h, solver_args={"max_iter": k})[0], static_argnums=1)
    assert np.allclose(f(q.p, 150), q.f(q.p)) and np.allclose(f(q.p, 200), q.f(q.p))
    with pytest.raises(ValueError, match="no option 'speed'"):
        layer(*q.values, solver_args={"speed": 11})


def test_threads_share_a_layer(layer):
    q = QP(layer, jnp.float64)
    expected, failures = q.gradient(q.p), []

    def work():
        with jax.enable_x64(True):
            g = jax.jit(jax.grad(q.loss))
            failures.extend(1 for _ in range(10) if not np.allclose(g(q.p), expected, atol=1e-10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures


def test_a_callback_in_another_thread_keeps_float64(layer):
    """Under `with jax.enable_x64(True)` JAX runs callbacks in threads where x64 is off, and rounds their arguments."""
    q = QP(layer, jnp.float64)
    batch = jnp.asarray(np.linspace(0.9, 1.1, 3000)[:, None] * np.asarray(q.p))  # large enough for another thread
    found = jax.jit(jax.vmap(q.f))(batch)
    assert np.allclose(found[:3], [q.solution(p) for p in batch[:3]], rtol=0, atol=1e-12)


def test_half_precision_and_integers():
    b, s, x = cp.Parameter(2), cp.Parameter(nonneg=True), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + s * cp.sum(x))), [b, s], [x])
    assert layer(jnp.array([1, 2]), 1)[0].dtype == jnp.float64
    assert layer(jnp.ones(2, jnp.float32), jnp.asarray(1.0))[0].dtype == jnp.float32  # weakly typed, as in JAX
    assert layer(jnp.array([1, 2], jnp.bfloat16), jnp.bfloat16(1))[0].dtype == jnp.float32
    assert np.allclose(layer(np.array([1.0, 2.0]), 0.5)[0], [0.75, 1.75])


def test_a_problem_without_parameters():
    x = cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5]), [], [x])
    assert np.allclose(layer()[0], 0.5)


# Custom maps.


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_lift(native):
    f = lift(SmoothCube(native))
    x = jnp.array([[1.0, 2.0, -3.0], [0.5, 1.0, 4.0]])
    assert np.allclose(jax.vmap(lambda x: f(x[None])[0][0])(x), x**3)
    H = jax.jit(jax.vmap(jax.hessian(lambda x: f(x[None])[0].sum())))(x)
    assert np.allclose(H, [np.diag(6 * r) for r in np.asarray(x)])
    with pytest.raises(NotImplementedError, match="third"):
        jax.jacfwd(jax.hessian(lambda x: f(x[None])[0].sum()))(x[0])


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_inputs_with_different_batches(native):
    f = lift(Product(native))
    a, b = jnp.arange(1.0, 7.0).reshape(2, 3), jnp.array([2.0, -1.0, 0.5])

    def loss(a, b):
        return (f(a[None], b[None])[0] ** 2).sum()

    over_a = jax.vmap(jax.grad(loss, (0, 1)), (0, None))(a, b)
    assert np.allclose(over_a[0], 2 * a * b**2) and np.allclose(over_a[1], 2 * a**2 * b)
    assert np.allclose(jax.grad(lambda b: jax.vmap(loss, (0, None))(a, b).sum())(b), (2 * a**2 * b).sum(0))
    H = jax.jit(jax.vmap(jax.hessian(loss, (0, 1)), (0, None)))(a, b)
    diagonal = [np.stack([np.diag(r) for r in np.broadcast_to(np.asarray(v), (2, 3))]) for v in (2 * b**2, 4 * a * b, 2 * a**2)]
    for found, expected in zip((H[0][0], H[0][1], H[1][0], H[1][1]), [diagonal[k] for k in (0, 1, 1, 2)], strict=True):
        assert np.allclose(found, expected)


def test_a_native_map_stays_in_the_program():
    f = lift(SmoothCube(True))
    x = jnp.ones((2, 3), jnp.float32)
    assert "callback" not in jax.jit(f).lower(x).as_text() and f(x)[0].dtype == jnp.float32
    assert "callback" in jax.jit(lift(SmoothCube(False))).lower(x).as_text()


LARGE = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import cvxpy as cp, jax, jax.numpy as jnp, numpy as np
from cvxlayers.jax import CvxpyLayer
jax.config.update("jax_enable_x64", True)
x, b = cp.Variable(30), cp.Parameter(30)
layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
mesh, P = jax.sharding.Mesh(np.array(jax.devices()), ("i",)), jax.sharding.PartitionSpec
plain = lambda b: layer(b)[0]
value = np.random.default_rng(0).standard_normal((1000, 30))
there = jax.device_put(value, jax.sharding.NamedSharding(mesh, P("i")))
for f in (jax.shard_map(plain, mesh=mesh, in_specs=P("i"), out_specs=P("i")), plain):
    g = jax.jit(jax.grad(lambda b: jnp.sum(f(b) ** 3)))
    out = jax.block_until_ready([g(there) for _ in range(3)])
    print(np.abs(out[-1] - 3 * np.maximum(value, 0) ** 2).max() < 1e-9)
"""


def test_large_batches_on_several_devices_do_not_hang():
    """`jax.pure_callback` does: it waits for threads that are all in callbacks."""
    out = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=200)
    assert out.stdout.split() == ["True", "True"], out.stderr


CLEAN = """
import jax, jax.numpy as jnp, cvxpy as cp
from cvxlayers.jax import CvxpyLayer
x, b = cp.Variable(2), cp.Parameter(2)
layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
f = jax.jit(jax.vmap(jax.grad(lambda b: layer(b)[0].sum())))
print(abs(f(jnp.array([[1.0, -1.0]]))).round(9).tolist(), jax.config.jax_enable_x64)
"""


def test_a_fresh_interpreter():
    out = subprocess.run([sys.executable, "-c", CLEAN], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[[1.0, 0.0]] False"
