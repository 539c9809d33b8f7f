"""The listings of "Differentiable optimization-based modeling for machine learning" (Amos), as they stand in the talk."""

import cvxpy as cp
import pytest
import torch

from cvxlayers.torch import CvxpyLayer

# fmt: off


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_optnet_qp():
    n, m, k = 4, 2, 3  # the talk calls the third size p, which is also a parameter: its one typo
    Q = cp.Parameter((n, n), PSD=True)
    p = cp.Parameter(n)
    A = cp.Parameter((m, n))
    b = cp.Parameter(m)
    G = cp.Parameter((k, n))
    h = cp.Parameter(k)
    x = cp.Variable(n)
    obj = cp.Minimize(0.5*cp.quad_form(x, Q) + p.T * x)
    cons = [A*x == b, G*x <= h]
    prob = cp.Problem(obj, cons)
    layer = CvxpyLayer(prob, params=[Q, p, A, b, G, h], out=[x])
    M, x0 = torch.randn(n, n), torch.randn(n)
    A0, G0 = torch.randn(m, n), torch.randn(k, n)
    values = [M @ M.T + torch.eye(n), torch.randn(n), A0, A0 @ x0, G0, G0 @ x0 + 0.1]
    solution, = layer(*values)
    assert torch.allclose(A0 @ solution, A0 @ x0, atol=1e-9)
    assert (G0 @ solution <= G0 @ x0 + 0.1 + 1e-9).all()
    symmetric = [v.requires_grad_() for v in values]
    assert torch.autograd.gradcheck(layer, symmetric, atol=1e-6)


def test_sigmoid():
    n = 5
    x = cp.Parameter(n)
    y = cp.Variable(n)
    obj = cp.Minimize(-x.T*y - cp.sum(cp.entr(y) + cp.entr(1.-y)))
    prob = cp.Problem(obj)
    layer = CvxpyLayer(prob, params=[x], out_vars=[y])
    v = torch.randn(n, requires_grad=True)
    assert torch.allclose(layer(v)[0], torch.sigmoid(v), atol=1e-12)
    w = torch.randn(n)
    ours, = torch.autograd.grad(layer(v)[0] @ w, v)
    theirs, = torch.autograd.grad(torch.sigmoid(v) @ w, v)
    assert torch.allclose(ours, theirs, rtol=1e-9)


def test_polytope_projection():
    n, m = 3, 4
    G = cp.Parameter((m, n))
    h = cp.Parameter(m)
    p = cp.Parameter(n)
    y = cp.Variable(n)
    obj = cp.Minimize(0.5*cp.sum_squares(y-p))
    cons = [G*y <= h]
    prob = cp.Problem(obj, cons)
    layer = CvxpyLayer(prob, params=[p, G, h], out=[y])
    values = [3 * torch.randn(n), torch.randn(m, n), torch.rand(m)]
    solution, = layer(*values)
    assert (values[1] @ solution <= values[2] + 1e-9).all()
    assert torch.autograd.gradcheck(layer, [v.requires_grad_() for v in values], atol=1e-6)


def test_ellipsoid_projection():
    n = 3
    A = cp.Parameter((n, n), PSD=True)
    z = cp.Parameter(n)
    p = cp.Parameter(n)
    y = cp.Variable(n)
    obj = cp.Minimize(0.5*cp.sum_squares(y-p))
    cons = [0.5*cp.quad_form(y-z, A) <= 1]
    prob = cp.Problem(obj, cons)
    layer = CvxpyLayer(prob, params=[p, A, z], out=[y])
    M = torch.randn(n, n)
    values = [5 * torch.randn(2, n), M @ M.T + torch.eye(n), torch.randn(n)]
    solution, = layer(*values)
    d = solution - values[2]
    assert torch.allclose(torch.einsum("bi,ij,bj->b", d, values[1], d), torch.full((2,), 2.0), atol=1e-9)  # on the boundary
    normal, step = d @ values[1], values[0] - solution
    assert torch.allclose(torch.nn.functional.cosine_similarity(normal, step), torch.ones(2), atol=1e-12)
    assert torch.autograd.gradcheck(layer, [v.requires_grad_() for v in values], atol=1e-6)


def test_relu_from_its_argmin():
    n = 6
    x, y = cp.Parameter(n), cp.Variable(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - x)), [y >= 0]), params=[x], out=[y])
    v = torch.randn(7, n)
    assert torch.allclose(layer(v)[0], torch.relu(v), atol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_soft_argmax_from_its_argmax(tau):
    n = 5
    x, y = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Maximize(y.T @ x + tau * cp.sum(cp.entr(y))), [0 <= y, y <= 1, cp.sum(y) == 1])
    layer = CvxpyLayer(problem, params=[x], out=[y])
    v = torch.randn(3, n)
    assert torch.allclose(layer(v)[0], torch.softmax(v / tau, -1), rtol=1e-8)
