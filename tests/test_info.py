"""What a layer reports of a call: the objective with its derivatives, who answered, what is degenerate, what failed."""

import cvxpy as cp
import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from cvxlayers import ConeLayer, Info, Status, native
from cvxlayers.info import RUNGS
from cvxlayers.informed import InformedLayer

from .frameworks import FRAMEWORKS, numpy
from .problems import CASES
from .support import assign, central, compiled, cvxpy_solution, factored, flat, relative, tangents
from .test_on_error import BAD, GOOD, B, U, problem

RNG = np.random.default_rng(2)


def informed(name, warm=False):
    """(case, InformedLayer, inputs, outputs, saved) of a case."""
    case, layer, theta, *_ = compiled(name)
    report = InformedLayer(layer, warm)
    inputs = [*theta, *(np.zeros((1, k)) for k in report.in_sizes[len(theta) :])]
    return case, report, inputs, *report.forward(*inputs)


def objective(report, theta):
    """The objective alone."""
    return report.forward(*theta)[0][len(report.layer.outputs)]


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_objective_is_cvxpys_and_its_derivative_that_of_differences(name):
    case, report, theta, outputs, saved = informed(name)
    cvxpy_solution(case)
    k = len(report.layer.outputs)
    assert outputs[k].item() == pytest.approx(case.problem.value, rel=1e-7, abs=1e-7)
    t = tangents(report.layer)
    slope = report.jvp(saved, *t)[k]
    expected = central(lambda theta: [objective(report, theta)], theta, t)[0]
    assert relative(slope, expected) <= 1e-8


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_laws(name, warm):
    _, report, _, outputs, saved = informed(name, warm)
    s, t = ([RNG.standard_normal((1, k)) for k in report.in_sizes] for _ in range(2))
    c = [RNG.standard_normal(o.shape) for o in outputs]
    forward = report.jvp(saved, *t)
    size = sum(np.abs(x * y).sum() for x, y in zip(c, forward, strict=True))
    assert abs(inner(c, forward) - inner(report.vjp(saved, *c), t)) <= 1e-12 * size
    second = report.jvp2(saved, s, t)
    size = sum(np.abs(x * y).sum() for x, y in zip(c, second, strict=True))
    assert abs(inner(c, second) - inner(report.vjp2(saved, t, c), s)) <= 1e-11 * size


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_of_the_objective(name):
    _, report, theta, _, saved = informed(name)
    s, t = tangents(report.layer), [d[:, ::-1] for d in tangents(report.layer)]
    k = len(report.layer.outputs)

    def slope(theta):
        return [report.jvp(report.forward(*theta)[1], *t)[k]]

    expected = central(slope, theta, s)[0]
    assert np.abs(report.jvp2(saved, s, t)[k] - expected).max() <= 1e-7 * max(1, np.abs(expected).max())


def test_the_objective_alone_needs_no_linear_solve(monkeypatch):
    _, report, _, outputs, saved = informed("socp")
    k = len(report.layer.outputs)
    c = [np.zeros_like(o) for o in outputs]
    c[k] = np.ones_like(c[k])
    expected = report.vjp(saved, *c)
    monkeypatch.setattr(type(report.layer.derivative), "vjp", None)
    for a, b in zip(report.vjp(saved, *c), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(g.any() for g in expected)


def test_fields_of_a_batch_with_bad_items(fw):
    layer = fw.module.CvxpyLayer(*problem(), on_error="nan")
    values = [fw.array(B), fw.array(U), fw.array(0.1)]
    (x, _), info = layer(*values, return_info=True)
    assert isinstance(info, Info)
    assert numpy(info.status).tolist() == [0, Status.INFEASIBLE, Status.INVALID, Status.INVALID, 0]
    assert info.solver_names.tolist() == ["moreau", "none", "none", "none", "moreau"]
    assert np.isnan(numpy(info.objective)[BAD]).all() and (numpy(info.residual)[GOOD] <= 1e-12).all()
    assert (numpy(info.iterations)[GOOD] > 0).all() and (numpy(info.solve_time) >= 0).all()
    assert numpy(info.degenerate).dtype == bool and not numpy(info.degenerate).any()
    assert numpy(info.x).shape[0] == 5 and np.isnan(numpy(info.y)[BAD]).all()
    np.testing.assert_array_equal(numpy(x), numpy(layer(*values)[0]))
    text = repr(info)
    assert "batch 5, 2 solved by moreau, 1 infeasible, 2 invalid, worst residual" in text
    problem_, parameters, _ = problem()
    for i in GOOD:
        assign(parameters, [B[i], U[i], 0.1])
        assert numpy(info.objective)[i] == pytest.approx(problem_.solve(solver="CLARABEL"), abs=1e-7)


def test_gradients_of_the_objective(fw):
    """By the envelope theorem, for the good items; the report has no derivatives."""
    layer = fw.module.CvxpyLayer(*problem(), on_error="nan")
    values = [fw.array(B), fw.array(U), fw.array(0.1)]

    def loss(*values):
        _, info = layer(*values, return_info=True)
        return (
            fw.dot(info.objective[0], np.array(2.0))
            + fw.dot(info.residual[0], np.array(3.0))
            + fw.dot(info.x[0], np.ones(info.x.shape[-1]))
        )

    gb, gu, ga = fw.gradients(loss, values)
    (x, _), _ = layer(*values, return_info=True)
    assert np.isfinite(numpy(gb)).all() and not numpy(gb)[1:].any() and not numpy(gu)[1:].any()
    np.testing.assert_allclose(numpy(ga), 2 * numpy(x)[0, 1], rtol=1e-9)  # a stands before x[1] in the objective
    core = ConeLayer(*problem())
    f = lambda theta: [objective(InformedLayer(core), theta)]  # noqa: E731
    expected = central(f, flat([B[0], U[0], 0.1]), flat([np.array([1.0, -2.0]), np.zeros(2), 0.0]))[0]
    assert numpy(gb)[0] @ [1.0, -2.0] == pytest.approx(2 * expected.item(), rel=1e-8)


def test_compiled_code():
    b, u = torch.tensor(B[GOOD]), torch.tensor(U[GOOD])
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem())
    _, expected = layer(b, u, 0.1, return_info=True)

    def same(info):
        assert isinstance(info, Info)
        for name in ("status", "solver", "iterations", "degenerate"):
            np.testing.assert_array_equal(numpy(getattr(info, name)), getattr(expected, name).numpy())
        np.testing.assert_allclose(numpy(info.objective), expected.objective.numpy(), rtol=1e-12)

    compiled = torch.compile(lambda b, u: layer(b, u, 0.1, return_info=True)[1], fullgraph=True, backend="aot_eager")
    same(compiled(b, u))
    same(torch.func.vmap(lambda b, u: layer(b, u, 0.1, return_info=True)[1])(b, u))
    with jax.enable_x64(True):
        layer = FRAMEWORKS["jax"].module.CvxpyLayer(*problem())
        f = jax.vmap(lambda b, u: layer(b, u, 0.1, return_info=True)[1])
        same(jax.jit(f)(B[GOOD], U[GOOD]))
        g = jax.jit(jax.grad(lambda b: f(b, U[GOOD]).objective.sum()))(B[GOOD])
        assert np.abs(g).min() > 0
        shapes = []
        jax.jit(lambda b: shapes.append(repr(layer(b, U[0], 0.1, return_info=True)[1])) or b)(B[0])
        assert shapes == ["Info(batch (), values not known yet)"]
    layer = FRAMEWORKS["tensorflow"].module.CvxpyLayer(*problem())
    same(tf.function(lambda b, u: layer(b, u, tf.constant(0.1, tf.float64), return_info=True)[1])(B[GOOD], U[GOOD]))


def test_the_rung_that_answers_is_told(monkeypatch):
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem())
    first = layer._handle.map.solvers[0]
    answer = first.solve

    def half(program, warm=None):
        found = answer(program, warm)
        found.x[1] += 7.0  # said to be solved
        found.y[1] = np.nan
        return found

    monkeypatch.setattr(first, "solve", half)
    (x, _), info = layer(torch.tensor(B[GOOD]), torch.tensor(U[GOOD]), 0.1, return_info=True)
    assert info.solver_names.tolist() == ["moreau", "clarabel"]
    assert info.solver.tolist() == [RUNGS.index("moreau"), RUNGS.index("clarabel")]
    monkeypatch.undo()
    np.testing.assert_allclose(x, layer(torch.tensor(B[GOOD]), torch.tensor(U[GOOD]), 0.1)[0], atol=1e-12)


def _degenerate():
    c, x, w = cp.Parameter(2), cp.Variable(2), cp.Variable(2)
    simplex = [x >= 0, cp.sum(x) == 1]
    yield "a vertex of an LP", cp.Minimize(c @ x), simplex, [1, 2], False
    yield "an edge of an LP", cp.Minimize(c @ x), simplex, [1, 1], True
    yield "a projection", cp.Minimize(cp.sum_squares(x - c)), simplex, [0.9, 0.7], False
    yield "a projection at a kink", cp.Minimize(cp.sum_squares(x - c)), simplex, [1.5, 0.5], True
    yield "a redundant equality", cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, 2 * cp.sum(x) == 2], [0.9, 0.7], True
    yield "a variable without effect", cp.Minimize(cp.sum_squares(x - c) + 0 * cp.sum(w)), [], [0.9, 0.7], True
    yield "the edge of a ball", cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= 1], [0.6, 0.8], True
    yield "outside of a ball", cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= 1], [3, 4], False
    yield "a matrix at the edge of the cone", cp.Minimize(cp.sum_squares(x - c)), [cp.diag(x) >> 0], [0, 1], True
    yield "a matrix across the edge", cp.Minimize(cp.sum_squares(x - c)), [cp.diag(x) >> 0], [-1, 1], False


@pytest.mark.parametrize(("objective", "rows", "c", "expected"), [pytest.param(*r, id=name) for name, *r in _degenerate()])
@pytest.mark.parametrize("path", ["dense", "factored"])
def test_degenerate_problems_are_flagged(objective, rows, c, expected, path, monkeypatch):
    if path == "factored":
        factored(monkeypatch)
    problem = cp.Problem(objective, rows)
    x = next(v for v in problem.variables() if v.shape == (2,))
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(problem, problem.parameters(), [x])
    _, info = layer(torch.tensor(c, dtype=torch.float64), return_info=True)
    assert info.degenerate.item() is expected


def test_verbose_prints_one_line_for_a_batch(capsys):
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*problem(), verbose=True, on_error="nan")
    layer(torch.tensor(B), torch.tensor(U), 0.1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("cvxlayers: batch 5, 2 solved by moreau, 1 infeasible, 2 invalid, worst residual ")
    assert line.endswith(" ms")


def test_what_a_layer_does_beside_its_problem_is_part_of_its_identity(capsys):
    """JAX gives equal static layers the same compiled code."""
    c, x = cp.Parameter(2), cp.Variable(2)
    program = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0])
    silent, loud = (FRAMEWORKS["jax"].module.CvxpyLayer(program, [c], [x], verbose=v) for v in (False, True))
    solve = jax.jit(lambda layer, v: layer(v)[0])
    for layer in (silent, loud):
        solve(layer, np.ones(2, np.float32)).block_until_ready()
    assert capsys.readouterr().out.startswith("cvxlayers: batch 1, 1 solved by ")
    near, far = (ConeLayer(program, [c], [x], derivative="smoothed", derivative_options={"mu": mu}) for mu in (0.1, 0.1 + 1e-9))
    assert near.fingerprint() != far.fingerprint()


def test_a_layer_prints_what_it_has_compiled(fw):
    b, u, x = cp.Parameter(2, name="b"), cp.Parameter(nonneg=True, name="u"), cp.Variable(2, name="x")
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x <= u, cp.sum(x) == 1]), [b, u], [x])
    first = "native, then " if native.available() else ""
    assert str(layer).splitlines() == [
        "CvxpyLayer",
        "  parameters  b (2,), u () nonneg",
        "  variables   x (2,)",
        "  program     4 variables, 5 rows: zero 3, nonneg 2",
        f"  solvers     {first}moreau, then clarabel, then moreau (tight), then clarabel (tight)",
        "  derivative  implicit",
        "  on error    raise",
    ]


def test_float32_and_no_parameters(fw):
    layer = fw.module.CvxpyLayer(*problem())
    values = [fw.array(a, "float32") for a in (B[GOOD], U[GOOD], 0.1)]
    _, info = layer(*values, return_info=True)
    assert all(numpy(a).dtype == np.float32 for a in (info.objective, info.x, info.residual, info.solve_time))
    x = cp.Variable(2)
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1) + 3)), [], [x])
    (out,), info = layer(return_info=True)
    assert numpy(info.objective) == pytest.approx(3, abs=1e-6) and numpy(info.status).shape == ()
    np.testing.assert_array_equal(numpy(layer(warm_start=info)[0]), numpy(out))
