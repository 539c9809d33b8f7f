"""qp: its solution and gradients against closed forms and differences, degenerate programs, and errors that name items."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers.jax
import cvxlayers.torch
from cvxlayers.errors import ProblemError, ShapeError, SolverError

from .frameworks import FRAMEWORKS
from .function_cases.quadratic import problem
from .qps import Family
from .qps import problem as qps_problem

RNG = np.random.default_rng(3)
NAMES = ("Q", "p", "A", "b", "G", "h")
EYE = torch.eye(4, dtype=torch.float64)


@pytest.fixture(params=["host", "arrays"])
def qp(request):
    """The function with each of its two ways."""
    return functools.partial(cvxlayers.torch.qp, solver=request.param)


def tensors(*arrays):
    return [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]


def batch(count, *sizes):
    return tensors(*(np.stack(a) for a in zip(*(problem(*sizes) for _ in range(count)), strict=True)))


def test_a_box_and_the_simplex_match_their_projections(qp):
    x = torch.from_numpy(2 * RNG.standard_normal((5, 4)))
    box = qp(EYE, -x, G=torch.cat([EYE, -EYE]), h=torch.ones(8, dtype=torch.float64))
    assert torch.allclose(box, x.clip(-1, 1), atol=1e-12)
    simplex = qp(EYE, -x, EYE[:1] * 0 + 1, EYE[0, :1], -EYE, 0 * EYE[0])
    assert torch.allclose(simplex, cvxlayers.torch.sparsemax(x), atol=1e-12)


def test_relu_and_its_kink(qp):
    x = torch.tensor([-1.0, 0.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    y = qp(EYE, -x, G=-EYE, h=0 * EYE[0])
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, x.relu(), atol=1e-12)
    assert torch.allclose(g, torch.tensor([0.0, 1, 1, 1], dtype=torch.float64))  # at 0 the row has no multiplier


def test_the_gradient_of_shared_data_is_the_sum(qp):
    Q, p, A, b, G, h = batch(3, 4, 1, 3, 2)
    shared = G[0].detach().requires_grad_()
    h = h.detach() + 10  # feasible with the G of another item, too
    own = shared.detach().expand(3, -1, -1).clone().requires_grad_()
    (a,) = torch.autograd.grad(qp(Q, p, A, b, shared, h).pow(2).sum(), shared)
    (each,) = torch.autograd.grad(qp(Q, p, A, b, own, h).pow(2).sum(), own)
    assert torch.allclose(a, each.sum(0), atol=1e-10)


def test_all_six_gradients_are_those_of_differences(qp):
    arrays = problem(6, 2, 5, 3)
    w = torch.from_numpy(RNG.standard_normal(6))
    leaves = tensors(*arrays)
    grads = torch.autograd.grad((qp(*leaves) * w).sum(), leaves)
    assert torch.equal(grads[0], grads[0].T)
    for name, k in zip(NAMES, range(6), strict=True):
        t = RNG.standard_normal(arrays[k].shape)
        ends = [(qp(*tensors(*arrays[:k], arrays[k] + e * t, *arrays[k + 1 :])) * w).sum().item() for e in (1e-6, -1e-6)]
        assert (grads[k].numpy() * t).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-6), name


def test_the_kkt_conditions_hold(qp):
    Q, p, A, b, G, h = (a.detach() for a in batch(20, 8, 3, 9, 4))
    z, nu, lam = qp(Q, p, A, b, G, h, return_duals=True)
    stationary = (Q @ z[..., None] + p[..., None] + A.mT @ nu[..., None] + G.mT @ lam[..., None]).abs().max()
    slack = h - (G @ z[..., None])[..., 0]
    assert stationary < 1e-9 and (A @ z[..., None] - b[..., None]).abs().max() < 1e-9
    assert slack.min() > -1e-9 and lam.min() >= 0 and (slack * lam).abs().max() < 1e-9


def test_what_has_no_solution_is_named(qp):
    G, h = tensors([[1.0], [-1.0]], [[1.0, 1], [-1, -1], [2, 0], [-1, 0]])
    with pytest.raises(SolverError, match="infeasible") as error:
        qp(torch.eye(1, dtype=torch.float64), 0 * h[0, :1], G=G, h=h)
    assert error.value.items == (1, 3) and [str(s) for s in error.value.statuses] == ["infeasible"] * 2
    p = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    with pytest.raises(SolverError, match="unbounded") as error:
        qp(torch.zeros(1, 1, dtype=torch.float64), p)
    assert error.value.items == (1,)
    out = qp(torch.eye(1, dtype=torch.float64), 0 * h[:, :1], G=G, h=h, on_error="nan")
    assert out.isnan().squeeze().tolist() == [False, True, False, True]


def test_what_is_not_convex_or_not_finite_is_named(qp):
    Q = torch.stack([EYE, EYE - 2 * torch.diag(EYE[2]), EYE])
    with pytest.raises(ProblemError, match=r"not convex.* in batch items"):
        qp(Q, 0 * EYE[0])
    with pytest.raises(ProblemError, match="NaN or infinite"):
        qp(EYE, float("nan") * EYE[0])
    assert qp(Q, EYE[0], on_error="nan").isnan().all(-1).tolist() == [False, True, False]


def test_a_linear_program_with_a_vertex(qp):
    (c,) = tensors([-1.0, -2, 1, 3])
    z = qp(0 * EYE, c, G=torch.cat([EYE, -EYE]), h=torch.ones(8, dtype=torch.float64))
    (g,) = torch.autograd.grad(z.sum(), c)
    assert torch.allclose(z, -c.sign(), atol=1e-9) and g.abs().max() < 1e-12


def test_redundant_rows_change_nothing(qp):
    arrays = [a.detach() for a in batch(4, 5, 2, 4, 2)]
    Q, p, A, b, G, h = arrays
    more = [Q, p, torch.cat([A, A[:, :1]], 1), torch.cat([b, b[:, :1]], 1), torch.cat([G, G], 1), torch.cat([h, h], 1)]
    leaves = [a.clone().requires_grad_() for a in more]
    z = qp(*leaves)
    grads = torch.autograd.grad(z.pow(2).sum(), leaves)
    few = [a.clone().requires_grad_() for a in arrays]
    z0 = qp(*few)
    expected = torch.autograd.grad(z0.pow(2).sum(), few)
    assert torch.allclose(z, z0, atol=1e-9)
    assert torch.allclose(grads[1], expected[1], atol=1e-8) and torch.allclose(grads[0], expected[0], atol=1e-8)
    assert torch.allclose(grads[5][:, :4] + grads[5][:, 4:], expected[5], atol=1e-8)  # twins share what one row has
    assert all(g.isfinite().all() for g in grads)


def test_without_rows_it_is_a_linear_system(qp):
    Q, p = (a.detach() for a in batch(3, 5, 0, 0, 0)[:2])
    assert torch.allclose(qp(Q, p), -torch.linalg.solve(Q, p), atol=1e-10)
    empty = p.new_zeros(0, 5), p.new_zeros(0)
    assert torch.equal(qp(Q, p, *empty, *empty), qp(Q, p))
    assert qp(Q, p, return_duals=True)[1:] == (None, None)


def test_only_the_symmetric_part_of_Q_counts(qp):
    Q, p = (a.detach() for a in batch(3, 5, 0, 0, 0)[:2])
    skew = torch.from_numpy(RNG.standard_normal((5, 5)))
    assert torch.allclose(qp(Q + skew - skew.T, p), qp(Q, p), atol=1e-10)


def test_leading_dimensions_broadcast(qp):
    Q, p, A, b, G, h = problem(4, 1, 3, 2)
    many = np.stack([[p, 2 * p, -p], [0 * p, p + 1, p - 1]])
    z = qp(*tensors(Q, many, A, b, G[None], np.stack([h, h + 1])[:, None]))
    assert z.shape == (2, 3, 4)
    assert torch.allclose(z[1, 2], qp(*tensors(Q, p - 1, A, b, G, h + 1)), atol=1e-9)


def test_wrong_shapes_say_so(qp):
    Q, p, A, b, G, h = tensors(*problem(4, 1, 3, 2))
    for args, text in (
        ((Q[:3], p), r"Q ends in the dimensions \(3, 4\); expected \(4, 4\)"),
        ((Q, p, A), "found A without b"),
        ((Q, p, A, b, G.T, h), r"G ends in the dimensions \(4, 3\); expected \(3, 4\)"),
        ((p, p), "at least 2 dimensions"),
    ):
        with pytest.raises(ShapeError, match=text):
            qp(*args)


def test_it_compiles_in_jax(qp):
    arrays = [np.stack(a) for a in zip(*(problem(4, 1, 3, 2) for _ in range(3)), strict=True)]
    with jax.enable_x64(True):
        values = [jnp.asarray(a) for a in arrays]
        found = jax.jit(jax.grad(lambda *a: jnp.sum(cvxlayers.jax.qp(*a, **qp.keywords) ** 2), tuple(range(6))))(*values)
    leaves = tensors(*arrays)
    expected = torch.autograd.grad(qp(*leaves).pow(2).sum(), leaves)
    for a, g in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, g, atol=1e-8)


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_array_operations_report_what_they_find(framework):
    """Where there are values it is an error, and NaN in compiled code."""
    fw = FRAMEWORKS[framework]
    with fw.session():
        Q, p, G, h = (fw.array(a) for a in (np.eye(1), np.zeros(1), [[1.0], [-1.0]], [[1.0, 1], [-1, -1]]))
        with pytest.raises(SolverError, match="item 1: infeasible"):
            fw.module.qp(Q, p, G=G, h=h, solver="arrays")
        if framework == "jax":
            out = jax.jit(lambda h: cvxlayers.jax.qp(Q, p, G=G, h=h, solver="arrays"))(h)
            assert np.isnan(out).ravel().tolist() == [False, True]


def test_single_precision_by_arrays():
    args = [a.detach().float() for a in batch(10, 6, 2, 5, 3)]
    z = cvxlayers.torch.qp(*args, solver="arrays")
    assert z.dtype == torch.float32
    assert torch.allclose(z.double(), cvxlayers.torch.qp(*(a.double() for a in args)), atol=1e-4)


def test_the_call_of_qpth():
    Q, p, A, b, G, h = batch(3, 4, 1, 3, 2)
    none = torch.empty(0, dtype=torch.float64)
    call = cvxlayers.torch.QPFunction(verbose=-1, maxIter=10)
    assert torch.equal(call(Q, p, G, h, A, b), cvxlayers.torch.qp(Q, p, A, b, G, h))
    assert torch.equal(call(Q, p, none, none, A, b), cvxlayers.torch.qp(Q, p, A, b))
    assert call(Q[0], p[0], G[0], h[0], none, none).shape == (1, 4)


def test_the_module():
    Q, p, A, b, G, h = batch(3, 4, 1, 3, 2)
    layer = cvxlayers.torch.QP(return_duals=True)
    assert repr(layer) == "QP(return_duals=True)"
    for a, c in zip(layer(Q, p, A, b, G, h), cvxlayers.torch.qp(Q, p, A, b, G, h, return_duals=True), strict=True):
        assert torch.equal(a, c)


def dense(*shape):
    return np.ones(shape, bool)


FAMILIES = (Family("dense", dense(6, 6), dense(9, 6), 2, 0), Family("box", np.eye(8) > 0, np.repeat(np.eye(8), 2, 0) > 0, 0, 0))
KINDS = {"normal", "weak", "redundant", "scaled", "lp", "deficient", "redundant equalities"}


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in f.kinds if k in KINDS])
def test_the_two_ways_agree(family, kind):
    """Rows that are active without a multiplier, duplicates, linear programs, free variables, badly scaled data."""
    P, q, A, b = (np.stack(a) for a in zip(*(qps_problem(family, kind, RNG) for _ in range(10)), strict=True))
    k = family.zero
    args = tensors(P, q, *((A[:, :k], b[:, :k]) if k else ()))
    rows = dict(zip("Gh", tensors(A[:, k:], b[:, k:]), strict=True))
    found, expected = (cvxlayers.torch.qp(*args, **rows, solver=s) for s in ("arrays", "host"))
    f, g = ((z * (args[0] @ z[..., None])[..., 0] / 2 + args[1] * z).sum(-1) for z in (found, expected))
    assert ((f - g).abs() <= 1e-9 * (1 + g.abs())).all()
    assert kind in ("lp", "deficient") or torch.allclose(found, expected, rtol=1e-8, atol=1e-9)  # else not unique
