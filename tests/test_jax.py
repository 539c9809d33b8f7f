"""JAX: every transformation of a layer, on the same few cases."""

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

from cvxlayers import ShapeError, SolverError, linsolve
from cvxlayers.jax import CvxpyLayer, lift
from cvxlayers.layer import ConeLayer

from .conic import ROWS, conic
from .custom_maps import Cube, Product, SmoothCube
from .problems import CASES
from .support import central, largest


@pytest.fixture(autouse=True)
def _float64(request):
    with jax.enable_x64(request.node.get_closest_marker("float32") is None):
        yield


def make(name):
    """(layer, values) of a case."""
    case = CASES[name]()
    return CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp), [jnp.asarray(v) for v in case.values]


@pytest.fixture(scope="module")
def layer():
    return make("qp")[0]


class QP:
    """One output of the QP as a function of p, a loss with random weights, and a batch of p."""

    def __init__(self, layer, dtype):
        self.layer = layer
        self.values = [jnp.asarray(v, dtype) for v in CASES["qp"]().values]
        self.L, self.p, self.G, self.h = self.values
        self.w = jnp.asarray(np.random.default_rng(0).standard_normal(5), dtype)
        self.batch = self.p + jnp.asarray(0.1 * np.random.default_rng(1).standard_normal((4, 5)), dtype)

    def all(self, L, p, G, h):
        return self.layer(L, p, G, h)[0]

    def f(self, p):
        return self.all(self.L, p, self.G, self.h)

    def loss(self, p):
        return jnp.sum(jnp.sin(self.f(p)) * self.w)

    def each(self, function):
        return jnp.stack([function(p) for p in self.batch])

    # What the transformations are compared with: NumPy calls of the core, and the calculus written out.

    def _core(self, p):
        return self.layer._handle.map.forward(*(np.asarray(v, np.float64).reshape(1, -1) for v in (self.L, p, self.G, self.h)))

    def solution(self, p):
        return self._core(p)[0][0][0]

    def jacobian(self, p):
        _, saved = self._core(p)
        core = self.layer._handle.map
        return core.vjp(saved, np.eye(5), np.zeros((5, core.out_sizes[1])))[1]

    def gradient(self, p):
        return (np.cos(self.solution(p)) * np.asarray(self.w)) @ self.jacobian(p)

    def hessian(self, p):
        e = 1e-5
        return np.stack([(self.gradient(p + e * d) - self.gradient(p - e * d)) / (2 * e) for d in np.eye(5)])


def _scan(step, start, length=3):
    return jax.lax.scan(lambda s, _: (step(s), jnp.sum(s)), start, None, length=length)[0]


def _iterate(step, start, length=3):
    for _ in range(length):
        start = step(start)
    return start


TABLE = {
    "jit": lambda q: (jax.jit(q.f)(q.p), q.solution(q.p)),
    "grad": lambda q: (jax.grad(q.loss)(q.p), q.gradient(q.p)),
    "value_and_grad": lambda q: (jnp.r_[jnp.hstack(jax.value_and_grad(q.loss)(q.p))], np.r_[q.loss(q.p), q.gradient(q.p)]),
    "jit(grad)": lambda q: (jax.jit(jax.grad(q.loss))(q.p), q.gradient(q.p)),
    "jit(value_and_grad)": lambda q: (jax.jit(jax.value_and_grad(q.loss))(q.p)[1], q.gradient(q.p)),
    "grad(jit)": lambda q: (jax.grad(jax.jit(q.loss))(q.p), q.gradient(q.p)),
    "vmap": lambda q: (jax.vmap(q.f)(q.batch), q.each(q.solution)),
    "vmap, in_axes=1": lambda q: (jax.vmap(q.f, 1)(q.batch.T), q.each(q.solution)),
    "vmap, out_axes=1": lambda q: (jax.vmap(q.f, out_axes=1)(q.batch).T, q.each(q.solution)),
    "vmap, in_axes of all": lambda q: (
        jax.vmap(q.all, (None, 0, 2, None))(q.L, q.batch, jnp.stack([q.G] * 4, 2), q.h),
        q.each(q.solution),
    ),
    "vmap, nested": lambda q: (
        jax.vmap(lambda h: jax.vmap(lambda p: q.all(q.L, p, q.G, h))(q.batch))(jnp.stack([q.h, 2 * q.h]))[0],
        q.each(q.solution),
    ),
    "vmap, of vmap": lambda q: (jax.vmap(jax.vmap(q.f))(q.batch.reshape(2, 2, 5)).reshape(4, 5), q.each(q.solution)),
    "vmap, empty": lambda q: (jax.vmap(q.f)(q.batch[:0]), np.zeros((0, 5))),
    "jit(vmap), empty": lambda q: (jax.jit(jax.vmap(jax.grad(q.loss)))(q.batch[:0]), np.zeros((0, 5))),
    "jvp": lambda q: (jax.jvp(q.f, (q.p,), (q.w,))[1], q.jacobian(q.p) @ q.w),
    "jacfwd": lambda q: (jax.jacfwd(q.f)(q.p), q.jacobian(q.p)),
    "jacrev": lambda q: (jax.jacrev(q.f)(q.p), q.jacobian(q.p)),
    "linearize": lambda q: (jax.linearize(q.f, q.p)[1](q.w), q.jacobian(q.p) @ q.w),
    "linear_transpose": lambda q: (jax.linear_transpose(jax.linearize(q.f, q.p)[1], q.p)(q.w)[0], q.w @ q.jacobian(q.p)),
    "vjp": lambda q: (jax.vjp(q.f, q.p)[1](q.w)[0], q.w @ q.jacobian(q.p)),
    "checkpoint": lambda q: (jax.grad(jax.checkpoint(q.loss))(q.p), q.gradient(q.p)),
    "jit(grad(checkpoint))": lambda q: (jax.jit(jax.grad(jax.checkpoint(q.loss)))(q.p), q.gradient(q.p)),
    "lax.scan": lambda q: (_scan(q.f, q.p), _iterate(q.solution, q.p)),
    "lax.fori_loop": lambda q: (jax.lax.fori_loop(0, 3, lambda i, p: q.f(p), q.p), _iterate(q.solution, q.p)),
    "lax.map": lambda q: (jax.lax.map(q.f, q.batch), q.each(q.solution)),
    "lax.map, batch_size": lambda q: (jax.lax.map(q.f, q.batch, batch_size=3), q.each(q.solution)),
    "lax.cond": lambda q: (jax.lax.cond(True, q.f, lambda p: p, q.p), q.solution(q.p)),
    "vmap(cond)": lambda q: (
        jax.vmap(lambda p, k: jax.lax.cond(k, q.f, lambda p: p, p))(q.batch, jnp.array([True, False, True, True]))[0],
        q.solution(q.batch[0]),
    ),
    "grad(scan)": lambda q: (
        jax.grad(lambda p: jnp.sum(_scan(q.f, p, 2) * q.w))(q.p),
        q.w @ q.jacobian(q.solution(q.p)) @ q.jacobian(q.p),
    ),
    "jit(vmap(grad))": lambda q: (jax.jit(jax.vmap(jax.grad(q.loss)))(q.batch), q.each(q.gradient)),
    "vmap(jit(grad))": lambda q: (jax.vmap(jax.jit(jax.grad(q.loss)))(q.batch), q.each(q.gradient)),
    "jit(vmap(jacrev))": lambda q: (jax.jit(jax.vmap(jax.jacrev(q.f)))(q.batch), q.each(q.jacobian)),
    "jit(vmap(jacfwd))": lambda q: (jax.jit(jax.vmap(jax.jacfwd(q.f)))(q.batch), q.each(q.jacobian)),
    "vmap(jit(jvp))": lambda q: (
        jax.vmap(jax.jit(lambda p: jax.jvp(q.f, (p,), (q.w,))[1]))(q.batch),
        q.each(lambda p: q.jacobian(p) @ q.w),
    ),
    "scan over jit(grad)": lambda q: (
        _scan(lambda p: p - 0.1 * jax.jit(jax.grad(q.loss))(p), q.p),
        _iterate(lambda p: p - 0.1 * q.gradient(p), q.p),
    ),
    "hessian": lambda q: (jax.hessian(q.loss)(q.p), q.hessian(q.p)),
    "jit(hessian)": lambda q: (jax.jit(jax.hessian(q.loss))(q.p), q.hessian(q.p)),
    "jit(vmap(hessian))": lambda q: (jax.jit(jax.vmap(jax.hessian(q.loss)))(q.batch), q.each(q.hessian)),
    "grad(lax.map)": lambda q: (
        jax.grad(lambda b: jnp.sum(jax.lax.map(q.loss, b)))(q.batch),
        q.each(q.gradient),
    ),
    "donated argument": lambda q: (jax.jit(q.f, donate_argnums=0)(q.p + 0), q.solution(q.p)),
    "ahead of time": lambda q: (jax.jit(q.f).lower(q.p).compile()(q.p), q.solution(q.p)),
    "disable_jit": lambda q: (_disabled(lambda: jax.jit(q.f)(q.p)), q.solution(q.p)),
}


def _disabled(function):
    with jax.disable_jit():
        return function()


@pytest.mark.parametrize("name", TABLE)
def test_transformations_in_float64(layer, name):
    found, expected = TABLE[name](QP(layer, jnp.float64))
    assert found.dtype == jnp.float64 and found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-8, atol=1e-8 if "hessian" in name else 1e-10)


@pytest.mark.float32
@pytest.mark.parametrize("name", TABLE)
def test_transformations_in_float32_without_x64(layer, name):
    found, expected = TABLE[name](QP(layer, jnp.float32))
    assert found.dtype == jnp.float32 and found.shape == expected.shape
    if "hessian" in name:  # differences of float32 values say nothing
        with jax.enable_x64(True):
            _, expected = TABLE[name](QP(layer, jnp.float64))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.float32
def test_x64_is_left_alone(layer):
    assert not jax.config.jax_enable_x64
    q = QP(layer, jnp.float32)
    jax.jit(jax.grad(q.loss))(q.p)
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_all_parameters_in_both_modes(name):
    layer, values = make(name)
    if any(jnp.iscomplexobj(v) for v in values):
        pairs = [jnp.stack([v.real, v.imag]) if jnp.iscomplexobj(v) else v for v in values]
        kinds = [jnp.iscomplexobj(v) for v in values]

        def f(*pairs):
            out = layer(*(p[0] + 1j * p[1] if k else p for p, k in zip(pairs, kinds, strict=True)))
            return [jnp.stack([o.real, o.imag]) for o in out]

        values = pairs
    else:
        f = layer
    everything = tuple(range(len(values)))
    reverse, forward = jax.jit(jax.jacrev(f, everything))(*values), jax.jit(jax.jacfwd(f, everything))(*values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), reverse, forward)


class Counter:
    """Counts solves with their batch sizes, factorizations, and calls of vjp and jvp with their right-hand sides."""

    def __init__(self, monkeypatch):
        self.solves, self.inverses, self.derivatives = [], [], []
        solve, inverse = ConeLayer.solve, linsolve.dense_inverse
        monkeypatch.setattr(ConeLayer, "solve", lambda layer, data: self.solves.append(data.batch) or solve(layer, data))
        monkeypatch.setattr("cvxlayers.residual.dense_inverse", lambda K: self.inverses.append(len(K)) or inverse(K))
        for kind in ("jvp", "vjp"):
            monkeypatch.setattr(ConeLayer, kind, self._counted(kind, getattr(ConeLayer, kind)))

    def _counted(self, kind, method):
        def counted(layer, saved, *args):
            self.derivatives.append((kind, np.broadcast_shapes(*(a.shape[:-1] for a in args))))
            return method(layer, saved, *args)

        return counted


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_vmap_is_one_batched_solve(layer, monkeypatch, compiled):
    q = QP(layer, jnp.float64)
    f = jax.vmap(q.loss)
    g = jax.vmap(jax.grad(q.loss))
    f, g = (jax.jit(f), jax.jit(g)) if compiled else (f, g)
    count = Counter(monkeypatch)
    jax.block_until_ready(f(q.batch))
    assert count.solves == [4] and not count.derivatives
    jax.block_until_ready(g(q.batch))
    assert count.solves == [4, 4] and count.derivatives == [("vjp", (4,))]


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_a_jacobian_is_one_solve_and_one_factorization(layer, monkeypatch, mode):
    q = QP(layer, jnp.float64)
    count = Counter(monkeypatch)
    q.f(q.p)
    alone = len(count.inverses)
    jax.block_until_ready(jax.jit(mode(q.f))(q.p))
    assert count.solves == [1, 1] and len(count.inverses) == 2 * alone
    assert len(count.derivatives) == 1 and count.derivatives[0][1] == (5, 1)[: len(count.derivatives[0][1])]


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_a_large_jacobian_factorizes_once(monkeypatch, mode):
    n = 200
    b, x = cp.Parameter(n), cp.Variable(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.sum_squares(x[1:] - x[:-1])), [x >= 0]), [b], [x])
    factors, made = linsolve.ItemFactors, []
    monkeypatch.setattr("cvxlayers.derivatives.implicit.ItemFactors", lambda *a: made.append(1) or factors(*a))
    J = mode(lambda b: layer(b)[0])(jnp.ones(n))
    assert J.shape == (n, n) and len(made) == 1


def test_gradients_of_what_a_batch_shares_are_summed(layer):
    q = QP(layer, jnp.float64)
    L, G = jax.grad(lambda L, G: jnp.sum(q.all(L, q.batch, G, q.h) * q.w), (0, 1))(q.L, q.G)
    each = [jax.grad(lambda L, G, p=p: jnp.sum(q.all(L, p, G, q.h) * q.w), (0, 1))(q.L, q.G) for p in q.batch]
    assert np.allclose(L, sum(e[0] for e in each), atol=1e-10) and np.allclose(G, sum(e[1] for e in each), atol=1e-10)


# Second derivatives.

ORDERS = {
    "hessian": jax.hessian,
    "reverse over reverse": lambda f, i: jax.jacrev(jax.jacrev(f, i), i),
    "reverse over forward": lambda f, i: jax.jacrev(jax.jacfwd(f, i), i),
    "forward over forward": lambda f, i: jax.jacfwd(jax.jacfwd(f, i), i),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cone", ROWS)
def test_hessians_are_differences_of_gradients(cone, order):
    case = conic(cone)
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    values = [jnp.asarray(v) for v in case.values]

    def loss(*values):
        return sum(jnp.sum(jnp.sin(o) * jnp.linspace(1, 2, o.size).reshape(o.shape)) for o in layer(*values))

    everything = tuple(range(4))
    H = jax.jit(ORDERS[order](loss, everything))(*values)
    gradient = jax.jit(jax.grad(loss, everything))
    rng = np.random.default_rng(0)
    d = [rng.standard_normal(v.shape) for v in values]
    found = [sum(jnp.tensordot(h, t, t.ndim) for h, t in zip(row, d, strict=True)) for row in H]
    assert largest(found, central(lambda v: gradient(*v), values, d)) <= 1e-8


def test_third_derivatives_raise(layer):
    q = QP(layer, jnp.float64)
    for third in (jax.jacfwd(jax.hessian(lambda L: jnp.sum(q.all(L, q.p, q.G, q.h)))), jax.jit(jax.grad(_trace_of_hessian(q)))):
        with pytest.raises(NotImplementedError, match="third derivatives"):
            third(q.L)


def _trace_of_hessian(q):
    return lambda L: jnp.trace(jax.hessian(lambda p: jnp.sum(q.all(L, p, q.G, q.h) ** 2))(q.p))


def test_a_map_without_second_derivatives_raises():
    f = lift(Cube())
    x = jnp.array([[1.0, 2.0, -3.0]])
    assert np.allclose(jax.jit(jax.grad(lambda x: f(x)[0].sum()))(x), 3 * x**2)
    for second in (jax.hessian(lambda x: f(x)[0].sum()), jax.jacrev(jax.grad(lambda x: f(x)[0].sum()))):
        with pytest.raises(NotImplementedError, match="Cube has no jvp2"):
            second(x)


# Devices.


def _mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:2]), ("i",))


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_shard_map_and_the_gradient_of_a_replicated_parameter(layer, where):
    """A bare pure_callback is typed as replicated here: its gradient was off by 6 % outside and 53 % inside, silently."""
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
print(abs(f(jnp.array([[1.0, -1.0]]))).tolist(), jax.config.jax_enable_x64)
"""


def test_a_fresh_interpreter():
    out = subprocess.run([sys.executable, "-c", CLEAN], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[[1.0, 0.0]] False"
