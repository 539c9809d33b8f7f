"""Bad inputs: each is an error of our own type that names the culprit; in a batch, the items."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxlayers import MissingDependencyError, ProblemError, SolverError
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


def test_declared_definiteness():
    P, x = cp.Parameter((2, 2), PSD=True, name="P"), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P)), [cp.sum(x) == 1]), [P], [x])
    with pytest.raises(
        ProblemError, match=r"'P' \(position 0\) is declared PSD=True and has a value that is not positive semidefinite"
    ):
        layer(torch64([[1, 2], [2, 1]]))
    layer(torch64([[1, 0], [0, 0.0]]))  # semidefinite is enough


def test_rounding_does_not_break_a_declared_attribute():
    S, g, x = cp.Parameter((2, 2), PSD=True), cp.Parameter(nonneg=True), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, S) + g * cp.norm1(x)), [cp.sum(x) == 1]), [S, g], [x])
    v = torch.tensor([[0.1, 0.7]])
    layer(v.T @ v, torch.tensor(-1e-18))


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
