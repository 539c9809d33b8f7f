"""Soft sorting and ranking: known values, both paths against SciPy, hard limits, derivatives in eps, and what is refused."""

import functools
import itertools

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch
from scipy.optimize import isotonic_regression

import cvxlayers.jax
import cvxlayers.tensorflow
from cvxlayers.errors import ShapeError, SolverError
from cvxlayers.layers import isotonic, permutahedron
from cvxlayers.native import isotonic as native
from cvxlayers.native import library
from cvxlayers.torch import soft_rank, soft_sort

X = [1.0, -2.0, 2.0, 3.0, 0.5, -1.0]
RNG = np.random.default_rng(3)
ROWS = {
    "normal": RNG.standard_normal(61),
    "increasing": np.arange(50.0),
    "decreasing": -np.arange(50.0),
    "an outlier at the end": np.r_[np.arange(64.0), -1e6],
    "an outlier at the start": np.r_[1e6, np.arange(64.0)],
    "geometric": np.r_[2.0 ** np.arange(20), -(2.0 ** np.arange(20))],
    "geometric, turned": np.r_[-(2.0 ** np.arange(20))[::-1], 2.0 ** np.arange(20)[::-1]],
    "random walk": RNG.standard_normal(200).cumsum(),
    "integers with ties": RNG.integers(0, 5, 77).astype(float),
    "constant": np.full(9, 0.1),
    "two": np.array([2.0, 1.0]),
    "one": np.array([3.0]),
}


def soft_sorted(x, eps):
    """By SciPy, from the definition, in float64."""
    z = np.arange(1.0, x.size + 1) / eps
    return z - isotonic_regression(z - np.sort(x)).x


def soft_ranked(x, eps):
    z, order = x / eps, np.argsort(x, kind="stable")
    y = np.empty_like(z)
    y[order] = z[order] - isotonic_regression(z[order] - np.arange(1, x.size + 1)).x
    return y


@pytest.fixture(params=["native", "arrays"])
def path(request, monkeypatch):
    """Which of the two computes for torch and NumPy."""
    if request.param == "arrays":
        monkeypatch.setattr(native, "_function", lambda *_: None)
    elif library() is None:
        pytest.skip("the native engine has not been built")
    return request.param


def leaf(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def test_known_values(path):
    assert soft_rank(torch.tensor(X)).tolist() == [3.875, 1.0, 4.875, 5.875, 3.375, 2.0]  # what torchsort says
    np.testing.assert_allclose(soft_rank(torch.tensor(X), 3.0), soft_ranked(np.array(X), 3.0), rtol=1e-6)
    assert soft_sort(torch.tensor(X), 0.5).tolist() == sorted(X)
    assert soft_sort(torch.tensor(X), 0.5, descending=True).tolist() == sorted(X)[::-1]
    for n in (1, 2, 9):
        constant = torch.full((2, n), 0.1, dtype=torch.float64)
        for eps in (0.0, 1e-300, 1e-20, 0.3, 1e6):
            assert soft_rank(constant, eps).tolist() == [[(n + 1) / 2] * n] * 2


@pytest.mark.parametrize("name", ROWS)
def test_the_regression_of_arrays_is_that_of_scipy(name):
    t = ROWS[name]
    found = isotonic.regression(t)
    np.testing.assert_allclose(found, isotonic_regression(t).x, atol=1e-12 * np.abs(t).max())
    first, last = isotonic.blocks(found)
    starts = isotonic_regression(t).blocks  # SciPy leaves touching blocks apart
    assert set(first) <= set(starts) and set(last + 1) <= set(starts)
    np.testing.assert_allclose(isotonic.block_means(t, first, last), found, atol=1e-12 * np.abs(t).max())


@pytest.mark.parametrize("eps", [1e-3, 0.2, 3.0, 100.0])
@pytest.mark.parametrize("name", ROWS)
def test_values_are_those_of_scipy(path, name, eps):
    x = ROWS[name]
    scale = 1e-12 * (np.abs(x).max() + x.size)
    np.testing.assert_allclose(soft_sort(torch.tensor(x), eps), soft_sorted(x, eps), atol=scale * max(1, 1 / eps))
    np.testing.assert_allclose(soft_rank(torch.tensor(x), eps), soft_ranked(x, eps), atol=scale * max(1, 1 / eps))


@pytest.mark.parametrize("n", [1, 3, 64, 399, 401, 3000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_paths_agree(n, dtype, monkeypatch):
    if library() is None:
        pytest.skip("the native engine has not been built")
    x = np.concatenate([RNG.standard_normal((3, n)), RNG.integers(-3, 3, (2, n)) * 0.37]).astype(dtype)
    eps, c = np.array([[0.01], [1.0], [0.2], [0.1], [0.0]], dtype), RNG.standard_normal((5, n)).astype(dtype)
    tolerance = (50 + n) * np.finfo(dtype).eps
    for make in (permutahedron.SoftSort, permutahedron.SoftRank):
        results = []
        for off in (False, True):
            with monkeypatch.context() as patch:
                if off:
                    patch.setattr(native, "_function", lambda *_: None)
                (y,), saved = make(n).forward(x, eps)
                results.append((y, saved, *make(n).vjp(saved, c), *make(n).jvp(saved, c, eps)))
                assert {a.dtype for a in (y, *saved)} == {np.dtype(dtype)}
        (y, saved, *derivatives), (y0, saved0, *others) = results
        np.testing.assert_allclose(y, y0, atol=tolerance * np.abs(y0).max())
        np.testing.assert_array_equal(saved[0], saved0[0])
        if dtype == "float64":  # in float32 blocks that nearly touch may be one or two
            for a, b in zip((*saved, *derivatives), (*saved0, *others), strict=True):
                np.testing.assert_allclose(a[:3], b[:3], atol=1e-9 * max(1, np.abs(b[:3]).max()))


@pytest.mark.parametrize("function", [soft_sort, soft_rank])
def test_float32_is_as_good_as_its_numbers(path, function):
    x = torch.tensor(RNG.standard_normal((3, 1000)))
    for eps in (1e-3, 0.1, 1.0, 100.0):
        found, exact = function(x.float(), eps), function(x.float().double(), eps)
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) < 2e-4 * float(exact.abs().max())


def test_small_eps_is_hard(path):
    x = torch.tensor(RNG.standard_normal((4, 500)))
    x[0, 7] = x[0, 8] = -0.0
    x[0, 9] = 0.0  # three that share a rank
    ranks = torch.argsort(torch.argsort(x)).double() + 1
    ranks[0, 7:10] = ranks[0, 7:10].mean()
    for eps in (0.0, 1e-300, 1e-9):
        assert torch.equal(soft_sort(x, eps), torch.sort(x).values)
        assert torch.equal(soft_rank(x, eps), ranks)


def test_sums_stay_and_large_eps_is_flat(path):
    x = torch.tensor(RNG.standard_normal((4, 30)))
    for eps in (0.1, 10.0, 1e8):
        torch.testing.assert_close(soft_sort(x, eps).sum(-1), x.sum(-1))
        torch.testing.assert_close(soft_rank(x, eps).sum(-1), torch.full((4,), 465.0, dtype=torch.float64))
    assert float((soft_sort(x, 1e8) - x.mean(-1, keepdim=True)).abs().max()) < 1e-6
    assert float((soft_rank(x, 1e8) - 15.5).abs().max()) < 1e-6


@pytest.mark.parametrize("function", [soft_sort, functools.partial(soft_sort, descending=True), soft_rank])
def test_derivatives_of_both_orders_in_x_and_eps(path, function):
    x, eps = leaf(RNG.standard_normal((3, 6))), leaf([0.4, 0.9, 2.0])
    torch.autograd.gradcheck(function, (x, eps), check_forward_ad=True)
    torch.autograd.gradgradcheck(function, (x, eps), check_fwd_over_rev=True)
    shared = leaf(0.7)
    (g,) = torch.autograd.grad((function(x, shared) ** 2).sum(), shared)
    each = leaf([0.7] * 3)
    torch.testing.assert_close(g, torch.autograd.grad((function(x, each) ** 2).sum(), each)[0].sum())


def test_derivatives_at_the_limits(path):
    x = leaf(RNG.standard_normal(5))
    eps = leaf(0.0)
    soft_rank(x, eps).square().sum().backward()
    assert not x.grad.any() and not eps.grad.any()
    weights = torch.arange(5.0, dtype=torch.float64)
    (g,) = torch.autograd.grad((soft_sort(x, 1e-12) * weights).sum(), x)
    assert torch.equal(g, torch.argsort(torch.argsort(x)).double())
    ties = leaf([1.0, 1.0, 1.0])  # no kink: the Jacobian is I - 11'/3
    jacobian = torch.func.jacrev(soft_rank)(ties.detach())
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64) - 1 / 3)


def test_a_row_that_is_not_finite_is_nan_alone(path):
    rows, eps = [[1.0, np.nan, 2.0], [np.inf, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, -np.inf]], [0.5, 0.5, 0.5, 0.5]
    for function, expected in ((soft_sort, [1.0, 2.0, 3.0]), (soft_rank, [3.0, 1.0, 2.0])):
        x, e = leaf(rows), leaf(eps)
        y = function(x, e)
        assert torch.isnan(y[[0, 1, 3]]).all() and y[2].tolist() == expected
        y[2].pow(2).sum().backward()
        assert not x.grad[[0, 1, 3]].any() and torch.isfinite(x.grad).all() and torch.isfinite(e.grad).all()
        assert torch.isnan(function(torch.tensor(rows[2]), torch.tensor([0.5, np.nan, np.inf])[:, None, None])[1:]).all()


def test_what_is_refused():
    for function, name in ((soft_sort, "SoftSort"), (soft_rank, "SoftRank")):
        with pytest.raises(SolverError, match=rf"{name}: eps is negative in the items 1, 2; expected eps >= 0") as error:
            function(torch.tensor([X] * 3), torch.tensor([1.0, -1.0, -0.5]))
        assert error.value.items == (1, 2)
        with pytest.raises(ShapeError, match="no axis 2"):
            function(torch.tensor([X]), dim=2)
    with pytest.raises(ShapeError, match=r"cannot count"):
        soft_rank(torch.empty(1).expand(2**24 + 2))
    found = jax.jit(cvxlayers.jax.soft_rank)(np.array(X), -1.0)
    assert np.isnan(found).all()


def test_leading_dimensions_broadcast(path):
    x, eps = torch.tensor(RNG.standard_normal((2, 1, 5))), torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    for function in (soft_sort, soft_rank):
        found = function(x, eps)
        assert found.shape == (2, 3, 5)
        for i, j in itertools.product(range(2), range(3)):
            torch.testing.assert_close(found[i, j], function(x[i, 0], eps[j]))
        turned = x.expand(2, 4, 5).transpose(0, 2)  # not contiguous
        torch.testing.assert_close(function(turned, 0.3, dim=0), function(turned.contiguous(), 0.3, dim=0))


def test_many_rows_in_parallel_are_each_alone(path):
    x = torch.tensor(RNG.standard_normal((300, 40)))
    for function in (soft_sort, soft_rank):
        assert torch.equal(function(x, 0.3), torch.stack([function(row, 0.3) for row in x]))


def test_lists_and_integers():
    assert cvxlayers.jax.soft_rank(X, 0.1).tolist() == [4.0, 1.0, 5.0, 6.0, 3.0, 2.0]
    assert cvxlayers.tensorflow.soft_sort(tf.constant([3, 1, 2]), 0.1).numpy().tolist() == [1.0, 2.0, 3.0]
    assert soft_sort(torch.tensor([3, 1, 2], dtype=torch.uint8), 0.1, descending=True).tolist() == [3.0, 2.0, 1.0]
    assert soft_sort([3, 1, 2], 0.1).tolist() == [1.0, 2.0, 3.0]


def test_rows_without_entries(path):
    assert soft_sort(torch.empty(3, 0)).shape == soft_rank(torch.empty(3, 0)).shape == (3, 0)
