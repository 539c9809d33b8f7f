"""Products on patterns: in one pass by the native library, and with NumPy, to the same numbers."""

import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.native import ops
from cvxlayers.param_map import LinearTerm
from cvxlayers.program import ConeDims, Outer, Pattern, Structure
from cvxlayers.turned import Turned

ROWS, COLUMNS, B = 40, 30, 60
LEADS = {"batch": ((B,), (B,)), "shared values": ((1,), (B,)), "shared vector": ((B,), (1,)), "two batches": ((B, 1), (1, B))}


def numbers(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.fixture
def pattern():
    mask = np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.3
    mask[7] = False  # an empty row
    return Pattern(*np.nonzero(mask), (ROWS, COLUMNS))


@pytest.fixture(params=["native", "numpy"])
def path(request, monkeypatch):
    """Which of the two computes; what is asked for is large enough for the first."""
    if request.param == "numpy":
        monkeypatch.setattr(ops, "_function", lambda name: None)
    elif ops._function("map") is None:
        pytest.skip("the native engine has not been built")
    return request.param


@pytest.mark.parametrize("leads", LEADS)
def test_products(pattern, path, leads):
    of_values, of_vector = LEADS[leads]
    values, x, y = numbers(*of_values, pattern.nnz), numbers(*of_vector, COLUMNS), numbers(*of_vector, ROWS)
    dense = pattern.dense(values)
    np.testing.assert_allclose(pattern.matvec(values, x), (dense @ x[..., None])[..., 0], rtol=1e-12, atol=1e-12)
    expected = (np.swapaxes(dense, -1, -2) @ y[..., None])[..., 0]
    np.testing.assert_allclose(pattern.rmatvec(values, y), expected, rtol=1e-12, atol=1e-12)


def test_largest_entries(pattern, path):
    values = numbers(B, pattern.nnz)
    dense = np.abs(pattern.dense(values))
    rows, columns = pattern.largest(values)
    np.testing.assert_array_equal(rows, dense.max(-1))
    np.testing.assert_array_equal(columns, dense.max(-2))


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_matrices_go_to_parameters(pattern, path, distinct, shared):
    """An Outer product through the adjoint of a parameter map is the multiplied one through it."""
    a, p, c, d = numbers(1 if shared else B, ROWS), numbers(B, COLUMNS), numbers(B, ROWS), numbers(B, COLUMNS)
    product = Outer(pattern, 0.5, a, p, c, d)
    expected = 0.5 * (a[:, :, None] * p[:, None] + c[:, :, None] * d[:, None])[:, pattern.rows, pattern.cols]
    np.testing.assert_allclose(product.dense(), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        numbers(B, pattern.nnz) + product * 3.0, numbers(B, pattern.nnz) + 3 * expected, rtol=1e-12, atol=1e-13
    )
    rng = np.random.default_rng(1)
    size = pattern.nnz if distinct else 200
    to = rng.permutation(size) if distinct else rng.integers(size, size=pattern.nnz)
    matrix = sp.coo_array((rng.standard_normal(pattern.nnz), (np.arange(pattern.nnz), to)), shape=(pattern.nnz, size))
    term = LinearTerm(matrix)
    np.testing.assert_allclose(term.adjoint(product), expected @ matrix.toarray(), rtol=1e-11, atol=1e-12)
    theta, out = numbers(B, size), np.ones((B, pattern.nnz))
    term.add_to(out, theta)
    np.testing.assert_allclose(out, 1 + theta @ matrix.toarray().T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "cones",
    [ConeDims(2, 3, (4, 3, 3), (3, 2), 2, (0.3, 0.6)), ConeDims(soc=(5,)), ConeDims(zero=4, nonneg=5), ConeDims(exp=3)],
    ids=str,
)
@pytest.mark.parametrize("leads", LEADS)
def test_a_in_the_eigenvectors_of_d(cones, path, leads, monkeypatch):
    monkeypatch.setattr(ops, "_SMALL", 0)
    rng = np.random.default_rng(2)
    n, m = 7, cones.rows
    mask = rng.random((m, n)) < 0.4
    A = Pattern(*np.nonzero(mask), (m, n))
    S = Structure(n, cones, Pattern([], [], (n, n)), A)
    turned = S.turned
    assert isinstance(turned, Turned) and turned.rows.size >= A.nnz
    of_values, of_point = LEADS[leads]
    values, v = rng.standard_normal((*of_values, A.nnz)), rng.standard_normal((*of_point, m))
    spectrum = S.K.spectrum(v)
    root = np.sqrt(spectrum.d)
    found = np.zeros((*np.broadcast_shapes(of_values, of_point), m, n))
    found[..., turned.rows, turned.cols] = turned.values(spectrum, root, values)
    expected = root[..., None] * spectrum.to(A.dense(values))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
