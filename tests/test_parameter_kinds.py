"""Every kind of parameter against the same problem with a plain parameter, and against central differences.

A declared attribute is a linear map E from full tensors to what counts: the symmetric part, the diagonal, the pattern. The
layer with the attribute is the plain layer after E, so its gradient is E applied to the plain one: symmetric where the
parameter is symmetric, zero off the pattern.
"""

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxlayers.torch import CvxpyLayer

from .frameworks import FRAMEWORKS, numpy
from .support import central

RNG = np.random.default_rng(0)
M = RNG.standard_normal((3, 3))
PATTERN = [(2, 0, 1), (0, 2, 1)]
MASK = np.zeros((3, 3))
MASK[tuple(PATTERN)] = 1


def same(A):
    return A


def symmetric(A):
    return (A + np.swapaxes(A, -1, -2)) / 2


def diagonal(A):
    return A * np.eye(3)


def on_pattern(A):
    return A * MASK


# kind: (attributes, value, E)
MATRICES = {
    "plain": ({}, M, same),
    "symmetric": ({"symmetric": True}, M + M.T, symmetric),
    "PSD": ({"PSD": True}, M @ M.T, symmetric),
    "NSD": ({"NSD": True}, -M @ M.T, symmetric),
    "diag": ({"diag": True}, np.diag([1.0, -2.0, 3.0]), diagonal),
    "sparsity": ({"sparsity": PATTERN}, M * MASK, on_pattern),
    "nonneg": ({"nonneg": True}, np.abs(M), same),
    "nonpos": ({"nonpos": True}, -np.abs(M), same),
    "pos": ({"pos": True}, np.abs(M), same),
    "neg": ({"neg": True}, -np.abs(M), same),
    "symmetric and nonneg": ({"symmetric": True, "nonneg": True}, np.abs(M + M.T), symmetric),
    "PSD and nonneg": ({"PSD": True, "nonneg": True}, np.abs(M) @ np.abs(M).T, symmetric),
}


def linear_layer(module=None, **attributes):
    """min |x|^2 / 2 + sum |Fx - 1|  with  Fx <= 2: F enters A, in several rows."""
    F, x = cp.Parameter((3, 3), **attributes), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - np.array([1.0, -2.0, 0.5])) + cp.norm(F @ x - 1)), [F @ x <= 2])
    return (module.CvxpyLayer if module else CvxpyLayer)(problem, [F], [x])


def gradient(layer, value, w):
    value = torch.tensor(value, requires_grad=True)
    x = layer(value)[0]
    (x @ torch.tensor(w)).backward()
    return x.detach().numpy(), value.grad.numpy()


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_in_the_constraints(kind):
    attributes, value, E = MATRICES[kind]
    w, layer, plain = np.array([1.0, 2.0, -1.0]), linear_layer(**attributes), linear_layer()
    x, g = gradient(layer, value, w)
    expected, g_plain = gradient(plain, value, w)
    np.testing.assert_allclose(x, expected, atol=1e-10)
    np.testing.assert_allclose(g, E(g_plain), atol=1e-9)
    assert np.abs(g).max() > 1e-3
    direction = E(RNG.standard_normal((3, 3)))
    (slope,) = central(lambda v: [layer(torch.tensor(v[0]))[0].numpy() @ w], [value], [direction])
    assert slope == pytest.approx((g * direction).sum(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", ["symmetric", "PSD", "diag", "sparsity"])
def test_what_does_not_count_has_no_influence(kind):
    attributes, value, E = MATRICES[kind]
    layer, noise = linear_layer(**attributes), RNG.standard_normal((3, 3))
    x = layer(torch.tensor(value))[0]
    changed = layer(torch.tensor(value + noise - E(noise)))[0]
    np.testing.assert_allclose(changed, x, atol=1e-10)


@pytest.mark.parametrize("kind, sign", [("PSD", 1), ("NSD", -1), ("psd_wrap", 1)])
def test_matrices_in_the_objective(kind, sign):
    """min 1/2 x'Px + q'x:  x = -P^-1 q, and the gradient of w'x in P is the symmetric part of -(P^-1 w) x'."""
    P, x, q = cp.Parameter((3, 3), **{"symmetric" if kind == "psd_wrap" else kind: True}), cp.Variable(3), np.array([1.0, 2, 3])
    form = cp.quad_form(x, cp.psd_wrap(P) if kind == "psd_wrap" else P)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(0.5 * sign * form + q @ x)), [P], [x])
    value, w = M @ M.T + np.eye(3), np.array([1.0, -1.0, 2.0])
    found, g = gradient(layer, sign * value, w)
    expected = -np.linalg.solve(value, q)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(g, -sign * symmetric(np.outer(np.linalg.solve(value, w), expected)), rtol=1e-8, atol=1e-12)


def test_a_sparse_parameter_in_the_objective():
    """min |x - S 1|^2: x = S 1, and the gradient of w'x is w 1' on the pattern."""
    S, x = cp.Parameter((3, 3), sparsity=PATTERN), cp.Variable(3)
    found, g = gradient(CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - S @ np.ones(3)))), [S], [x]), M, np.arange(3.0))
    np.testing.assert_allclose(found, (M * MASK).sum(1), atol=1e-12)
    np.testing.assert_allclose(g, np.outer(np.arange(3.0), np.ones(3)) * MASK, atol=1e-12)


# Promotion: x = E(p), the nearest point to an expression of the parameter, and the gradient of <w, x> is E'w.

PROMOTED = {
    "a number to a vector": ((), (4,), lambda p: p + np.zeros(4), lambda w: w.sum()),
    "a number times a vector": ((), (4,), lambda p: p * np.arange(4.0), lambda w: w @ np.arange(4.0)),
    "one entry to a vector": ((1,), (4,), lambda p: p + np.zeros(4), lambda w: w.sum()[None]),
    "one by one to a matrix": ((1, 1), (2, 3), lambda p: p + np.zeros((2, 3)), lambda w: w.sum()[None, None]),
    "a row to a matrix": ((3,), (2, 3), lambda p: p + np.zeros((2, 3)), lambda w: w.sum(0)),
    "a column to a matrix": ((2, 1), (2, 3), lambda p: p + np.zeros((2, 3)), lambda w: w.sum(1, keepdims=True)),
    "a vector": ((4,), (4,), lambda p: p, lambda w: w),
    "a matrix in C order": ((2, 3), (2, 3), lambda p: p, lambda w: w),
    "a matrix transposed": ((2, 3), (3, 2), lambda p: p.T, lambda w: w.T),
    "three dimensions": ((2, 3, 2), (2, 3, 2), lambda p: p, lambda w: w),
    "three dimensions, summed": ((2, 3, 2), (), lambda p: cp.sum(p) if isinstance(p, cp.Parameter) else p.sum(), None),
    "part of three dimensions": ((2, 3, 2), (3,), lambda p: p[1, :, 0], None),
}


@pytest.mark.parametrize("name", PROMOTED)
def test_shapes_and_promotion(name):
    shape, out, expression, adjoint = PROMOTED[name]
    p, x = cp.Parameter(shape), cp.Variable(out)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - expression(p)))), [p], [x])
    value, w = RNG.standard_normal((2, *shape)), RNG.standard_normal((2, *out))
    tensor = torch.tensor(value, requires_grad=True)
    (found,) = layer(tensor)
    (found * torch.tensor(w)).sum().backward()
    for k in range(2):
        np.testing.assert_allclose(found[k].detach(), expression(value[k]), atol=1e-10)
        if adjoint is not None:
            np.testing.assert_allclose(tensor.grad[k], adjoint(w[k]), atol=1e-10)
    if adjoint is None:  # the law of the adjoint: <E p, w> = <p, E'w>
        assert (found.detach().numpy() * w).sum() == pytest.approx((tensor.grad.numpy() * value).sum(), rel=1e-9)


def test_a_parameter_without_entries():
    p, x, b = cp.Parameter((0,)), cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.sum(p))), [p, b], [x])
    p0, b0 = torch.zeros(0, dtype=torch.float64, requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)
    (out,) = layer(p0, b0)
    out.sum().backward()
    assert p0.grad.shape == (0,) and torch.allclose(out, b0) and torch.allclose(b0.grad, torch.ones(2, dtype=torch.float64))


def test_complex_and_hermitian_parameters():
    """x = b and X = (C + C*)/2: the gradient of the real inner product with w is w, and its hermitian part."""
    b, C = cp.Parameter(2, complex=True), cp.Parameter((2, 2), hermitian=True)
    x, X = cp.Variable(2, complex=True), cp.Variable((2, 2), hermitian=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.sum_squares(X - C))), [b, C], [x, X])
    draw = lambda *s: RNG.standard_normal(s) + 1j * RNG.standard_normal(s)  # noqa: E731
    values, w = (draw(2), draw(2, 2)), (draw(2), draw(2, 2))
    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    outputs = layer(*tensors)
    sum((o * torch.tensor(c).conj()).real.sum() for o, c in zip(outputs, w, strict=True)).backward()
    hermitian = lambda A: (A + A.conj().T) / 2  # noqa: E731
    for found, expected in (
        (outputs[0].detach(), values[0]),
        (outputs[1].detach(), hermitian(values[1])),
        (tensors[0].grad, w[0]),
        (tensors[1].grad, hermitian(w[1])),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_kind_in_every_framework(name):
    fw = FRAMEWORKS[name]
    w = np.array([1.0, 2.0, -1.0])
    with fw.session():
        for attributes, value, _ in MATRICES.values():
            layer = linear_layer(fw.module, **attributes)
            expected, g = gradient(linear_layer(**attributes), value, w)
            np.testing.assert_allclose(numpy(layer(fw.array(value))[0]), expected, atol=1e-12)
            (found,) = fw.gradients(lambda v, layer=layer: fw.dot(layer(v)[0], w), [fw.array(value)])
            np.testing.assert_allclose(numpy(found), g, atol=1e-12)
