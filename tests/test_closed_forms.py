"""Solutions and gradients against formulas that anybody can derive."""

import cvxpy as cp
import numpy as np
import pytest
import scipy.optimize
import torch

from cvxlayers.torch import CvxpyLayer

from .support import factored

RNG = np.random.default_rng(0)


def jacobian(layer, *values, wrt=0):
    """(solution, Jacobian of the first output in the given argument), float64."""
    tensors = [torch.as_tensor(np.asarray(v), dtype=torch.float64) for v in values]
    J = torch.func.jacrev(lambda *a: layer(*a)[0], argnums=wrt)(*tensors)
    return layer(*tensors)[0].numpy(), J.numpy()


def assert_close(value, expected, rel=1e-8):
    assert np.abs(value - expected).max() <= rel * np.abs(expected).max()


def test_relu():
    x, y = cp.Parameter(5), cp.Variable(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - x)), [y >= 0]), [x], [y])
    x0 = np.array([-2.0, -1e-3, 1e-3, 1.0, 30.0])
    value, J = jacobian(layer, x0)
    assert_close(value, np.maximum(x0, 0))
    assert_close(J, np.diag((x0 > 0) * 1.0))


@pytest.mark.parametrize("scale", [1.0, 5.0, 10.0, 20.0])
def test_sigmoid_over_its_whole_range(scale):
    x, y = cp.Parameter(4), cp.Variable(4)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(-x.T @ y - cp.sum(cp.entr(y) + cp.entr(1.0 - y)))), [x], [y])
    x0 = scale * np.array([-1.0, -0.3, 0.5, 1.0])
    value, J = jacobian(layer, x0)
    s = 1 / (1 + np.exp(-x0))
    t = 1 / (1 + np.exp(x0))
    assert_close(value, s)
    assert_close(J, np.diag(s * t))
    if scale <= 10:  # the gradients of saturated units too, which are 1e-5 of the largest one
        assert np.allclose(np.diag(J), s * t, rtol=1e-6)


@pytest.mark.parametrize("logits", [[0, 1, 2, 3], [0, 8, 0, 0], [0, 8, 7.5, -3], [5, 5, 5, 5]], ids=str)
def test_softmax(logits):
    x, y, tau = cp.Parameter(4), cp.Variable(4), 0.5
    layer = CvxpyLayer(cp.Problem(cp.Maximize(x @ y + tau * cp.sum(cp.entr(y))), [cp.sum(y) == 1]), [x], [y])
    x0 = np.array(logits, float)
    value, J = jacobian(layer, x0)
    p = np.exp(x0 / tau - np.max(x0 / tau))
    p /= p.sum()
    assert_close(value, p)
    assert_close(J, (np.diag(p) - np.outer(p, p)) / tau)


def test_softmax_of_two_logits_near_a_vertex():
    x, y = cp.Parameter(2), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Maximize(x @ y + 0.5 * cp.sum(cp.entr(y))), [cp.sum(y) == 1]), [x], [y])
    _, J = jacobian(layer, [0.0, 8.0])
    p = 1 / (1 + np.exp(16.0))
    g = p * (1 - p) / 0.5  # 2.25e-7
    assert_close(J, np.array([[g, -g], [-g, g]]))


def test_least_squares():
    A, b, x = cp.Parameter((7, 3)), cp.Parameter(7), cp.Variable(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b))), [A, b], [x])
    A0, b0 = RNG.standard_normal((7, 3)), RNG.standard_normal(7)
    value, J = jacobian(layer, A0, b0, wrt=1)
    pinv = np.linalg.pinv(A0)
    assert_close(value, pinv @ b0)
    assert_close(J, pinv)
    _, JA = jacobian(layer, A0, b0, wrt=0)
    r, M = b0 - A0 @ value, np.linalg.inv(A0.T @ A0)
    expected = np.einsum("ij,k->ikj", M, r) - np.einsum("ik,j->ikj", pinv, value)  # dx = M dA'r - A^+ dA x
    assert_close(JA, expected)


def test_equality_constrained_qp():
    P, q, A, b, x = (
        cp.Parameter((4, 4), PSD=True),
        cp.Parameter(4),
        cp.Parameter((2, 4)),
        cp.Parameter(2),
        cp.Variable(4),
    )
    layer = CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x), [A @ x == b]), [P, q, A, b], [x])
    M = RNG.standard_normal((4, 4))
    values = [M @ M.T + np.eye(4), RNG.standard_normal(4), RNG.standard_normal((2, 4)), RNG.standard_normal(2)]
    K = np.block([[values[0], values[2].T], [values[2], np.zeros((2, 2))]])
    inverse = np.linalg.inv(K)
    value, Jq = jacobian(layer, *values, wrt=1)
    assert_close(value, (inverse @ np.r_[-values[1], values[3]])[:4])
    assert_close(Jq, -inverse[:4, :4])
    _, Jb = jacobian(layer, *values, wrt=3)
    assert_close(Jb, inverse[:4, 4:])
    _, JP = jacobian(layer, *values, wrt=0)
    raw = -np.einsum("ij,k->ijk", inverse[:4, :4], value)  # dx = -K^-1 dP x; symmetric, as the parameter is
    assert_close(JP, (raw + raw.transpose(0, 2, 1)) / 2)


def test_box_projection():
    p, l, u, y = cp.Parameter(5), cp.Parameter(5), cp.Parameter(5), cp.Variable(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - p)), [y >= l, y <= u]), [p, l, u], [y])
    values = [np.array([-3.0, -0.5, 0.2, 0.9, 4.0]), -np.ones(5), np.ones(5)]
    value, J = jacobian(layer, *values)
    assert_close(value, np.clip(values[0], -1, 1))
    assert_close(J, np.diag([0.0, 1, 1, 1, 0]))
    assert_close(jacobian(layer, *values, wrt=1)[1], np.diag([1.0, 0, 0, 0, 0]))
    assert_close(jacobian(layer, *values, wrt=2)[1], np.diag([0.0, 0, 0, 0, 1]))


@pytest.mark.parametrize("n", [5, 50])
def test_simplex_projection(n):
    p, y = cp.Parameter(n), cp.Variable(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - p)), [y >= 0, cp.sum(y) == 1]), [p], [y])
    p0 = 0.4 * np.cos(1.7 * np.arange(n))
    value, J = jacobian(layer, p0)
    u = np.sort(p0)[::-1]
    k = np.flatnonzero(u * np.arange(1, n + 1) > np.cumsum(u) - 1)[-1] + 1
    expected = np.maximum(p0 - (u[:k].sum() - 1) / k, 0)
    s = (expected > 0) * 1.0
    assert_close(value, expected)
    assert_close(J, np.diag(s) - np.outer(s, s) / s.sum())


def test_ellipsoid_projection():
    R, z, p, y = cp.Parameter((3, 3)), cp.Parameter(3), cp.Parameter(3), cp.Variable(3)
    v = cp.Variable(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), [v == y - z, cp.norm(R @ v) <= 1]), [p, R, z], [y])
    R0, z0, p0 = np.diag([1.0, 0.5, 2.0]), np.array([0.3, -0.2, 0.1]), np.array([2.0, 1.5, -1.0])
    a, w = np.diag(R0) ** 2, p0 - z0

    def phi(t):  # the secular equation
        return (a * (w / (1 + t * a)) ** 2).sum() - 1

    t = scipy.optimize.brentq(phi, 0, 1e3, xtol=1e-15, rtol=1e-15)
    t -= phi(t) / (-2 * (a**2 * w**2 / (1 + t * a) ** 3).sum())
    d = 1 / (1 + t * a)
    value, J = jacobian(layer, p0, R0, z0)
    assert_close(value, z0 + d * w)
    g = a * d * w  # half the gradient of the constraint
    H = np.diag(d)
    assert_close(J, H - np.outer(H @ g, H @ g) / (g @ H @ g))


def test_log_barrier_in_one_dimension():
    l, x = cp.Parameter(nonneg=True), cp.Variable()  # x + 2 l - 1/x = 0: x = -l + sqrt(l^2 + 1)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x) / 2 + 2 * l * x - cp.log(x))), [l], [x])
    for l0 in (0.1, 0.5, 3.0):
        value, J = jacobian(layer, l0)
        assert value == pytest.approx(-l0 + np.sqrt(l0**2 + 1), rel=1e-10)
        assert J == pytest.approx(-1 + l0 / np.sqrt(l0**2 + 1), rel=1e-8)


def test_projection_onto_the_psd_cone():
    C, X = cp.Parameter((4, 4), symmetric=True), cp.Variable((4, 4), PSD=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C))), [C], [X])
    M = RNG.standard_normal((4, 4))
    M = M + M.T
    l, Q = np.linalg.eigh(M)
    value, J = jacobian(layer, M)
    assert_close(value, (Q * np.maximum(l, 0)) @ Q.T)
    H = RNG.standard_normal((4, 4))
    H = H + H.T
    p = np.maximum(l, 0)
    gap = l[:, None] - l[None]
    W = np.where(np.abs(gap) > 1e-12, (p[:, None] - p[None]) / np.where(gap == 0, 1, gap), (l > 0)[:, None] * 1.0)
    assert_close(np.einsum("ijkl,kl->ij", J, H), Q @ (W * (Q.T @ H @ Q)) @ Q.T, rel=1e-6)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "factored"])
def test_projections_onto_the_hermitian_psd_cone(dense, monkeypatch):
    """CVXPY embeds it in real matrices of twice the order, where multipliers are not unique and rows of K are zero."""
    if not dense:
        factored(monkeypatch)
    C, X = cp.Parameter((2, 2), hermitian=True), cp.Variable((2, 2), hermitian=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), [C], [X])
    rng = np.random.default_rng(0)
    for _ in range(60):
        M, H = rng.standard_normal((2, 2, 2)) + 1j * rng.standard_normal((2, 2, 2))
        M, H = M + M.conj().T, H + H.conj().T
        l, Q = np.linalg.eigh(M)
        mixed = l[1] / (l[1] - l[0]) if l[0] < 0 < l[1] else float(l[0] > 0)
        W = np.array([[l[0] > 0, mixed], [mixed, l[1] > 0]])
        expected = Q @ (W * (Q.conj().T @ H @ Q)) @ Q.conj().T
        _, tangent = torch.func.jvp(
            lambda c: torch.view_as_real(layer(torch.view_as_complex(c))[0]), (_pairs(M),), (_pairs(H),)
        )
        assert np.abs(torch.view_as_complex(tangent).numpy() - expected).max() <= 1e-10


def _pairs(M):
    return torch.view_as_real(torch.tensor(M)).clone()


def test_envelope_theorem():
    b, A, x = cp.Parameter(3), cp.Parameter((3, 5)), cp.Variable(5)
    rows = A @ x <= b
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 2)), [rows]), [A, b], [x, rows.dual_variables[0]])
    A0, b0 = torch.tensor(np.abs(RNG.standard_normal((3, 5)))), torch.ones(3, dtype=torch.float64)
    b0.requires_grad_()
    solution, y = layer(A0, b0)
    ((solution - 2) ** 2).sum().backward()
    assert_close(b0.grad.numpy(), -y.detach().numpy())


def test_geometric_program():
    a, x, y = cp.Parameter(pos=True), cp.Variable(pos=True), cp.Variable(pos=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x + a / x * y), [x * y >= 1, y >= 0.5]), [a], [x, y], gp=True)
    a0 = 3.0  # min x + a y / x with y = max(1/x, 1/2): y = 1/2 for x >= 2, x^2 = a/2; else 1 = 2 a / x^3
    value, J = jacobian(layer, a0)
    expected = (2 * a0) ** (1 / 3)
    assert value == pytest.approx(expected, rel=1e-9)
    assert J == pytest.approx(expected / (3 * a0), rel=1e-6)
