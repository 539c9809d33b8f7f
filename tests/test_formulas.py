"""The formulas that precede the parameter map: values against CVXPY's, and their first and second derivatives."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.expressions import NoFormula, Steps
from cvxlayers.formulas import UNARY, Formulas, Root, Unary

from .support import central, largest

RNG = np.random.default_rng(5)

b, c, u = cp.Parameter(3, name="b"), cp.Parameter(3, nonneg=True, name="c"), cp.Parameter(name="u", pos=True)
F, G = cp.Parameter((2, 3), name="F"), cp.Parameter((3, 2), name="G")
S, D = cp.Parameter((3, 3), symmetric=True, name="S"), cp.Parameter((3, 3), diag=True, name="D")
P, T = cp.Parameter((3, 3), PSD=True, name="P"), cp.Parameter((2, 2, 3), name="T")
Z = cp.Parameter((3, 3), sparsity=[(0, 1, 2), (1, 0, 2)], name="Z")
PARAMETERS = [b, c, u, F, G, S, D, P, T, Z]
C = RNG.standard_normal((3, 3))
VALUES = [
    np.array([0.4, -1.3, 0.8]),
    np.array([0.5, 1.6, 0.9]),
    np.array(1.7),
    *(RNG.standard_normal(p.shape) for p in (F, G)),
    C + C.T,
    np.diag([1.0, -2.0, 0.5]),
    C @ C.T + np.eye(3),
    RNG.standard_normal((2, 2, 3)),
    np.array([[0, 1.5, 0], [-0.7, 0, 0], [0, 0, 0.3]]),
]

EXPRESSIONS = {
    "product of scalars": u * u,
    "scalar times vector": u * b,
    "vector times vector": cp.multiply(b, c),
    "column times row": cp.multiply(cp.reshape(b, (3, 1), order="C"), F.T),
    "matrix product": F @ G,
    "matrix times vector": F @ b,
    "vector times matrix": b @ G,
    "inner product": b @ c,
    "three factors": F @ S @ G,
    "symmetric": S @ b,
    "diagonal": D @ b,
    "sparse": Z @ b,
    "affine of products": 2 * cp.vec(F @ G, order="F") - 1,
    "diag of a vector": cp.diag(b) @ G,
    "diag of a matrix": cp.diag(S @ S),
    "stack, index and sum": cp.hstack([cp.square(b), b[::-1], cp.sum(F, axis=1)]) @ np.arange(8.0),
    "transpose of a product": (F @ G).T @ F,
    "trace": cp.trace(S @ P),
    "three dimensions": cp.sum(cp.square(T), axis=(0, 2)),
    "constant factors": C @ cp.exp(b) + C[0] * u - 3 * cp.norm(b) * C[1],
    "sparse constant": cp.Constant(np.diag([1.0, 2.0, 3.0])) @ cp.square(b),
    "inverse": 1 / u,
    "quotient": b / u,
    "quotient of vectors": b / c,
    "quotient of constants": C[0] / c,
    "scalar over vector": u / c,
    "constant divisor": cp.square(b) / 2,
    "power": c**3,
    "square": cp.square(b),
    "root": cp.sqrt(c),
    "negative power": cp.power(c, -0.5),
    "inv_pos": cp.inv_pos(c),
    "exp": cp.exp(b),
    "log": cp.log(c),
    "log1p": cp.log1p(c),
    "logistic": cp.logistic(b),
    "entr": cp.entr(c),
    "huber": cp.huber(b, 0.7),
    "abs": cp.abs(b),
    "pos": cp.pos(b),
    "neg": cp.neg(b),
    "norm": cp.norm(b),
    "norm by columns": cp.norm(F, axis=0),
    "norm1": cp.norm1(b),
    "norm1 by rows": cp.norm1(F, axis=1),
    "matrix 1-norm": cp.norm(F, 1),
    "norm inf": cp.norm_inf(b),
    "Frobenius": cp.norm(F, "fro"),
    "sum of squares": cp.sum_squares(F @ b),
    "sum of squares by rows": cp.sum_squares(F, axis=1),
    "quad_over_lin": cp.quad_over_lin(b, u),
    "quad_over_lin, constant numerator": cp.quad_over_lin(C[0], u),
    "quad_form": cp.quad_form(b, P),
    "quad_form, constant matrix": cp.quad_form(b, C @ C.T),
    "quad_form, constant vector": cp.quad_form(C[0], P) * u,
    "maximum": cp.maximum(b, c, 0.6),
    "maximum with a scalar": cp.maximum(u, b),
    "minimum": cp.minimum(b, c[0]),
    "max": cp.max(b),
    "max by columns": cp.max(F, axis=0),
    "min": cp.min(S),
    "log_sum_exp": cp.log_sum_exp(b),
    "log_sum_exp by rows": cp.log_sum_exp(F, axis=1),
    "rel_entr": cp.rel_entr(c, cp.square(b)),
    "rel_entr of a constant": cp.rel_entr(0.3, c),
    "kl_div": cp.kl_div(c, 0.4),
    "std": cp.std(b),
    "variance": cp.var(b),
    "total variation": cp.tv(b),
    "powers of powers": cp.sqrt(1 + cp.square(cp.norm(b) / u)),
}


def program(e):
    steps = Steps(PARAMETERS)
    return steps.finish([steps.node(e)])


def theta(values):
    return [np.reshape(np.asarray(v, np.float64), (1, -1)) for v in values]


def directions(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, p.size)) for p in PARAMETERS]


def numeric(e, values):
    """CVXPY's value of an expression, without the values of its parameters being set."""
    if isinstance(e, cp.Parameter):
        return values[e.id]
    return e.numeric([numeric(a, values) for a in e.args]) if e.parameters() else e.value


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True) if y is not None)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_value_is_cvxpys(name):
    e = EXPRESSIONS[name]
    expected = np.asarray(numeric(e, {p.id: v for p, v in zip(PARAMETERS, VALUES, strict=True)}))
    (value,) = program(e).apply(theta(VALUES))
    np.testing.assert_allclose(value[0], expected.ravel(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_derivatives(name):
    f, at, s, t = program(EXPRESSIONS[name]), theta(VALUES), directions(1), directions(2)
    first = f.jvp(at, t)
    assert largest(first, central(f.apply, at, t)) <= 1e-9
    second = f.jvp2(at, s, t)
    assert largest(second, central(lambda at: f.jvp(at, t), at, s)) <= 1e-8
    g = [RNG.standard_normal(v.shape) for v in first]
    assert inner(g, first) == pytest.approx(inner(t, f.vjp(at, g)), rel=1e-12, abs=1e-12)
    assert inner(g, second) == pytest.approx(inner(s, f.vjp2(at, t, g)), rel=1e-12, abs=1e-12)


def test_a_batch_is_its_items_and_shared_values_are_not_copied():
    f = program(cp.norm(F.T @ (F @ b) - c) * cp.log_sum_exp(b))
    at = theta(VALUES)
    batch = [*at]
    batch[3] = RNG.standard_normal((4, 6))
    t = [RNG.standard_normal((4, p.size)) for p in PARAMETERS]
    g = RNG.standard_normal((4, 1))
    (value,), (tangent,) = f.apply(batch), f.jvp(batch, t)
    assert value.shape == tangent.shape == (4, 1)
    grads, more = f.vjp(batch, [g]), f.vjp2(batch, t, [g])
    for i in range(4):
        own, ti = [v[[min(i, len(v) - 1)]] for v in batch], [d[[i]] for d in t]
        np.testing.assert_allclose(f.apply(own)[0], value[[i]], rtol=1e-14)
        np.testing.assert_allclose(f.jvp(own, ti)[0], tangent[[i]], rtol=1e-13)
        for many, one in ((grads, f.vjp(own, [g[[i]]])), (more, f.vjp2(own, ti, [g[[i]]]))):
            for a, b_ in zip(many, one, strict=True):
                assert (a is None) == (b_ is None)
                if a is not None:
                    np.testing.assert_allclose(np.broadcast_to(a, (4, a.shape[1]))[[i]], b_, rtol=1e-12, atol=1e-13)


def test_kinks_have_one_element_of_the_derivative():
    zero = np.zeros((1, 3))
    for e in (cp.norm(b), cp.norm1(b), cp.norm_inf(b), cp.max(b), cp.sum(cp.huber(b, 1)), cp.sum(cp.pos(b))):
        steps = Steps([b])
        f = steps.finish([steps.node(e)])
        (gradient,) = f.vjp([zero], [np.ones((1, 1))])
        lower = [f.apply([zero + h * d])[0][0, 0] - h * gradient[0] @ d for d in np.eye(3) for h in (-1e-3, 1e-3)]
        assert min(lower) >= -1e-15  # a subgradient
        assert np.isfinite(f.jvp2([zero], [zero + 1], [zero + 2])[0]).all()


def test_infinite_slopes_do_not_reach_what_has_no_weight():
    f = Formulas([2], [(Unary("power", 0.5), (0,))], [1])
    (g,) = f.vjp([np.array([[0.0, 4.0]])], [np.array([[0.0, 1.0]])])
    np.testing.assert_array_equal(g, [[0, 0.25]])
    assert np.isinf(f.vjp([np.zeros((1, 2))], [np.ones((1, 2))])[0]).all()


@pytest.mark.parametrize(
    "e",
    [
        cp.sqrt(cp.sum_squares(b)),
        cp.sqrt(b @ b),
        cp.sum(cp.sqrt(cp.multiply(b, b[::-1]))),
        cp.sum(cp.multiply(b, cp.sqrt(cp.abs(b)))),
        cp.max(cp.sqrt(cp.hstack([b, 1]))),
        cp.sqrt(b) @ b,
    ],
    ids=str,
)
def test_where_an_infinite_slope_meets_a_zero_both_modes_are_zero(e):
    steps, zero = Steps([b]), np.zeros((1, 3))
    f = steps.finish([steps.node(e)])
    np.testing.assert_array_equal(f.jvp([zero], [zero + 1])[0], [[0]])
    np.testing.assert_array_equal(f.vjp([zero], [np.ones((1, 1))])[0], zero)


@pytest.mark.parametrize("rank", [4, 2, 1, 0])
def test_root(rank):
    """|R e|^2 = e'Pe, with the derivatives of e'Pe, for singular P, too."""
    n, e = 4, RNG.standard_normal(4)
    M, dP, dS = RNG.standard_normal((n, rank)), *(d + d.T for d in RNG.standard_normal((2, n, n)))
    P0 = M @ M.T
    f = Formulas([n * n], [(Root(n), (0,))], [1])
    at = [P0.reshape(1, -1)]
    R = f.apply(at)[0].reshape(n, n)
    dR, dQ = (f.jvp(at, [d.reshape(1, -1)])[0].reshape(n, n) for d in (dP, dS))
    size = max(np.linalg.norm(P0), 1e-100)
    np.testing.assert_allclose(R, R.T, atol=1e-14 * size)
    np.testing.assert_allclose(R @ R, P0, atol=2e-13 * size)
    np.testing.assert_allclose(R @ dR + dR @ R, dP, atol=1e-8)
    second = f.jvp2(at, [dP.reshape(1, -1)], [dS.reshape(1, -1)])[0].reshape(n, n)
    size = max(np.abs(dR @ dQ).max(), 1)
    np.testing.assert_allclose(R @ second + second @ R + dR @ dQ + dQ @ dR, 0 * R, atol=1e-8 * size)
    gradient = f.vjp(at, [np.outer(2 * R @ e, e).reshape(1, -1)])[0].reshape(n, n)  # of |R e|^2, through R
    np.testing.assert_allclose(gradient, np.outer(e, e), atol=1e-8)


def test_the_root_of_what_is_not_semidefinite_is_nan():
    f = Formulas([4], [(Root(2), (0,))], [1])
    (R,) = f.apply([np.array([[1.0, 0, 0, 4], [1, 0, 0, -1], [np.inf, 0, 0, 1], [1, 0, 0, -1e-18]])])
    assert np.isfinite(R[[0, 3]]).all() and np.isnan(R[1:3]).all()


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions_differentiate_each_other(name):
    f, f1, f2 = UNARY[name]
    v = np.array([[0.3, 0.9, 2.0, 5.0]])
    assert largest(central(lambda v: [f(v[0], 1.5)], [v], [1 + 0 * v]), [f1(v, 1.5)]) <= 1e-9
    assert largest(central(lambda v: [f1(v[0], 1.5)], [v], [1 + 0 * v]), [f2(v, 1.5)]) <= 1e-9


@pytest.mark.parametrize("e", [cp.lambda_max(S), cp.kron(F, G), cp.huber(b, u), cp.geo_mean(c), cp.pnorm(b, 3)], ids=str)
def test_what_has_no_recipe(e):
    with pytest.raises(NoFormula):
        program(e)


def test_steps_that_nothing_needs_are_dropped():
    steps = Steps([b, c])
    steps.node(cp.exp(c))
    node = steps.node(cp.square(b))
    f = steps.finish([1, node])
    assert len(f.steps) == 1 and f.kept == (0,) and f.reach == ((1,), (0,))
    one, two = f.apply([np.full((1, 3), 2.0), np.full((1, 3), 7.0)])
    assert one.tolist() == [[7.0] * 3] and two.tolist() == [[4.0] * 3]
