"""JAX: the table of transformations and compositions, second derivatives, and how many solves they take."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvxlayers import linsolve, native
from cvxlayers.jax import CvxpyLayer, lift
from cvxlayers.layer import ConeLayer

from .conic import ROWS, conic
from .custom_maps import Cube
from .jax_support import QP, float64, make  # noqa: F401
from .problems import CASES
from .support import batch_size, central, largest, without_engine


@pytest.fixture(scope="module")
def layer():
    return make("qp")[0]


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
        forward, inverse = ConeLayer.forward, linsolve.dense_inverse
        monkeypatch.setattr(ConeLayer, "forward", lambda layer, *a: self.solves.append(batch_size(a)) or forward(layer, *a))
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
    assert count.derivatives == [({jax.jacrev: "vjp", jax.jacfwd: "jvp"}[mode], (5,))]


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("engine", [True, False], ids=["engine", "without engine"])
def test_a_large_jacobian_factorizes_once(monkeypatch, mode, engine):
    n = 200
    if not engine:
        without_engine(monkeypatch)
    elif not native.available():
        pytest.skip("the native engine has not been built")
    b, x = cp.Parameter(n), cp.Variable(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.sum_squares(x[1:] - x[:-1])), [x >= 0]), [b], [x])
    factors, linear, made = linsolve.ItemFactors, native.Plan.linear, []
    monkeypatch.setattr("cvxlayers.derivatives.implicit.ItemFactors", lambda *a: made.append(1) or factors(*a))
    monkeypatch.setattr(native.Plan, "linear", lambda *a, **k: made.append(a[4].shape) or linear(*a, **k))
    J = mode(lambda b: layer(b)[0])(jnp.ones(n))
    assert J.shape == (n, n) and made == (
        [(1, n, layer._handle.map.structure.n + layer._handle.map.structure.m)] if engine else [1]
    )


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
