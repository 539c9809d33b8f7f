"""The residual map: zero at a solution, and Newton on it turns a solver's answer into an exact one."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import ConeLayer, ProblemError, SolverError
from cvxlayers.batching import flatten
from cvxlayers.ladder import solve
from cvxlayers.program import ConeData, ConeDims, Pattern, Structure
from cvxlayers.residual import accepted, refine, residual, tolerance
from cvxlayers.solvers import SOLVERS

from .problems import CASES, POLYHEDRAL, SECOND_ORDER
from .programs import make_program
from .support import compiled

EXACT = {f.__name__ for f in (*POLYHEDRAL, *SECOND_ORDER)}


def solution(layer, saved):
    """(x, v) of what a layer has saved."""
    state, n, m = saved[len(layer.derivative.needs)], layer.structure.n, layer.structure.m
    return state[:, :n], state[:, n : n + m]


@pytest.mark.parametrize("name", CASES)
def test_solutions_are_accepted_far_below_the_tolerance(name):
    _, layer, theta, _, saved = compiled(name)
    data = ConeData(*flatten(layer.param_map.apply(theta)[:4])[1])
    size = residual(layer.structure, data, *solution(layer, saved)).size
    assert tolerance(layer.structure) == (1e-9 if name in EXACT else 1e-8)
    assert size.max() <= 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("noise", [1e-6, 1e-4])
def test_newton_restores_a_perturbed_solution(name, noise):
    _, layer, theta, _, saved = compiled(name)
    data = ConeData(*flatten(layer.param_map.apply(theta)[:4])[1])
    rng = np.random.default_rng(0)
    x, v = solution(layer, saved)
    start = [a + noise * rng.standard_normal(a.shape) for a in (x, v)]
    point = refine(layer.structure, data, *start)
    assert point.size.max() <= 1e-12
    assert np.allclose(point.x, x, atol=1e-8)


def _toy():
    S = Structure(2, ConeDims(nonneg=2), Pattern([0, 1], [0, 1], (2, 2)), Pattern([0, 1], [0, 1], (2, 2)))
    return S, ConeData(np.ones((1, 2)), np.array([[-1.0, 2.0]]), -np.ones((1, 2)), np.zeros((1, 2)))


def test_the_residual_of_a_projection_onto_the_orthant_by_hand():
    S, data = _toy()  # min 1/2 |x|^2 - x1 + 2 x2, x >= 0: x = (1, 0), y = (0, 2)
    assert residual(S, data, np.array([[1.0, 0.0]]), np.array([[-1.0, 2.0]])).size == 0
    r = residual(S, data, np.array([[1.0, 0.5]]), np.array([[-1.0, 2.0]]))
    assert np.array_equal(r.r1, [[0, 0.5]])
    assert np.array_equal(r.r2, [[0, -0.5]])
    assert r.size == pytest.approx(0.5 / 2)  # |r2| / (1 + max(|Ax|, |s|, |b|)); r1 is relative to 1 + 2


def test_items_do_not_touch_each_other():
    S, data = _toy()
    batch = ConeData(data.P, np.repeat(data.q, 3, 0), data.A, data.b)
    x, v = np.array([[1.1, 0.1], [np.nan, 0], [0.9, -0.1]]), np.repeat([[-1.0, 2.0]], 3, 0)
    point = refine(S, batch, x, v)
    assert np.isinf(point.size[1])
    assert np.array_equal(point.x[[0, 2]], [[1, 0], [1, 0]])
    assert point.inverse is None or np.isfinite(point.inverse).all()


def test_refinement_never_worsens():
    S, data = _toy()
    rng = np.random.default_rng(0)
    x, v = 10 * rng.standard_normal((50, 2)), 10 * rng.standard_normal((50, 2))
    data = ConeData(data.P, np.repeat(data.q, 50, 0), data.A, data.b)
    assert (refine(S, data, x, v).size <= residual(S, data, x, v).size).all()


def _irregular():
    n = 5
    x, c = cp.Variable(n), cp.Parameter(n)
    yield "powers at zero", cp.Minimize(cp.sum(cp.power(cp.pos(x), 1.5)) + cp.sum_squares(x - c)), []
    yield "a norm of powers", cp.Minimize(cp.pnorm(x, 4) + 0.5 * cp.sum_squares(x - c)), []
    yield "bounds that entropy implies", cp.Maximize(cp.sum(cp.entr(x)) + 10 * c @ x), [x >= 0, cp.sum(x) == 1, x <= 0.7]
    yield "a constraint twice", cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0, cp.sum(x) <= 1, x <= 1]
    yield "two norms at zero", cp.Minimize(cp.norm(x[:2]) + cp.norm(x[2:]) + 0.5 * cp.sum_squares(x - c)), [cp.sum(x) == 1]
    yield "badly scaled", cp.Minimize(1e-6 * cp.sum_squares(x - c) + 1e-9 * cp.norm1(x)), [cp.sum(x) <= 1e3]


@pytest.mark.parametrize(("objective", "constraints"), [pytest.param(o, c, id=name) for name, o, c in _irregular()])
def test_solutions_that_are_not_regular(objective, constraints):
    """Weakly active rows, apexes of cones, redundant rows: where a solver stops at 1e-7 and a line search gets stuck."""
    problem = cp.Problem(objective, constraints)
    layer = ConeLayer(problem, problem.parameters(), problem.variables())
    theta = np.random.default_rng(0).standard_normal((60, 5))
    data = ConeData(*flatten(layer.param_map.apply([theta])[:4])[1])
    assert solve(layer.structure, data, layer.solvers).size.max() <= 1e-10


@pytest.mark.parametrize("gap", [4e-8, 1e-6, 1e-3])
def test_a_vertex_with_an_almost_free_edge(gap):
    """Newton stands still where it takes the edge for free; the solvers' points are too rough to tell."""
    n = 20
    mu, w = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Maximize(mu @ w), [cp.sum(w) == 1, w >= 0, cp.norm(w) <= 2])
    value = np.random.default_rng(0).random((16, n)) - 1
    value[:, 3], value[:, 7] = 0.5, 0.5 - gap
    (found,) = ConeLayer(problem, [mu], [w]).forward(value)[0]
    np.testing.assert_allclose(found, np.eye(n)[[3] * 16], atol=1e-12)


def _without_strong_duality():
    k, x = cp.Parameter(), cp.Variable(2)
    norm = cp.Problem(cp.Minimize(k * x[0]), [cp.norm(x) <= x[1]])  # x[0] = 0, and no multiplier
    yield "a ray of a ball", norm, k, x
    M = cp.bmat([[np.zeros(()), x[0], 0.0], [x[0], x[1], 0.0], [0.0, 0.0, x[0] + 1]])
    yield "a gap between matrices", cp.Problem(cp.Minimize(k * x[0]), [M >> 0]), k, x  # 0 against the dual's -1


@pytest.mark.parametrize("solver", [None, *sorted(SOLVERS)])
@pytest.mark.parametrize(("problem", "k", "x"), [pytest.param(*a, id=name) for name, *a in _without_strong_duality()])
def test_points_whose_gap_rounding_hides_are_no_solutions(problem, k, x, solver):
    """x[0] = -10 and x[1] = 1e18 has a residual of 1e-16."""
    if solver and not SOLVERS[solver].installed():
        pytest.skip(f"the optional package {SOLVERS[solver].package} is not installed")
    try:
        layer = ConeLayer(problem, [k], [x], solver=solver)
    except ProblemError as error:
        pytest.skip(str(error))  # the solver lacks the cone
    with pytest.raises(SolverError):
        layer.forward(np.ones((1, 1)))


@pytest.mark.parametrize("cones", ["soc", "psd", "exp", "power"])
def test_newton_converges_from_rough_points(cones):
    """Moreau stops at 1e-6 on curved cones: that is enough for random programs, so that no other solver is asked."""
    if not SOLVERS["moreau"].installed():
        pytest.skip("moreau is not installed")
    dims = {"soc": ConeDims(2, 6, (4, 7)), "psd": ConeDims(1, 3, (), (3, 5)), "exp": ConeDims(2, 4, exp=6)}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        dimensions = dims.get(cones) or ConeDims(nonneg=4, power=(0.3, 0.5, 0.8))
        program, _ = make_program(rng, dimensions, int(rng.integers(4, 30)), 8, quadratic=bool(seed % 2))
        S, data = program
        solver = SOLVERS["moreau"](S)
        assert solver.settings["tol_feas"] == 1e-6
        found = solver.solve(program)
        assert accepted(S, data, refine(S, data, found.x, found.y - found.s)).all()
