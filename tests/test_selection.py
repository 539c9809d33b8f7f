"""Soft selection: closed forms, ties, limits, and rows without a solution, in the three frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers.jax
import cvxlayers.torch as ct
from cvxlayers import ProblemError, SolverError

from .frameworks import numpy

INF = np.inf


def t(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def jacobian(function, x):
    return torch.func.jacrev(function)(x).numpy()


def of(fw, name, *args, dtype="float64", **options):
    with fw.session():
        return numpy(getattr(fw.module, name)(*(fw.array(a, dtype) for a in args), **options))


@pytest.mark.parametrize("n", [5, 2000, 20000])
def test_lml_of_equal_scores_is_uniform(n):
    for k in (1, n - 1):
        x = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        y = ct.lml(x, k)
        np.testing.assert_allclose(y.detach(), k / n, rtol=1e-12)
        c = torch.from_numpy(np.random.default_rng(0).standard_normal(n))
        (g,) = torch.autograd.grad(y, x, c)
        np.testing.assert_allclose(g, (k / n) * (1 - k / n) * (c - c.mean()), rtol=1e-9, atol=1e-15)


def test_lml_is_not_softmax(fw):
    np.testing.assert_allclose(of(fw, "lml", [1.0, 2.0, 3.0], k=1), [0.1415, 0.3094, 0.5491], atol=1e-4)


def test_lml_with_nothing_or_everything_to_choose(fw):
    for k, value in ((0, 0.0), (4, 1.0)):
        np.testing.assert_array_equal(of(fw, "lml", [3.0, 1.0, -200.0, 500.0], k=k), value)
    x = t([3.0, 1.0, -2.0, 0.0])
    for k in (0, 4):
        assert not jacobian(lambda x, k=k: ct.lml(x, k), x).any()
    slope = jacobian(lambda k: ct.lml(x, k), t(0.0))
    np.testing.assert_allclose(slope, torch.softmax(x, 0), rtol=1e-9)  # y = k softmax(x) for small k
    np.testing.assert_allclose(jacobian(lambda k: ct.lml(x, k), t(4.0)), torch.softmax(-x, 0), rtol=1e-9)


def test_lml_out_of_range(fw):
    for k in (-1, 5, -0.5, np.nan):
        with pytest.raises(ValueError, match="expected between 0 and 4"):
            of(fw, "lml", np.zeros(4), k=k)
    with pytest.raises(ValueError, match="positive temperature"):
        of(fw, "lml", np.zeros(4), k=1, tau=0.0)
    with pytest.raises(Exception, match="rows 1, 2 cannot choose"):
        of(fw, "lml", np.zeros((4, 3)), np.array([1.0, -1.0, 4.0, 3.0]))
    with pytest.raises(Exception, match="rows 3 cannot choose"):
        of(fw, "lml", np.zeros((4, 3)), np.ones(4), np.array([1.0, 2.0, 1.0, -1.0]))
    with pytest.raises(Exception, match="rows 0 cannot choose"):
        of(fw, "lml", np.array([[0.0, -INF, -INF], [1, 2, 3]]), k=2)


def test_lml_out_of_range_is_a_value_error_and_nan_under_jit():
    with pytest.raises(ProblemError, match="rows 1 "):
        ct.lml(torch.zeros(2, 3), t([1.0, 4.0], torch.float32))
    found = jax.jit(lambda k: cvxlayers.jax.lml(jnp.zeros((2, 3)), k))(jnp.array([1.0, 4.0]))
    np.testing.assert_array_equal(np.isnan(found), [[False] * 3, [True] * 3])


def test_lml_of_large_scores_in_single_precision(fw):
    y = of(fw, "lml", [100.0, 90.0, -90.0, -100.0], dtype="float32", k=2)
    assert y.dtype == np.float32 and y.sum() == 2
    assert y[0] >= y[1] >= y[2] >= y[3] >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lml_of_large_scores_has_finite_gradients(dtype):
    args = [t([100.0, 90.0, -90.0, -100.0], dtype), t(2.0, dtype), t(1.0, dtype)]
    for a in args:
        a.requires_grad_()
    grads = torch.autograd.grad(ct.lml(*args), args, t([1.0, 3.0, -2.0, 5.0], dtype))
    assert all(torch.isfinite(g).all() for g in grads)


def test_lml_across_a_wide_gap_keeps_the_derivative_in_k():
    x, k = t([30.0, 28.0, -28.0, -29.0]), t(2.0)
    tail = np.exp([-2.0, 0.0, 0.0, -1.0])  # the weights at nu, where 28 and -28 nearly balance
    nu = 0.5 * np.log((1 + tail[0]) / (1 + tail[3]))
    p = tail * np.exp([-nu, -nu, nu, nu])
    np.testing.assert_allclose(jacobian(lambda k: ct.lml(x, k), k), p / p.sum(), rtol=1e-9)


@pytest.mark.parametrize("k", [1, 2.5, 6])
def test_lml_is_symmetric(k):
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 7)) * 4)
    np.testing.assert_allclose(ct.lml(x, k) + ct.lml(-x, 7 - k), 1, rtol=1e-12)
    np.testing.assert_allclose(ct.lml(x, k).sum(-1), k, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
def test_lml_sums_to_k(dtype, scale):
    x = scale * torch.randn(4, 1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for k in (1e-3, 1, 5, 500, 999, 999.5):
        y = ct.lml(x, k)
        assert (y.double().sum(-1) / k - 1).abs().max() < 50 * torch.finfo(dtype).eps
        order = torch.argsort(x, -1)
        assert (torch.diff(torch.gather(y, -1, order)) >= -torch.finfo(dtype).eps).all()


def test_lml_at_a_low_temperature_is_the_hard_choice():
    x = t([0.3, -1.0, 2.0, 0.5])
    for tau in (1e-2, 1e-4, 1e-300):
        np.testing.assert_allclose(ct.lml(x, 2, tau), [0, 0, 1, 1], atol=1e-4)


def test_masked_scores_get_nothing(fw):
    x = np.array([1.0, -INF, 2.0, -INF, 0.5])
    short = np.array([1.0, 2.0, 0.5])
    u = np.array([0.5, 0.9, 0.4, 0.9, 0.4])
    for name, more, less in (
        ("sparsemax", (), ()),
        ("lml", (np.array(1.5),), (np.array(1.5),)),
        ("sparse_topk", (np.array(2.0),), (np.array(2.0),)),
        ("constrained_softmax", (u,), (u[::2],)),
        ("constrained_sparsemax", (u,), (u[::2],)),
    ):
        y = of(fw, name, x, *more)
        np.testing.assert_array_equal(y[1::2], 0)
        np.testing.assert_allclose(y[::2], of(fw, name, short, *less), rtol=1e-12)
        assert np.isfinite(jacobian(lambda x, name=name, more=more: getattr(ct, name)(x, *map(t, more)), t(x))).all()


def test_what_is_not_finite_spoils_only_its_row(fw):
    x = np.zeros((4, 3))
    x[1, 0], x[2, 1] = np.nan, INF
    u = np.full(3, 0.6)
    for name, more in (
        ("sparsemax", ()), ("lml", (np.array(1.0),)), ("sparse_topk", (np.array(1.0),)), ("constrained_softmax", (u,)),
        ("constrained_sparsemax", (u,)),
    ):  # fmt: skip
        np.testing.assert_array_equal(np.isnan(of(fw, name, x, *more)).all(-1), [False, True, True, False])
        np.testing.assert_array_equal(np.isnan(of(fw, name, x, *more)).any(-1), [False, True, True, False])


def test_sparsemax_in_closed_form(fw):
    np.testing.assert_allclose(of(fw, "sparsemax", [0.0, 0.0, 0.0]), 1 / 3)
    np.testing.assert_array_equal(of(fw, "sparsemax", [5.0, 0.0, 0.0]), [1, 0, 0])
    rows = of(fw, "sparsemax", [[-INF, -INF], [0.0, -INF]])
    assert np.isnan(rows[0]).all() and (rows[1] == [1, 0]).all()
    np.testing.assert_allclose(jacobian(ct.sparsemax, t([0.0, 0.0, 0.0])), np.eye(3) - 1 / 3)
    assert not jacobian(ct.sparsemax, t([5.0, 0.0, 0.0])).any()


@pytest.mark.parametrize("name", ["constrained_softmax", "constrained_sparsemax"])
def test_bounds_that_leave_no_room_or_no_choice(fw, name):
    x, u = np.array([1.0, 2.0, -3.0]), np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(of(fw, name, x, u), u, rtol=1e-12)
    np.testing.assert_allclose(of(fw, name, x, u, dtype="float32"), u, rtol=1e-5)
    free = torch.softmax(t(x), 0) if name == "constrained_softmax" else ct.sparsemax(t(x))
    for none in (np.ones(3), np.full(3, INF), np.full(3, 7.0)):
        np.testing.assert_allclose(of(fw, name, x, none), free, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(of(fw, name, x, u=0.5), of(fw, name, x, np.full(3, 0.5)))
    for wrong in (np.full(3, 0.3), [0.9, 0.9, -0.1]):
        with pytest.raises(Exception, match="rows 1 have no"):
            of(fw, name, np.stack([x, x]), np.stack([u, wrong]))
    with pytest.raises(Exception, match="rows 0 have no"):
        of(fw, name, np.array([[0.0, 0.0, -INF]]), [0.4, 0.4, 0.9])


@pytest.mark.parametrize("name", ["constrained_softmax", "constrained_sparsemax"])
def test_errors_name_the_rows_and_jit_returns_nan(name):
    x, u = np.zeros((3, 2)), np.array([[0.5, 0.5], [0.4, 0.5], [1.0, -0.1]])
    with pytest.raises(SolverError) as error:
        getattr(ct, name)(t(x), t(u))
    assert error.value.items == (1, 2)
    with pytest.raises(SolverError):
        getattr(cvxlayers.jax, name)(jnp.asarray(x), jnp.asarray(u))
    found = jax.jit(getattr(cvxlayers.jax, name))(x, u)
    np.testing.assert_array_equal(np.isnan(found).all(-1), [False, True, True])


def test_constrained_softmax_in_closed_form(fw):
    np.testing.assert_allclose(of(fw, "constrained_softmax", [1.0, 2.0, 3.0], [0.5, 0.4, 0.3]), [0.3, 0.4, 0.3], rtol=1e-12)
    np.testing.assert_allclose(of(fw, "constrained_softmax", [5.0, 0.0, 0.0], [0.2, 0.5, 0.9]), [0.2, 0.4, 0.4], rtol=1e-12)
    for dtype in ("float32", "float64"):  # what is free is out of the reach of exp from the largest score
        y = of(fw, "constrained_softmax", [2000.0, 1.0, 0.0, -3000.0], [0.5, 0.5, 0.5, 0.5], dtype=dtype)
        np.testing.assert_allclose(
            y, [0.5, 0.5 * np.e / (1 + np.e), 0.5 / (1 + np.e), 0] if np.e / (1 + np.e) < 1 else 0, rtol=1e-6
        )


def test_constrained_softmax_has_the_derivative_of_its_formula():
    x, u = t([5.0, 0.0, 1.0, 0.5]), t([0.2, 0.5, 0.9, 0.9])
    y = ct.constrained_softmax(x, u).numpy()
    p = np.array([0, *y[1:]]) / y[1:].sum()
    np.testing.assert_allclose(
        jacobian(lambda x: ct.constrained_softmax(x, u), x), 0.8 * (np.diag(p) - np.outer(p, p)), atol=1e-12
    )
    expected = np.zeros((4, 4))
    expected[:, 0] = np.array([1, 0, 0, 0]) - p
    np.testing.assert_allclose(jacobian(lambda u: ct.constrained_softmax(x, u), u), expected, atol=1e-12)


def test_constrained_sparsemax_has_the_derivative_of_its_formula():
    x, u = t([5.0, 0.2, 0.1, -3.0]), t([0.2, 0.9, 0.9, 0.9])
    np.testing.assert_allclose(ct.constrained_sparsemax(x, u), [0.2, 0.45, 0.35, 0], rtol=1e-12)
    free = np.array([0, 1, 1, 0])
    expected = np.diag(free) - np.outer(free, free) / 2
    np.testing.assert_allclose(jacobian(lambda x: ct.constrained_sparsemax(x, u), x), expected, atol=1e-12)
    in_u = jacobian(lambda u: ct.constrained_sparsemax(x, u), u)
    np.testing.assert_allclose(in_u, np.outer([1, -0.5, -0.5, 0], [1, 0, 0, 0]), atol=1e-12)


def test_sparse_topk_in_closed_form(fw):
    np.testing.assert_array_equal(of(fw, "sparse_topk", [5.0, 2.0, 4.0, 0.0], k=2), [1, 0, 1, 0])
    np.testing.assert_allclose(of(fw, "sparse_topk", [5.0, 3.6, 4.0, 0.0], k=2), [1, 0.3, 0.7, 0], rtol=1e-12)
    np.testing.assert_allclose(of(fw, "sparse_topk", np.zeros(4), k=3), 0.75, rtol=1e-12)
    for k in (0, 4):
        np.testing.assert_array_equal(of(fw, "sparse_topk", [5.0, 2.0, 4.0, 0.0], k=k), k / 4)
    for k in (-1, 5):
        with pytest.raises(ValueError, match="expected between 0 and 4"):
            of(fw, "sparse_topk", np.zeros(4), k=k)


def test_sparse_topk_at_a_vertex():
    """In x it is constant there; in k the entry that leaves its bound first moves."""
    x = t([5.0, 2.0, 4.0, 0.0])
    assert not jacobian(lambda x: ct.sparse_topk(x, 2), x).any()
    np.testing.assert_array_equal(jacobian(lambda k: ct.sparse_topk(x, k), t(2.0)), [0, 0, 1, 0])


@pytest.mark.parametrize("k", [0.7, 1, 3, 17.5, 999])
def test_sparse_topk_satisfies_its_conditions(k):
    x = torch.randn(5, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = ct.sparse_topk(x, k)
    np.testing.assert_allclose(y.sum(-1), k, rtol=1e-12)
    free = (y > 0) & (y < 1)
    nu = torch.where(free, x - y, torch.nan).nanmean(-1, keepdim=True)
    np.testing.assert_allclose(y, (x - nu).clip(0, 1), atol=1e-12)


def test_gradcheck():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(3, 5, dtype=torch.float64, generator=g, requires_grad=True)
    u = (0.3 + 0.3 * torch.rand(3, 5, dtype=torch.float64, generator=g)).requires_grad_()
    k, tau = t([1.0, 2.5, 4.0]).requires_grad_(), t([0.5, 1.0, 2.0]).requires_grad_()
    for function, args in (
        (ct.lml, (x, k, tau)), (ct.constrained_softmax, (x, u)), (ct.constrained_sparsemax, (x, u)),
        (ct.sparse_topk, (x, k.detach().sub(0.3).requires_grad_())),
    ):  # fmt: skip
        assert torch.autograd.gradcheck(function, args, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, args)


def test_float32_of_many_scores():
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(3))
    for function in (
        ct.sparsemax, lambda x: ct.lml(x, 50), lambda x: ct.sparse_topk(x, 50), lambda x: ct.constrained_softmax(x, 1e-4),
        lambda x: ct.constrained_sparsemax(x, 1e-4),
    ):  # fmt: skip
        np.testing.assert_allclose(function(x), function(x.double()), atol=2e-6)
