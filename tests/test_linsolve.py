"""The system K: dense and factored paths agree, and singular systems give the least-norm solution."""

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.layer import ConeLayer
from cvxlayers.linsolve import ItemFactors, System, _equilibrate, apply_dense, dense_inverse
from cvxlayers.program import ConeDims, Pattern, Structure

RNG = np.random.default_rng(0)
DIMS = {
    "polyhedral": ConeDims(zero=2, nonneg=6),
    "soc": ConeDims(zero=1, nonneg=2, soc=(3, 3, 5)),
    "psd": ConeDims(nonneg=1, psd=(3, 2)),
    "exp and power": ConeDims(zero=1, exp=3, power=(0.3, 0.3, 0.6)),
    "no rows": ConeDims(),
}


def make(dims, n=20, batch=1, rank=None):
    m = dims.rows  # fewer rows than variables, so that K is nonsingular whichever rows are active

    def full(r, c):
        return Pattern(*np.divmod(np.arange(r * c), max(c, 1)), (r, c))

    S = Structure(n, dims, full(n, n), full(m, n))
    F = RNG.standard_normal((batch, rank if rank is not None else n, n))
    P = (np.swapaxes(F, 1, 2) @ F).reshape(batch, -1)
    return S, P, RNG.standard_normal((batch, m * n)), RNG.standard_normal((batch, m))


@pytest.mark.parametrize("name", DIMS)
def test_the_operator_is_the_matrix_and_symmetric(name):
    S, P, A, v = make(DIMS[name], batch=3)
    system = System(S, P, A, v)
    K = system.dense()
    assert np.allclose(K, np.swapaxes(K, 1, 2), atol=1e-14)
    z = RNG.standard_normal((3, S.n + S.m))
    assert np.allclose(system.multiply(z), (K @ z[..., None])[..., 0], atol=1e-12)


@pytest.mark.parametrize("name", DIMS)
def test_dense_and_factored_paths_agree(name):
    S, P, A, v = make(DIMS[name], batch=4)
    system = System(S, P, A, v)
    r1, r2 = RNG.standard_normal((4, S.n)), RNG.standard_normal((4, S.m))
    F, singular = dense_inverse(system.dense())
    assert not singular.any()
    factors = ItemFactors(S, P, A, v)
    assert not factors.singular.any()
    for a, b in zip(system.solve(apply_dense(F), r1, r2), system.solve(factors.inverse, r1, r2), strict=True):
        assert np.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("lead, more", [((), (3,)), ((1,), (4,)), ((2, 1), (2, 3)), ((1, 2), (5, 2))])
def test_further_leading_dimensions_of_the_right_hand_side(lead, more):
    S, P, A, v = make(DIMS["soc"], batch=int(np.prod(lead)))
    P, A, v = (a.reshape(*lead, -1) for a in (P, A, v))
    system, factors = System(S, P, A, v), ItemFactors(S, P, A, v)
    r = RNG.standard_normal((*more, S.n + S.m))
    expected = (np.linalg.inv(system.dense()) @ r[..., None])[..., 0]
    assert np.allclose(factors.inverse(r), expected, atol=1e-6)  # up to the regularization
    K = system.dense()
    F = dense_inverse(K.reshape(-1, *K.shape[-2:]))[0].reshape(K.shape)
    assert np.allclose(apply_dense(F)(r), expected, atol=1e-10)


@pytest.mark.parametrize("path", ["dense", "factored"])
@pytest.mark.parametrize("consistent", [True, False])
def test_singular_systems_give_the_least_norm_solution(path, consistent):
    S, P, A, v = make(ConeDims(zero=4), n=5)
    A = A.reshape(1, 4, 5)
    A[:, 3] = A[:, 0] - 2 * A[:, 1]  # a redundant row
    A = A.reshape(1, -1)
    system = System(S, P, A, v)
    K = system.dense()[0]
    r = RNG.standard_normal(9)
    r = K @ r if consistent else r
    if path == "dense":
        F, singular = dense_inverse(K[None])
        inverse = apply_dense(F)
    else:
        factors = ItemFactors(S, P, A, v)
        inverse, singular = factors.inverse, factors.singular
    assert singular.all()
    u, w = system.solve(inverse, -r[None, :5], -r[None, 5:])
    e = np.ones(9)
    if path == "factored":  # least norm and least squares in the units of the equilibrated K
        e = _equilibrate(np.abs(K).max(-1), lambda e: np.abs(K * e).max(-1))
    expected = e * (np.linalg.pinv(e[:, None] * K * e, rcond=1e-10) @ (e * r))
    assert np.allclose(np.r_[u[0], w[0]], expected, atol=1e-9)


def test_one_exactly_singular_item_does_not_stop_the_others():
    K = np.stack([np.eye(3), np.zeros((3, 3)), 2 * np.eye(3)])
    F, singular = dense_inverse(K)
    assert singular.tolist() == [False, True, False]
    assert np.allclose(F, np.stack([np.eye(3), np.zeros((3, 3)), 0.5 * np.eye(3)]))


def test_other_items_change_nothing():
    """Not even by rounding: neither the scaling of an item nor its number of refinements depends on the others."""
    S, P, A, v = make(DIMS["soc"], batch=3)
    P[1] *= 1e-9
    A[1, ::2] *= 1e7
    r1, r2 = RNG.standard_normal((3, S.n)), RNG.standard_normal((3, S.m))

    def solve(items):
        system = System(S, P[items], A[items], v[items])
        inverse = dense_inverse(system.dense())[0]
        return *system.solve(apply_dense(inverse), r1[items], r2[items]), inverse

    for together, alone in zip(solve(np.arange(3)), solve(np.array([0, 2])), strict=True):
        np.testing.assert_array_equal(together[[0, 2]], alone)


def test_a_pivot_that_cancels_to_an_exact_zero():
    """Total variation with every row twice: the sparse LU without pivoting gives up on the regularized K."""
    n, rng = 40, np.random.default_rng(1)
    differences = 50 * np.diff(np.eye(n), axis=0)
    D = np.vstack([differences, differences, sp.random_array((42, n), density=0.1, rng=rng).toarray()])
    z, y = cp.Variable(n), cp.Parameter(n)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(z - y) / 2 + cp.norm1(D @ z))), [y], [z])
    at, c, t = 5 * rng.standard_normal(n).cumsum()[None], rng.standard_normal((1, n)), 1e-6 * rng.standard_normal((1, n))
    (up, _), (down, _) = layer.forward(at + t), layer.forward(at - t)
    gradient = layer.vjp(layer.forward(at)[1], c)[0]
    assert (c * (up[0] - down[0])).sum() == pytest.approx(2 * (gradient * t).sum(), rel=1e-5, abs=1e-12)
