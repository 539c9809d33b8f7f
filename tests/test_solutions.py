"""Layers against CVXPY: the same variables, the same dual variables, whichever solver and whichever batch."""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from cvxlayers import ConeLayer, ProblemError
from cvxlayers.solvers import SOLVERS
from cvxlayers.torch import CvxpyLayer

from .problems import CASES
from .support import compiled, cvxpy_solution, flat, relative

LAYERS = [n for n in CASES if n not in ("power_nd",)]


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_duals_are_cvxpys(name):
    case = CASES[name]()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp)
    outputs = layer(*(torch.tensor(v) for v in case.values))
    for value, expected, variable in zip(outputs, cvxpy_solution(case), case.variables, strict=True):
        assert value.shape == variable.shape
        assert np.allclose(value.numpy(), expected, atol=2e-5), variable  # Clarabel's own accuracy in x


def test_the_n_dimensional_power_cone():
    case, _, theta, outputs, _ = compiled("power_nd")
    w, z = outputs[:2]
    assert (w >= 0).all()
    assert np.prod(w ** np.array([0.2, 0.3, 0.5])) == pytest.approx(abs(z[0, 0]), rel=1e-9)
    assert np.allclose(w[0], cvxpy_solution(case)[0], atol=1e-6)
    assert theta[0].shape == (1, 4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_solver_gives_the_same_refined_solution(name, solver):
    if not SOLVERS[solver].installed():
        pytest.skip(f"the optional package {SOLVERS[solver].package} is not installed")
    case, _, theta, expected, _ = compiled(name)
    arguments = (case.problem, case.parameters, case.variables[:1])
    kind = SOLVERS[solver]
    layer = None
    with contextlib.suppress(ProblemError):
        layer = ConeLayer(*arguments, gp=case.gp, solver=solver)
    if layer is None:  # then the solver lacks something, and the message says so
        with pytest.raises(ProblemError, match=f"{solver!r} has no|takes no quadratic objective"):
            ConeLayer(*arguments, gp=case.gp, solver=solver)
        assert not kind.quadratic or {"psd", "exp", "power"} - kind.cones
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffcp prints SCS's doubts; the residual test is the judge
        outputs, _ = layer.forward(*theta)
    assert relative(outputs[0], expected[0]) <= 1e-8


@pytest.mark.parametrize("solver", ["moreau", "clarabel", "scs"])
def test_one_problem_serves_several_layers(solver):
    case = CASES["qp"]()
    first = ConeLayer(case.problem, case.parameters, case.variables, solver=solver)
    second = ConeLayer(case.problem, case.parameters[::-1], case.variables[::-1], solver="clarabel")
    theta = flat(case.values)
    for _ in range(2):
        a, b = first.forward(*theta)[0], second.forward(*theta[::-1])[0]
        for x, y in zip(a, b[::-1], strict=True):
            assert np.allclose(x, y, atol=1e-10)


def test_dual_variables_are_sensitivities():
    """For every constraint kind: d(optimal value)/d(right-hand side) is minus the dual variable, by differences."""
    case, layer, theta, outputs, _ = compiled("maximize")
    x, y = outputs
    e = 1e-5

    def objective(c, r):
        z = layer.forward(c, r)[0][0]
        return (c * z - z**2).sum()

    slope = (objective(theta[0], theta[1] + e) - objective(theta[0], theta[1] - e)) / (2 * e)
    assert slope == pytest.approx(float(y[0, 0]), rel=1e-6)  # a Maximize problem keeps nonnegative multipliers
    assert case.problem.objective.NAME == "maximize"
    assert x.shape == (1, 4)
