"""derivative="smoothed" and "lpgd": closed forms, the exact derivative as mu and tau fall, and sense where it has none."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers import ConeLayer, ProblemError, SolverError
from cvxlayers.cones import ProductCone
from cvxlayers.cones.smooth import SmoothedCone
from cvxlayers.program import ConeDims
from cvxlayers.torch import CvxpyLayer

from .problems import CASES
from .support import central, compiled, factored, relative, tangents
from .test_derivative import inner


def layer_with(name, derivative, **options):
    case, exact, theta, outputs, saved = compiled(name)
    arguments = (case.problem, case.parameters, case.variables)
    layer = ConeLayer(*arguments, gp=case.gp, derivative=derivative, derivative_options=options)
    return exact, layer, theta, outputs, saved


@pytest.mark.parametrize("mu", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("name", ["nonneg", "soc", "psd"])
def test_smoothed_cones(name, mu):
    """y and s stay inside, y's = mu times the degree of the cone, and D is the derivative of y."""
    dims, degree = {
        "nonneg": (ConeDims(zero=1, nonneg=4), 4),
        "soc": (ConeDims(soc=(5, 5, 2)), 3),
        "psd": (ConeDims(psd=(3, 2)), 5),
    }[name]
    K, rng = ProductCone(dims), np.random.default_rng(0)
    smooth, v, h = SmoothedCone(K, np.full((20, 1), mu)), *rng.standard_normal((2, 20, K.dim))
    y = smooth.project(v)
    s = y - v
    free = dims.zero
    np.testing.assert_allclose((y * s)[:, free:].sum(-1), mu * degree, rtol=1e-8)
    for a in (y, s):  # equal to their own projections
        np.testing.assert_allclose(K.project(a)[:, free:], a[:, free:], atol=1e-14)
    found = smooth.spectrum(v)
    expected = central(lambda a: [smooth.project(a[0])], [v], [h], 1e-3 * np.sqrt(mu))[0]
    assert relative(found.apply(h), expected) <= 1e-6
    assert (found.d > 0).all() and (found.d[:, free:] < 1).all()
    assert np.abs(y - K.project(v)).max() <= np.sqrt(mu)


@pytest.mark.parametrize("name", CASES)
def test_smoothed_tends_to_exact(name):
    exact, _, theta, outputs, saved = layer_with(name, "smoothed")
    c = [np.random.default_rng(0).standard_normal(o.shape) for o in outputs]
    expected = np.concatenate(exact.vjp(saved, *c), -1)
    errors = []
    for mu in (1e-4, 1e-6, 1e-8):
        _, layer, *_ = layer_with(name, "smoothed", mu=mu)
        found, saved = layer.forward(*theta)
        for a, b in zip(found, outputs, strict=True):
            np.testing.assert_array_equal(a, b)  # outputs are the exact solution
        errors.append(relative(np.concatenate(layer.vjp(saved, *c), -1), expected))
    assert errors[1] <= 1e-4 and errors[2] <= 1e-6
    assert errors[1] <= 0.02 * errors[0] + 1e-11  # of first order in mu


@pytest.mark.parametrize("name", CASES)
def test_smoothed_adjoint_law(name):
    _, layer, theta, *_ = layer_with(name, "smoothed", mu=0.1)
    outputs, saved = layer.forward(*theta)
    t, rng = tangents(layer), np.random.default_rng(0)
    c = [rng.standard_normal(o.shape) for o in outputs]
    forward = layer.jvp(saved, *t)
    size = sum(np.abs(x * y).sum() for x, y in zip(c, forward, strict=True))
    assert abs(inner(c, forward) - inner(layer.vjp(saved, *c), t)) <= 1e-12 * size


@pytest.mark.parametrize("name", ["qp", "socp", "psd_variable", "logistic", "mixed_cones", "lp"])
def test_smoothed_takes_the_factored_path_to_the_same_derivative(name, monkeypatch):
    """Beyond `linsolve.DENSE`, with another cone for each item of a batch."""
    _, layer, theta, *_ = layer_with(name, "smoothed", mu=0.1)
    batch = [*theta[:-1], theta[-1] * np.array([[1.0], [1.001], [1.0]])]
    outputs, saved = layer.forward(*batch)
    factored(monkeypatch)
    _, large, *_ = layer_with(name, "smoothed", mu=0.1)
    out, own = large.forward(*batch)
    c, t = [np.random.default_rng(0).standard_normal(o.shape) for o in outputs], tangents(layer)
    for a, b in ((out, outputs), (large.vjp(own, *c), layer.vjp(saved, *c)), (large.jvp(own, *t), layer.jvp(saved, *t))):
        for found, expected in zip(a, b, strict=True):
            assert found.shape == expected.shape and relative(found, expected) <= 1e-9
    columns = [np.stack([x, -2 * x]) for x in c]  # two cotangents for each item, one factorization
    for g, h in zip(large.vjp([a[None] for a in own], *columns), large.vjp(own, *c), strict=True):
        assert relative(g[1], -2 * h) <= 1e-10


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_smoothed_relu_in_closed_form(scale):
    """min 1/2 |x - c|^2, x >= 0: x_mu = (c + sqrt(c^2 + 4 mu)) / 2, whatever the units of c."""
    c, x, mu = cp.Parameter(5), cp.Variable(5), 0.09 * scale**2
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [x >= 0])
    layer = CvxpyLayer(problem, [c], [x], derivative="smoothed", mu=mu)
    v = scale * torch.tensor([[-2.0, -0.1, 0.0, 0.1, 2.0], [1.0, 2.0, 3.0, -4.0, 1e-9]], dtype=torch.float64)
    v.requires_grad_()
    w = torch.randn(2, 5, dtype=torch.float64)
    (out,) = layer(v)
    torch.testing.assert_close(out, torch.relu(v), rtol=1e-12, atol=1e-12 * scale)
    (found,) = torch.autograd.grad((out * w).sum(), v)
    expected = w * (1 + v / (v**2 + 4 * mu).sqrt()) / 2
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=0)
    J = torch.func.jacfwd(lambda v: layer(v)[0])(v[0].detach())
    torch.testing.assert_close(torch.diagonal(J), (expected / w)[0].detach(), rtol=1e-9, atol=0)


def test_smoothed_at_the_kink_itself():
    """Where the solution, its multipliers and slacks are all zero."""
    c, x = cp.Parameter(1), cp.Variable(1)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [x >= 0])
    layer = CvxpyLayer(problem, [c], [x], derivative="smoothed", mu=0.09)
    v = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(layer(v)[0].sum(), v)[0].item() == pytest.approx(0.5, rel=1e-12)


def _softmin(c, mu):
    """x of min c'x - mu sum log x, sum(x) = 1: x_i = mu / (c_i - l), by bisection on l."""
    low, high = c.min() - len(c) * mu - 1, c.min()
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if (mu / (c - middle)).sum() > 1 else (middle, high)
    return mu / (c - 0.5 * (low + high))


@pytest.mark.parametrize("mu", [1.0, 0.05, 1e-4])
def test_smoothed_linear_program_in_closed_form(mu):
    c, x = cp.Parameter(4), cp.Variable(4)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    layer = CvxpyLayer(problem, [c], [x], derivative="smoothed", mu=mu)
    v = torch.tensor([0.3, 0.1, 0.7, 0.2], dtype=torch.float64, requires_grad=True)
    J = torch.autograd.functional.jacobian(lambda v: layer(v)[0], v).numpy()
    square = _softmin(v.detach().numpy(), mu) ** 2  # dx_i = -x_i^2 (dc_i - dl) / mu, and the sum of x stays
    expected = -(np.diag(square) - np.outer(square, square) / square.sum()) / mu
    np.testing.assert_allclose(J, expected, rtol=1e-7, atol=1e-9 * np.abs(J).max())


@pytest.mark.parametrize("name", CASES)
def test_lpgd_tends_to_exact(name):
    exact, layer, theta, outputs, saved = layer_with(name, "lpgd", tau=1e-4)
    c = [np.random.default_rng(0).standard_normal(o.shape) for o in outputs]
    found, own = layer.forward(*theta)
    for a, b in zip(found, outputs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert relative(np.concatenate(layer.vjp(own, *c), -1), np.concatenate(exact.vjp(saved, *c), -1)) <= 1e-6


def test_lpgd_on_a_linear_program_in_closed_form():
    """The vertices of the simplex: the gradient compares the two that the tilted costs choose."""
    n, tau = 4, 0.25
    c, x = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    layer = CvxpyLayer(problem, [c], [x], derivative="lpgd", tau=tau)
    v, g = torch.randn(2, 40, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v.requires_grad_()
    (found,) = torch.autograd.grad((layer(v)[0] * g).sum(), v)

    def vertex(costs):
        return torch.nn.functional.one_hot(costs.argmin(-1), n).double()

    expected = (vertex(v + tau * g) - vertex(v - tau * g)) / (2 * tau)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert 5 < expected.any(-1).sum() < 40
    exact = CvxpyLayer(problem, [c], [x])
    assert torch.autograd.grad((exact(v)[0] * g).sum(), v)[0].abs().max() <= 1e-15


def test_lpgd_of_dual_variables_and_of_jacobians():
    c, h, x = cp.Parameter(3), cp.Parameter(), cp.Variable(3)
    rows = [x >= 0, cp.sum(x) == h]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), rows)
    outputs = [x, rows[1].dual_variables[0]]
    lpgd, exact = (CvxpyLayer(problem, [c, h], outputs, derivative=d) for d in ("lpgd", "implicit"))
    v = torch.tensor([0.5, 0.8, 0.2], dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    jacobians = (torch.func.jacrev(layer, (0, 1))(v, one) for layer in (lpgd, exact))
    for output in zip(*jacobians, strict=True):
        for found, expected in zip(*output, strict=True):  # the same rows are active: a quadratic program has no tau^2 error
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("derivative", ["smoothed", "lpgd"])
def test_in_a_batch_with_bad_items_and_under_jit(derivative):
    from cvxlayers.jax import CvxpyLayer as JaxLayer

    c, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, x <= 1, cp.sum(x) >= c[0]])
    values = np.array([[0.4, 1.4], [3.0, 0.0], [np.nan, 0.0], [0.2, -0.1]])
    good = [0, 3]
    with jax.enable_x64(True):
        layer = JaxLayer(problem, [c], [x], derivative=derivative, on_error="nan")

        def grad(v):
            return jax.grad(lambda v: layer(v)[0] @ jnp.array([1.0, -2.0]))(v)

        together = jax.jit(jax.vmap(grad))(jnp.array(values))
        assert not together[jnp.array([1, 2])].any() and np.isfinite(together).all()
        np.testing.assert_allclose(together[np.array(good)], np.stack([grad(values[i]) for i in good]), rtol=1e-10)


def test_smoothed_is_informative_at_kinks_and_vertices():
    c, x = cp.Parameter(3), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    v = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64, requires_grad=True)
    for derivative in ("smoothed", "lpgd"):
        layer = CvxpyLayer(problem, [c], [x], derivative=derivative, mu=0.05 if derivative == "smoothed" else None)
        w = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)  # the loss wants the second entry
        (g,) = torch.autograd.grad((layer(v)[0] * (w if derivative == "smoothed" else 10 * w)).sum(), v)
        assert g[1] > 0 > g[0]  # its cost must fall, that of the winner rise


def test_limits_are_errors():
    c, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0])
    for options, message in (
        ({"mu": 0.1}, "derivative='implicit' has no option 'mu'; it has: none"),
        ({"derivative": "smoothed", "tau": 0.1}, "derivative='smoothed' has no option 'tau'; it has: mu"),
        ({"derivative": "lpgd", "mu": 0.1}, "derivative='lpgd' has no option 'mu'; it has: tau"),
        ({"derivative": "smoothed", "mu": -1.0}, "mu is -1.0; expected a positive number"),
        ({"derivative": "smoothed", "mu": True}, "mu is True; expected a positive number"),
        ({"derivative": "lpgd", "tau": float("nan")}, "tau is nan; expected a positive number"),
        ({"derivative": "smooth"}, "derivative='smooth' does not exist; choose one of: implicit, smoothed, lpgd, diffcp"),
    ):
        with pytest.raises(ProblemError, match=message):
            CvxpyLayer(problem, [c], [x], **options)
    assert "mu = 0.5" in str(CvxpyLayer(problem, [c], [x], derivative="smoothed", mu=np.float32(0.5)))
    v = torch.tensor([0.05, 1.0], dtype=torch.float64, requires_grad=True)
    lpgd = CvxpyLayer(problem, [c], [x], derivative="lpgd", tau=0.1)
    with pytest.raises(SolverError, match=r"perturbed by the loss has no solution .* unbounded.*choose a smaller tau"):
        lpgd(v)[0].sum().backward()
    with pytest.raises(NotImplementedError, match="gradients only, no forward mode"):
        torch.func.jvp(lambda v: lpgd(v)[0], (v.detach(),), (torch.ones_like(v.detach()),))
    smoothed = CvxpyLayer(problem, [c], [x], derivative="smoothed")
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.func.hessian(lambda v: (smoothed(v)[0] ** 2).sum())(v.detach())


@pytest.mark.parametrize("mu", [1e-6, 1e-3, 0.1, 10.0])
def test_a_smoothed_solution_that_does_not_exist_is_an_error(mu):
    """Where the set of solutions is unbounded, Newton's method runs to infinity, and its residual to zero."""
    c, x, C, X = cp.Parameter(2), cp.Variable(2), cp.Parameter((2, 2), symmetric=True), cp.Variable((2, 2), PSD=True)
    linear = ConeLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], derivative="smoothed", derivative_options={"mu": mu})
    values = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]])
    with pytest.raises(SolverError, match=r"no smoothed solution .* in items 1 "):
        linear.forward(values)
    semidefinite = ConeLayer(
        cp.Problem(cp.Minimize(cp.trace(C @ X))), [C], [X], derivative="smoothed", derivative_options={"mu": mu}
    )
    with pytest.raises(SolverError, match=r"no smoothed solution"):
        semidefinite.forward(np.array([[1.0, 0.0, 0.0, 0.0]]))


def test_items_without_a_smoothed_solution_in_a_batch():
    c, x = cp.Parameter(2), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], derivative="smoothed", mu=0.1, on_error="nan")
    v = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (out,), info = layer(v, return_info=True)
    (g,) = torch.autograd.grad(out.sum(), v)
    assert out[1].isnan().all() and not g[1].any() and info.status.tolist() == [0, 4, 0]
    (alone,) = layer(v[[0, 2]])
    torch.testing.assert_close(out[[0, 2]], alone, rtol=0, atol=0)
    torch.testing.assert_close(g[[0, 2]], torch.autograd.grad(alone.sum(), v)[0][[0, 2]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g[[0, 2]], -0.1 / v.detach()[[0, 2]] ** 2)  # x = mu / c
