"""Bad inputs: each is an error of our own type that names the culprit; in a batch, the items."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from cvxpy.transforms.partial_optimize import partial_optimize

from cvxlayers import MissingDependencyError, ProblemError, ShapeError, SolverError
from cvxlayers.program import Status
from cvxlayers.torch import CvxpyLayer


def torch64(a):
    return torch.tensor(np.asarray(a), dtype=torch.float64)


def bounded(solver=None):
    """min |x - c|^2, l <= x <= 1: infeasible for l > 1."""
    c, l, x = cp.Parameter(2, name="c"), cp.Parameter(2, name="l"), cp.Variable(2, name="x")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= l, x <= 1]), [c, l], [x], solver=solver)


def linear(solver=None):
    """min c'x, x >= 0: unbounded where c < 0."""
    c, x = cp.Parameter(2, name="c"), cp.Variable(2, name="x")
    return CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], solver=solver)


@pytest.mark.parametrize("solver", ["moreau", "clarabel", "scs", "ecos", None])
def test_infeasible_items_are_named(solver):
    with pytest.raises(SolverError, match="item 1: infeasible; item 3: infeasible") as error:
        bounded(solver)(torch64([0.0, 0.0]), torch64([[0, 0], [0, 2], [-1, 0], [2, 2]]))
    assert error.value.items == (1, 3)
    assert error.value.statuses == (Status.INFEASIBLE,) * 2


@pytest.mark.parametrize("solver", ["moreau", "clarabel", "scs", "ecos", None])
def test_unbounded_items_are_named(solver):
    with pytest.raises(SolverError, match="item 0: unbounded") as error:
        linear(solver)(torch64([[-1, 1], [1, 1]]))
    assert error.value.items == (0,)
    assert error.value.statuses == (Status.UNBOUNDED,)


def test_a_single_problem_is_item_0():
    with pytest.raises(SolverError, match="item 0: infeasible"):
        bounded()(torch64([0, 0]), torch64([2, 2]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad):
    with pytest.raises(ProblemError, match=r"'l' \(position 1\) has a value that is NaN or infinite in batch items 1$"):
        bounded()(torch64([0, 0]), torch64([[0, 0], [0, bad]]))


@pytest.mark.parametrize(
    "values, message",
    [
        (
            [[0.0, 0, 0], [0.0, 0]],
            r"'c' \(position 0\) has shape \(3,\); expected \(2,\), or \(\.\.\., 2\) for a batch",
        ),
        ([[0.0, 0], 0.0], r"'l' \(position 1\) has shape \(\)"),
        ([[0.0, 0]], "got 1 values; expected 2, one for each parameter: 'c', 'l'"),
        ([[0.0, 0], [0.0, 0], [1.0]], "got 3 values"),
        ([], "got 0 values"),
        ([np.zeros((3, 2)), np.zeros((4, 2))], r"do not broadcast; found 'c': \(3, 2\), 'l': \(4, 2\)"),
    ],
)
def test_shapes_and_counts(values, message):
    with pytest.raises(ShapeError, match=message):
        bounded()(*map(torch64, values))


@pytest.mark.parametrize("bad", ["text", None, {"c": 1}, [[1.0], [2.0, 3.0]], torch.eye(2).to_sparse()[0]], ids=str)
def test_values_that_are_no_dense_tensors(bad):
    with pytest.raises(ShapeError, match=r"parameter 'c' \(position 0\) is a"):
        linear()(bad)


@pytest.mark.parametrize("attribute, bad", [("pos", -1.0), ("nonneg", -1.0), ("neg", 1.0), ("nonpos", 1.0)])
def test_declared_signs(attribute, bad):
    g, x = cp.Parameter(name="g", **{attribute: True}), cp.Variable()
    sign = 1 if bad < 0 else -1
    layer = CvxpyLayer(cp.Problem(cp.Minimize(sign * g * cp.square(x) + cp.square(x - 1))), [g], [x])
    with pytest.raises(ProblemError, match=rf"'g' \(position 0\) is declared {attribute}=True .* in batch items 0, 2"):
        layer(torch64([bad, -bad, bad]))


def test_declared_definiteness():
    P, x = cp.Parameter((2, 2), PSD=True, name="P"), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P)), [cp.sum(x) == 1]), [P], [x])
    with pytest.raises(
        ProblemError, match=r"'P' \(position 0\) is declared PSD=True and has a value that is not positive semidefinite"
    ):
        layer(torch64([[1, 2], [2, 1]]))
    layer(torch64([[1, 0], [0, 0.0]]))  # semidefinite is enough


def test_every_declared_attribute_counts():
    S, x = cp.Parameter((2, 2), PSD=True, nonneg=True, name="S"), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum(S @ cp.square(x))), [cp.sum(x) == 1]), [S], [x])
    with pytest.raises(ProblemError, match=r"declared nonneg=True"):
        layer(torch64([[1, -2], [-2, 5]]))


def test_a_wrapped_matrix_that_is_not_definite():
    S, x = cp.Parameter((2, 2), symmetric=True, name="S"), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, cp.psd_wrap(S)) + cp.sum(x)), [x >= -1, x <= 1]), [S], [x])
    with pytest.raises(ProblemError, match="depends on 'S', is not convex in batch items 1"):
        layer(torch64([[[1, 0], [0, 1]], [[1, 0], [0, -1]]]))


def test_rounding_does_not_break_a_declared_attribute():
    S, g, x = cp.Parameter((2, 2), PSD=True), cp.Parameter(nonneg=True), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, S) + g * cp.norm1(x)), [cp.sum(x) == 1]), [S, g], [x])
    v = torch.tensor([[0.1, 0.7]])
    layer(v.T @ v, torch.tensor(-1e-18))


def test_forms_that_cvxpy_cannot_compile():
    P, X = cp.Parameter((2, 3, 3), PSD=True, name="P"), cp.Variable((2, 3, 3))
    with pytest.raises(ProblemError, match="'P' has shape"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - P))), [P], [X])
    x, z, b = cp.Variable(2), cp.Variable(2), cp.Parameter(2)
    inner = partial_optimize(cp.Problem(cp.Minimize(cp.sum_squares(z - x)), [z >= 1]), [z])
    with pytest.raises(ProblemError, match="partial_optimize"):
        CvxpyLayer(cp.Problem(cp.Minimize(inner + cp.sum_squares(x - b))), [b], [x])
    p = cp.Variable(3)
    power = cp.Problem(cp.Minimize(cp.sum_squares(p - 1)), [cp.PowCone3D(p[0], p[1], p[2], 0.3), p[:2] <= b])
    with pytest.raises(ProblemError, match="no power cone"):
        CvxpyLayer(power, [b], [p], derivative="diffcp")


def test_logarithms_need_positive_values():
    a, x = cp.Parameter(pos=True, name="a"), cp.Variable(pos=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x + a / x)), [a], [x], gp=True)
    with pytest.raises(ProblemError, match=r"'a' \(position 0\) has a value that is not positive"):
        layer(torch64(0.0))


def test_complex_where_real_is_expected():
    with pytest.raises(ShapeError, match=r"'c' .* got a complex value; expected a real one"):
        linear()(torch.zeros(2, dtype=torch.complex128))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p, c, x: CvxpyLayer(p, [c], [x], solver="simplex"), "no solver 'simplex'; there are: clarabel"),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], solver_args={"epsilon": 1}), "has no option 'epsilon'; it has: "),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], derivative="magic"), "derivative='magic' does not exist"),
        (lambda p, c, x: CvxpyLayer(p, [c]), r"pass variables=\[...\] once; got it 0 times"),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], params=[c]), r"pass parameters=\[...\] once; got it 2 times"),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], gp=True), "not DGP"),
        (lambda p, c, x: CvxpyLayer(p, c, [x]), "parameters is a Parameter; expected a list"),
        (lambda p, c, x: CvxpyLayer(p, [c], x), "variables is a Variable; expected a list"),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], solver_args="fast"), "solver_args is a str; expected a dictionary"),
        (lambda p, c, x: CvxpyLayer(p, [c], [x], solver="clarabel", solver_args={"max_iter": "many"}), "does not accept"),
        (lambda p, c, x: CvxpyLayer("min x", [c], [x]), "expected a cvxpy.Problem"),
    ],
)
def test_constructor_arguments(make, message):
    c, x = cp.Parameter(2, name="c"), cp.Variable(2, name="x")
    with pytest.raises(ProblemError, match=message):
        make(cp.Problem(cp.Minimize(cp.sum_squares(x - c))), c, x)


def test_a_solver_without_the_needed_cone():
    X, C = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2))
    with pytest.raises(ProblemError, match="'ecos' has no psd cone"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C))), [C], [X], solver="ecos")


def test_a_missing_solver_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    with pytest.raises(MissingDependencyError, match="pip install scs"):
        linear("scs")


def test_errors_keep_their_fields_across_processes():
    import pickle

    error = pickle.loads(pickle.dumps(SolverError("text", [1], [Status.FAILED])))
    assert (str(error), error.items, error.statuses) == ("text", (1,), (Status.FAILED,))


def test_good_calls_still_work_after_bad_ones():
    layer = bounded()
    for _ in range(3):
        with pytest.raises(SolverError):
            layer(torch64([0, 0]), torch64([2, 2]))
        assert torch.allclose(layer(torch64([3.0, 0.5]), torch64([0, 0]))[0], torch64([1, 0.5]))


def test_a_compiled_layer_names_the_item_too():
    layer = bounded()
    compiled = torch.compile(layer, backend="aot_eager")
    with pytest.raises(Exception, match="item 0: infeasible"):
        compiled(torch64([0, 0]), torch64([2, 2]))
