"""Sinkhorn's map and optimal transport: closed forms, optimality conditions, limits, and what has no solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from scipy.optimize import linear_sum_assignment, linprog
from sklearn.datasets import load_digits

import cvxlayers.jax
import cvxlayers.tensorflow
from cvxlayers.errors import ProblemError, ShapeError, SolverError
from cvxlayers.layers.sinkhorn import Sinkhorn
from cvxlayers.torch import gumbel_sinkhorn, optimal_transport, sinkhorn

from .frameworks import FRAMEWORKS, numpy

INF = np.inf


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).random(shape))


def masses(*shape, seed=0):
    a = random(*shape, seed=seed) + 0.1
    return a / a.sum(-1, keepdim=True)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_two_by_two_is_a_sigmoid(tau):
    X = random(20, 2, 2).requires_grad_()
    P = sinkhorn(X, tau)
    exact = torch.sigmoid((X[:, 0, 0] + X[:, 1, 1] - X[:, 0, 1] - X[:, 1, 0]) / (2 * tau))
    torch.testing.assert_close(P[:, 0, 0], exact, rtol=1e-10, atol=1e-13)
    found, expected = (torch.autograd.grad(p.sum(), X)[0] for p in (P[:, 0, 0], exact))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_scores_that_say_nothing_give_uniform_matrices():
    for X in (torch.zeros(7, 7, dtype=torch.float64), 100 * (random(7, 1) + random(1, 7, seed=1))):
        X.requires_grad_()
        for tau in (1.0, 1e-6):
            P = sinkhorn(X, tau)
            torch.testing.assert_close(P, torch.full_like(P, 1 / 7), rtol=0, atol=1e-14 * 100 / tau)
    (P[0, 0] + P.sum()).backward()
    assert torch.isfinite(X.grad).all()


@pytest.mark.parametrize("n", [1, 10, 60])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_optimality(n, tau, dtype):
    """The sums, and that X - tau log P is u 1' + 1 v'."""
    eps = torch.finfo(dtype).eps
    X = random(3, n, n, seed=n).to(dtype)
    P = sinkhorn(X, tau)
    assert P.dtype == dtype
    for axis in (-1, -2):
        assert (P.double().sum(axis) - 1).abs().max() < 200 * eps
    R = X.double() - tau * torch.log(P.double())
    seen = P > 1e3 * torch.finfo(dtype).tiny
    crossed = R[:, :-1, :-1] + R[:, 1:, 1:] - R[:, 1:, :-1] - R[:, :-1, 1:]
    whole = seen[:, :-1, :-1] & seen[:, 1:, 1:] & seen[:, 1:, :-1] & seen[:, :-1, 1:]
    assert whole.any() or n == 1 or tau < 0.01
    assert (crossed[whole].abs() < 100 * eps).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masses_of_all_sizes_and_scores_far_away(dtype):
    """Where sums underflow, and where large negative scores stand for -inf."""
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(np.exp(5 * rng.standard_normal(n))) for n in (20, 50))
    a, b, C = (a / a.sum()).to(dtype), (b / b.sum()).to(dtype), random(20, 50).to(dtype)
    for eps in (0.1, 1e-3, 1e-5):
        _, plan = optimal_transport(C, a, b, eps)
        assert (plan.sum(1) / a - 1).abs().max() < 1e3 * torch.finfo(dtype).eps
        assert (plan.sum(0) / b - 1).abs().max() < 1e3 * torch.finfo(dtype).eps
    X = random(6, 6).to(dtype)
    holes = torch.eye(6) > 0
    found, expected = (sinkhorn(torch.where(holes, v, X), 0.1) for v in (-1e9, -INF))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)


def test_a_tolerance_may_be_asked_for():
    X = random(30, 30)
    rough, exact = sinkhorn(X, 0.02, tol=1e-2), sinkhorn(X, 0.02)
    assert 1e-9 < (rough.sum(1) - 1).abs().max() < 1e-2
    assert (exact.sum(1) - 1).abs().max() < 1e-13


def test_the_limit_is_the_best_permutation():
    X = random(8, 12, 12)
    P = sinkhorn(X, 1e-7)
    for x, p in zip(X, P, strict=True):
        expected = np.zeros((12, 12))
        expected[linear_sum_assignment(x, maximize=True)] = 1
        np.testing.assert_allclose(p, expected, atol=1e-9)


def test_ties_at_low_temperature_stay_uniform():
    X = torch.zeros(4, 4, dtype=torch.float64)
    X[:2, :2] = X[2:, 2:] = 1
    torch.testing.assert_close(sinkhorn(X, 1e-3), X / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [0.3, 0.02])
def test_the_gradient_at_low_temperature(tau):
    X, G = random(6, 6, seed=3).requires_grad_(), random(6, 6, seed=4)
    (g,) = torch.autograd.grad((G * sinkhorn(X, tau)).sum(), X)
    assert max(g.sum(0).abs().max(), g.sum(1).abs().max()) < 1e-11  # shifts of rows and columns change nothing
    D, h = random(6, 6, seed=5), 1e-6
    ends = [(G * sinkhorn(X.detach() + s * h * D, tau)).sum() for s in (1, -1)]
    assert float((g * D).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_forbidden_entries_are_exactly_zero():
    X = random(5, 6, 6, seed=2)
    X[:, torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.5] = -INF
    X[:, range(6), range(6)] = 0.5
    X.requires_grad_()
    P = sinkhorn(X, 0.05)
    assert (P[X == -INF] == 0).all()
    assert (P.sum(-1) - 1).abs().max() < 1e-13
    P.square().sum().backward()
    assert torch.isfinite(X.grad).all() and (X.grad[X == -INF] == 0).all() and X.grad.abs().max() > 0


def test_entries_that_every_permutation_avoids_vanish():
    X = torch.where(torch.ones(6, 6).tril() > 0, random(6, 6), torch.tensor(-INF))  # only the identity is left
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        torch.testing.assert_close(sinkhorn(X.to(dtype), 0.1), torch.eye(6, dtype=dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_items_without_a_solution_are_named(framework):
    fw = FRAMEWORKS[framework]
    X = np.zeros((4, 3, 3))
    row, hall = X.copy(), X.copy()
    row[2, 1], hall[1, :2, 1:], hall[3, :2, :2] = -INF, -INF, -INF
    with fw.session():
        for scores, items in ((row, (2,)), (hall, (1, 3))):
            with pytest.raises(SolverError, match="forbidden") as error:
                fw.module.sinkhorn(fw.array(scores), 0.1)
            assert error.value.items == items
        with pytest.raises(SolverError, match="temperature"):
            fw.module.sinkhorn(fw.array(X), fw.array(np.array([1.0, 0.0, 1.0, 1.0])))
        C = fw.array(np.zeros((2, 3)))
        for a, reason in (([0.5, 0.6], "different sums"), ([-0.5, 1.5], "negative")):
            with pytest.raises(SolverError, match=reason):
                fw.module.optimal_transport(C, a)


def test_compiled_items_without_a_solution_are_nan():
    X = jnp.zeros((3, 3, 3)).at[1, 0].set(-INF)
    P = jax.jit(lambda X: cvxlayers.jax.sinkhorn(X, 0.1))(X)
    assert np.isnan(P[1]).all() and np.isfinite(P[jnp.array([0, 2])]).all()


def test_an_item_that_is_not_finite_is_nan_alone():
    X = random(3, 4, 4)
    X[1, 2, 2] = torch.nan
    X.requires_grad_()
    P = sinkhorn(X, 0.1)
    P.square().sum().backward()
    for a in (P, X.grad):
        assert torch.isnan(a).flatten(1).any(1).tolist() == [False, True, False] and torch.isfinite(a[::2]).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match="square"):
        sinkhorn(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="no axis"):
        sinkhorn(torch.zeros(3))
    with pytest.raises(ShapeError, match="masses b"):
        optimal_transport(torch.zeros(2, 3), b=torch.ones(2))


def grid_cost(n):
    points = np.stack(np.meshgrid(range(n), range(n), indexing="ij"), -1).reshape(-1, 2)
    return torch.tensor(((points[:, None] - points) ** 2).sum(-1) / (n - 1) ** 2)


def digits():
    data = load_digits()
    return [torch.tensor(i.ravel() / i.sum()) for i in (data.images[data.target == k][0] for k in (3, 8))]


def exact_cost(C, a, b):
    n, m = C.shape
    A = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(C.numpy().ravel(), A_eq=A, b_eq=np.concatenate([a, b])).fun


def test_transport_between_digits():
    C, (a, b) = grid_cost(8), digits()
    exact = exact_cost(C, a, b)
    assert exact == pytest.approx(0.0177779, abs=1e-7)
    for eps, cost in ((0.1, 0.07590), (0.01, 0.02046), (0.001, 0.0177779)):
        C.requires_grad_()
        value, plan = optimal_transport(C, a, b, eps)
        assert float((C * plan).detach().sum()) == pytest.approx(cost, rel=5e-4 if eps > 0.001 else 1e-5)
        assert (plan[a == 0] == 0).all() and (plan[:, b == 0] == 0).all()
        assert max((plan.sum(1) - a).abs().max(), (plan.sum(0) - b).abs().max()) < 1e-15
        assert (torch.autograd.grad(value, C)[0] - plan).abs().max() < 1e-15  # the envelope theorem
        P = plan.detach()
        entropy = -torch.special.xlogy(P, P).sum()
        assert float((value - (C * P).sum() + eps * entropy).detach()) == pytest.approx(0, abs=1e-12)


def test_masses_without_cost_between_them_stay():
    a = masses(5)
    C = 1 - torch.eye(5, dtype=torch.float64)
    _, plan = optimal_transport(C, a, a, 0.01)
    torch.testing.assert_close(plan, torch.diag(a), rtol=0, atol=1e-12)


def test_uniform_masses_are_the_default():
    C = random(2, 3, 4)
    found, expected = optimal_transport(C), optimal_transport(C, torch.full((3,), 1 / 3), torch.full((4,), 1 / 4), 0.1)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, check_dtype=False, rtol=1e-6, atol=1e-7)


def test_masses_of_zero_have_no_derivative_and_disturb_nothing():
    C, a, b = random(4, 3), masses(4), masses(3)
    wide = torch.zeros(6, 5, dtype=torch.float64)
    wide[:4, :3] = C
    more = [torch.cat([v, torch.zeros(2, dtype=torch.float64)]) for v in (a, b)]
    leaves = [v.clone().requires_grad_() for v in (C, a, b)]
    padded = [v.clone().requires_grad_() for v in (wide, *more)]
    G = random(6, 5, seed=9)
    totals = []
    for args in (leaves, padded):
        value, plan = optimal_transport(*args, 0.05)
        (value + (G[: plan.shape[0], : plan.shape[1]] * plan).sum()).backward()
        totals.append(value.detach())
    torch.testing.assert_close(*totals)
    for small, large in zip(leaves, padded, strict=True):
        inside = tuple(slice(k) for k in small.shape)
        torch.testing.assert_close(large.grad[inside], small.grad, rtol=1e-9, atol=1e-11)
        large.grad[inside] = 0
        assert (large.grad == 0).all()


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_derivatives_of_the_value(shape):
    """By differences, first and second, for masses that move as softmax of logits; also what scales all of them."""
    n, m = shape
    C, z, w, eps, scale = (
        random(n, m),
        random(n, seed=1),
        random(m, seed=2),
        torch.tensor(0.05).double(),
        torch.tensor(2.0).double(),
    )

    def value(C, z, w, eps, scale):
        return optimal_transport(C, scale * torch.softmax(z, 0), scale * torch.softmax(w, 0), eps)[0]

    args = (C, z, w, eps, scale)
    assert torch.autograd.gradcheck(value, tuple(v.clone().requires_grad_() for v in args), atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(value, tuple(v.clone().requires_grad_() for v in args), atol=1e-6, rtol=1e-5)


def test_derivatives_of_the_plan_are_adjoint_and_symmetric():
    """The laws of a DiffMap, for the two sides and with changes of the sums of the masses."""
    rng = np.random.default_rng(0)
    for n, m in ((3, 5), (5, 3)):
        diffmap = Sinkhorn(n, m)
        theta = [rng.random((1, n * m)), masses(1, n).numpy(), masses(1, m).numpy(), np.full((1, 1), 0.1)]
        outputs, saved = diffmap.forward(*theta)

        def like(arrays):
            return [rng.standard_normal(a.shape) for a in arrays]

        s, t, c = like(theta), like(theta), like(outputs)
        assert dot(c, diffmap.jvp(saved, *t)) == pytest.approx(dot(diffmap.vjp(saved, *c), t), rel=1e-10)
        assert dot(c, diffmap.jvp2(saved, s, t)) == pytest.approx(dot(diffmap.vjp2(saved, t, c), s), rel=1e-10)
        assert dot(c, diffmap.jvp2(saved, t, s)) == pytest.approx(dot(c, diffmap.jvp2(saved, s, t)), rel=1e-10)


def dot(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def samples(framework, X, **options):
    module = FRAMEWORKS[framework].module
    randomness = {
        "torch": lambda: {"generator": torch.Generator().manual_seed(0)},
        "jax": lambda: {"key": jax.random.key(0)},
        "tensorflow": lambda: {"seed": (0, 1)},
    }
    return module.gumbel_sinkhorn(X, **options, **randomness[framework]())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_gumbel_sinkhorn(framework):
    fw = FRAMEWORKS[framework]
    with fw.session():
        X = fw.array(np.zeros((2, 3, 3)))
        P = numpy(samples(framework, X, tau=0.05, n_samples=400))
        assert P.shape == (400, 2, 3, 3) and np.abs(P.sum(-1) - 1).max() < 1e-12
        assert np.abs(P.mean((0, 1)) - 1 / 3).max() < 0.06 and P.std() > 0.4  # nearly permutations, all equally often
        np.testing.assert_array_equal(P, numpy(samples(framework, X, tau=0.05, n_samples=400)))
        np.testing.assert_allclose(numpy(samples(framework, X, noise=0.0))[0], 1 / 3)
        (g,) = fw.gradients(lambda X: fw.dot(samples(framework, X), np.eye(3)), [X])
        assert np.isfinite(numpy(g)).all() and np.abs(numpy(g)).max() > 0


def test_randomness_is_explicit_in_jax():
    with pytest.raises(ProblemError, match="needs key="):
        cvxlayers.jax.gumbel_sinkhorn(jnp.zeros((3, 3)))
    with pytest.raises(ProblemError, match="has no option 'key'; in this framework randomness comes from: generator="):
        cvxlayers.torch.gumbel_sinkhorn(torch.zeros(3, 3), key=0)


def test_gumbel_noise_has_its_distribution():
    X = torch.zeros(2, 2, dtype=torch.float64)
    x = torch.sort(gumbel_noise(X))[0]
    expected = torch.exp(-torch.exp(-x))
    assert (expected - torch.arange(1, len(x) + 1) / len(x)).abs().max() < 0.03


def gumbel_noise(X, count=4000):
    """Differences of two are what a 2x2 matrix shows: logistic; here the noise itself."""
    from cvxlayers.torch.functions import functions

    return functions._arrays.gumbel((count,), X, generator=torch.Generator().manual_seed(1))


def test_gumbel_sinkhorn_in_compiled_torch():
    torch._dynamo.reset()
    compiled = torch.compile(lambda X: gumbel_sinkhorn(X, 0.5, n_samples=3), fullgraph=True, backend="aot_eager")
    X = random(4, 4).requires_grad_()
    first, second = compiled(X), compiled(X)
    assert first.shape == (3, 4, 4) and (first - second).abs().max() > 1e-3
    assert (first.sum(-1) - 1).abs().max() < 1e-12
    first.square().sum().backward()
    assert X.grad.abs().max() > 0
    generator = torch.Generator()
    with pytest.raises(Exception, match="generator"):
        torch.compile(lambda X: gumbel_sinkhorn(X, generator=generator), fullgraph=True, backend="aot_eager")(X)


def test_gumbel_sinkhorn_in_graphs_of_tensorflow():
    graph = tf.function(
        lambda X: cvxlayers.tensorflow.gumbel_sinkhorn(X, 0.5, n_samples=3, seed=(1, 2)),
        input_signature=[tf.TensorSpec((None, 4, 4), tf.float64)],
    )
    X = random(2, 4, 4).numpy()
    np.testing.assert_allclose(graph(X), cvxlayers.tensorflow.gumbel_sinkhorn(X, 0.5, n_samples=3, seed=(1, 2)), atol=1e-12)
    generator = tf.random.Generator.from_seed(1)
    assert cvxlayers.tensorflow.gumbel_sinkhorn(X, 0.5, generator=generator).shape == (1, 2, 4, 4)
    assert cvxlayers.tensorflow.gumbel_sinkhorn(X, 0.5).shape == (1, 2, 4, 4)
