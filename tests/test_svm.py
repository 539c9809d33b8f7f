"""Support vector machines against closed forms and scikit-learn; heads of few-shot learning in degenerate tasks."""

import numpy as np
import pytest
import torch

from cvxlayers.errors import ProblemError, ShapeError
from cvxlayers.torch import ridge_head, svm_binary, svm_crammer_singer

RNG = np.random.default_rng(4)


def samples(n, d, gap=1.0):
    y = np.where(np.arange(n) % 2, 1, -1)
    return RNG.standard_normal((n, d)) + gap * y[:, None], y


def task(ways, shots, d, queries=4):
    labels = np.repeat(np.arange(ways), shots)
    means = 2 * RNG.standard_normal((ways, d))
    support, query = (torch.from_numpy(RNG.standard_normal((k, d))) for k in (len(labels), queries))
    return query, support + torch.from_numpy(means)[labels], torch.from_numpy(labels)


@pytest.mark.parametrize("C", [0.5, 3.0])
def test_two_points_in_closed_form(C):
    """|w|^2 + 2 C max(0, 1 - a w): w = C a while C a^2 < 1, else 1/a."""
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    C = torch.tensor(C, dtype=torch.float64, requires_grad=True)
    w, b = svm_binary(torch.stack([a, -a])[:, None], [1, -1], C, bias=False)
    da, dC = torch.autograd.grad(w[0], (a, C))
    expected = (C * a, C, a) if C * a**2 < 1 else (1 / a, -1 / a**2, 0 * a)
    for found, value in zip((w[0], da, dC), expected, strict=True):
        assert found.item() == pytest.approx(value.item(), abs=1e-9)
    assert b == 0


def test_the_hard_margin_between_two_points():
    p, q = (torch.from_numpy(RNG.standard_normal(3)).requires_grad_() for _ in range(2))
    w, b = svm_binary(torch.stack([p, q]), torch.tensor([1, -1]), 1e4)
    v = 2 * (p - q) / (p - q).square().sum()
    assert torch.allclose(w, v, atol=1e-9) and torch.allclose(b, -(v * (p + q)).sum() / 2, atol=1e-9)
    c = torch.from_numpy(RNG.standard_normal(3))
    for found, expected in zip(torch.autograd.grad((w * c).sum() + b, (p, q)),
                               torch.autograd.grad((v * c).sum() - (v * (p + q)).sum() / 2, (p, q)), strict=True):  # fmt: skip
        assert torch.allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_the_dual_solution_is_that_of_scikit_learn(C):
    svm = pytest.importorskip("sklearn.svm")
    X, y = samples(40, 60, gap=0.1)  # more dimensions than samples: the dual solution is unique
    reference = svm.SVC(kernel="linear", C=C, tol=1e-12).fit(X, y)
    alpha = np.zeros(40)
    alpha[reference.support_] = reference.dual_coef_[0]
    w, b, found = svm_binary(torch.from_numpy(X), torch.from_numpy(y), 2 * C, return_duals=True)
    assert np.abs(found.numpy() * y - alpha).max() < 1e-5
    assert np.abs(w.numpy() - reference.coef_[0]).max() < 1e-5
    if C > 0.01:  # else no sample is on the margin
        assert b.item() == pytest.approx(reference.intercept_[0], abs=1e-5)


def test_several_classes_as_scikit_learn():
    svm = pytest.importorskip("sklearn.svm")
    query, support, labels = task(3, 6, 4)
    reference = svm.LinearSVC(multi_class="crammer_singer", C=0.3, tol=1e-10, fit_intercept=False, max_iter=100000)
    logits, alpha = svm_crammer_singer(query, support, labels, 3, 0.3, return_duals=True)
    W = (alpha.mT @ support).numpy()
    expected = reference.fit(support.numpy(), labels.numpy()).coef_
    assert np.abs(W - (expected - expected.mean(0))).max() < 1e-5
    assert torch.allclose(logits, query @ torch.from_numpy(W).T, atol=1e-12)


def test_equal_samples():
    """K is singular: the logits and their gradients are finite, and do not depend on the order of the samples."""
    query, support, labels = task(3, 2, 4)
    support = support[[0, 0, 2, 3, 4, 4]]
    order = torch.tensor([3, 0, 5, 1, 2, 4])

    def both(support, labels):
        support = support.clone().requires_grad_()
        logits = svm_crammer_singer(query, support, labels, 3, 1.0)
        return logits, torch.autograd.grad(logits.square().sum(), support)[0]

    logits, g = both(support, labels)
    shuffled, h = both(support[order], labels[order])
    assert torch.allclose(shuffled, logits, atol=1e-8) and torch.allclose(h, g[order], atol=1e-6)
    assert g.isfinite().all()


def test_the_ridge_makes_it_that_of_metaoptnet():
    """min 1/2 <alpha, (K + I) alpha> - <alpha, Y> over the same alphas: no feasible direction goes down."""
    query, support, labels = task(3, 2, 4)
    _, alpha = svm_crammer_singer(query, support, labels, 3, 0.1, ridge=1.0, return_duals=True)
    Y = torch.nn.functional.one_hot(labels).double()
    g = (support @ support.T + torch.eye(6).double()) @ alpha - Y
    assert alpha.sum(-1).abs().max() < 1e-10 and (alpha <= 0.1 * Y + 1e-10).all()
    for _ in range(100):
        other = -torch.from_numpy(RNG.random((6, 3))) * (1 - Y) * 0.1
        scale = (0.1 / -other.sum(-1)).clip(max=1)[:, None]
        other = other * scale + Y * -(other * scale).sum(-1, keepdim=True)
        assert ((other - alpha) * g).sum() > -1e-10


def test_a_small_C_says_nothing():
    query, support, labels = task(3, 2, 4)
    logits, alpha = svm_crammer_singer(query, support, labels, 3, 1e-9, return_duals=True)
    assert alpha.abs().max() < 1e-8 and logits.abs().max() < 1e-6


def test_a_batch_of_tasks_is_each_of_them():
    tasks = [task(3, 2, 4) for _ in range(3)]
    query, support, labels = (torch.stack(a) for a in zip(*tasks, strict=True))
    for head in (svm_crammer_singer, ridge_head):
        many = head(query, support, labels, 3, 0.5)
        assert all(torch.allclose(many[k], head(*tasks[k], 3, 0.5), atol=1e-9) for k in range(3))
    X, y = (torch.from_numpy(np.stack(a)) for a in zip(*(samples(8, 3) for _ in range(3)), strict=True))
    w, b = svm_binary(X, y, torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    assert w.shape == (3, 3) and b.shape == (3,)
    assert torch.allclose(w[1], svm_binary(X[1], y[1], 2.0)[0], atol=1e-9)


def test_the_ridge_head_is_a_linear_system():
    query, support, labels = task(3, 2, 4)
    support.requires_grad_()
    Y = torch.nn.functional.one_hot(labels).double()
    expected = query @ support.T @ torch.linalg.solve(support @ support.T + 50 * torch.eye(6), Y)
    found = ridge_head(query, support, labels, 3)
    assert torch.allclose(found, expected, atol=1e-12)
    g, h = (torch.autograd.grad(logits.square().sum(), support)[0] for logits in (found, expected))
    assert torch.allclose(g, h, atol=1e-12)


def test_wrong_arguments_say_so():
    X, y = (torch.from_numpy(a) for a in samples(6, 3))
    query, support, labels = task(3, 2, 4)
    for call, text in (
        (lambda: svm_binary(X, y.abs()), "all labels are the same"),
        (lambda: svm_binary(X, y + 1), "found the labels 0, 2; expected -1, 1"),
        (lambda: svm_crammer_singer(query, support, 0 * labels, 3), "all labels are the same"),
        (lambda: svm_crammer_singer(query, support, labels, 2), "found the labels 2; expected 0, 1"),
        (lambda: svm_binary(X, y, -1.0), "C is -1.0; expected 0 or more"),
        (lambda: svm_crammer_singer(query, support, labels, 3, torch.tensor(-0.5).bfloat16()), "C is -0.5; expected 0 or more"),
        (lambda: ridge_head(query, support, labels, 3, 0.0), "lam is 0.0; expected a positive number"),
    ):
        with pytest.raises(ProblemError, match=text):
            call()
    with pytest.raises(ShapeError, match=r"expected .* and"):
        svm_binary(X, y[1:])
    for head in (svm_crammer_singer, ridge_head):
        with pytest.raises(ShapeError, match=r"query has the shape \(.*, 3\); expected \(\.\.\., q, 4\), as support has"):
            head(query[:, :3], support, labels, 3)
