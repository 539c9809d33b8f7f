"""The shortcut of small QPs answers as the general path does, or not at all."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import ProblemError, SolverError, native
from cvxlayers.layer import ConeLayer
from cvxlayers.layers.qp import host_qp

from .bad_values import VALUES
from .degenerate import DEGENERATE
from .problems import CASES
from .support import flat

pytestmark = pytest.mark.skipif(not native.available(), reason="the native engine has not been built")
SHORT = ("lp", "qp", "maximize", "qp_quad_form", "attributes")  # the rows of the tables that have a shortcut
BAD = """
    nan inf minus_inf nan_in_P nan_in_q nan_in_A nan_in_b nan_without_effect pos nonneg neg nonpos psd psd_slightly nsd
    two_attributes infeasible_qp infeasible_lp infeasible_by_little inconsistent_equalities inconsistent_equalities_by_little
    inconsistent_data zero_row unbounded_lp unbounded_free unbounded_qp unbounded_quad_form infeasible_and_unbounded
""".split()
ANSWERED = """
    redundant_equalities constraints_twice equality_as_two_inequalities equality_and_its_inequalities
    a_point_at_the_corner_of_many_rows assignment free_columns a_parameter_that_frees_a_column zero_rows
    an_empty_inside_of_bounds nothing_to_minimize
""".split()


def general(layer):
    """The same layer without its shortcut."""
    other = copy.copy(layer)
    vars(other)["shortcut"] = None
    return other


def assert_same(layer, theta, seed=0, tol=1e-13):
    """Outputs, what is saved and cotangents are those of the general path; whether the shortcut has answered both ways."""
    found, slow = layer.shortcut.forward(theta), general(layer)
    outputs, saved = slow.forward(*theta)
    if found is None:
        return False
    for a, b in zip((*found[0], *found[1]), (*outputs, *saved), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1, np.abs(b).max(initial=0)))
    c = [np.random.default_rng(seed).standard_normal(o.shape) for o in outputs]
    grads, expected = layer.shortcut.vjp(saved, c), slow.vjp(saved, *c)
    if grads is None:
        return False
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(*np.broadcast_arrays(a, b), rtol=1e-12, atol=1e-13 * max(1, np.abs(b).max(initial=0)))
    return True


def dense(n, m, equalities=0):
    """min 1/2 z'Qz + p'z, G z <= h, A z == b, and values of the parameters, (B, size) each."""
    Q, p, G, h, z = cp.Parameter((n, n), PSD=True), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    A, b = cp.Parameter((equalities, n)), cp.Parameter(equalities)
    rows = [G @ z <= h] + ([A @ z == b] if equalities else [])
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(z, Q) + p @ z), rows)

    def sample(B, seed):
        rng = np.random.default_rng(seed)
        U, point = rng.random((B, n, n)), rng.standard_normal((B, n, 1))
        G, A = rng.standard_normal((B, m, n)), rng.standard_normal((B, equalities, n))
        h = (G @ point)[..., 0] + rng.random((B, m))
        values = [U @ U.swapaxes(1, 2) + 1e-3 * np.eye(n), rng.standard_normal((B, n)), G, h, A, (A @ point)[..., 0]]
        return [v.reshape(B, -1) for v in values[: 6 if equalities else 4]]

    parameters = [Q, p, G, h, *([A, b] if equalities else [])]
    return ConeLayer(problem, parameters, [z, rows[0].dual_variables[0]]), sample


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (10, 10), (6, 4, 3), (20, 30, 5)], ids=str)
def test_random_batches(shape):
    layer, sample = dense(*shape)
    answered = [assert_same(layer, sample(1 + seed % 8, seed), seed, tol=1e-11) for seed in range(30)]  # conditions up to 1e4
    assert sum(answered) >= 28


@pytest.mark.parametrize("rows", [(0, 5), (2, 4)], ids=str)
def test_the_curvature_of_qp_is_checked(rows):
    """Its Q is not declared semidefinite, and its symmetric part counts."""
    layer, (_, sample) = host_qp(6, *rows, True), dense(6, rows[1], rows[0])
    Q, p, G, h, *equalities = sample(3, 2)
    skew = np.random.default_rng(0).standard_normal((6, 6))
    theta = [Q + (skew - skew.T).ravel(), p, *equalities, G, h]
    assert assert_same(layer, theta, tol=1e-11)
    theta[0][1] -= 1e3 * np.eye(6).ravel()
    assert layer.shortcut.forward(theta) is None
    with pytest.raises(ProblemError, match="depends on 'Q', is not convex in batch items 1"):
        layer.forward(*theta)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 2), (1, 3), (0, 1, 2, 3)], ids=str)
def test_parameters_that_are_the_same_for_the_batch(which):
    layer, sample = dense(5, 6)
    theta = sample(4, 0)
    shared = [v[:1] if i not in which else v for i, v in enumerate(theta)]
    if 2 in which or 3 in which:  # rows of different items, in general without a point: far enough from all of them
        shared[3] = shared[3] + 10
    assert assert_same(layer, shared, tol=1e-12)


def test_more_leading_dimensions():
    layer, sample = dense(4, 4)
    theta = [v.reshape(2, 3, -1) for v in sample(6, 1)]
    assert assert_same(layer, theta, tol=1e-12)
    theta[0] = theta[0][:1, :1]
    assert assert_same(layer, theta, tol=1e-12)
    theta[1] = theta[1][:, :1]
    assert layer.shortcut.forward(theta) is None  # of a batch of its own kind


@pytest.mark.parametrize("name", SHORT)
def test_the_table_of_problems(name):
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables)
    theta = flat(case.values)
    assert assert_same(layer, theta)
    rng = np.random.default_rng(3)
    several = [np.concatenate([v * (1 + 1e-3 * rng.random()) for _ in range(5)]) for v in theta]
    assert assert_same(layer, several, tol=1e-12)


@pytest.mark.parametrize("name", DEGENERATE)
def test_problems_that_look_bad(name):
    row = DEGENERATE[name]()
    layer = ConeLayer(row.problem, row.parameters, row.variables, gp=row.gp)
    answered = layer.shortcut is not None and assert_same(layer, flat(row.values), tol=1e-12)
    assert answered == (name in ANSWERED)


@pytest.mark.parametrize("name", sorted(set(VALUES) - set(BAD)))
def test_what_else_has_bad_values_has_no_shortcut(name):
    row = VALUES[name]()
    assert ConeLayer(row.problem, row.parameters, row.variables, gp=row.gp).shortcut is None


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_left_to_the_general_path(name):
    row = VALUES[name]()
    layer = ConeLayer(row.problem, row.parameters, row.variables, gp=row.gp)
    theta = [np.concatenate(pair) for pair in zip(flat(row.good), flat(row.bad), flat(row.good), strict=True)]
    assert layer.shortcut.forward(theta) is None
    texts = []
    for one in (layer, general(layer)):
        with pytest.raises((ProblemError, SolverError)) as error:
            one.forward(*theta)
        texts.append((type(error.value), str(error.value)))
    assert texts[0] == texts[1]
    nan = layer.with_options(on_error="nan")
    outputs, saved = nan.forward(*theta)
    c = [np.ones_like(o) for o in outputs]
    assert nan.shortcut.vjp(saved, c) is None  # an item that is not good
    for a, b in zip(nan.vjp(saved, *c), general(nan).vjp(saved, *c), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rough_answers_are_refined():
    """Some items of badly conditioned problems come with a residual above the target, and take a step of Newton's."""
    layer, sample = dense(10, 10)
    found = layer.evaluate(sample(300, 5))
    rough = np.flatnonzero(found.solved.point.steps)
    assert rough.size
    for i in rough.tolist():
        assert assert_same(layer, [v[[i]] for v in sample(300, 5)], tol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e6])
def test_odd_units_are_left_to_the_general_path(scale):
    layer, sample = dense(4, 5)
    Q, p, G, h = sample(2, 0)
    assert (layer.shortcut.forward([Q, scale * p, G, scale * h]) is None) == (scale != 1e-2)
    for a, b in zip(layer.forward(Q, scale * p, G, scale * h)[0], layer.forward(Q, p, G, h)[0], strict=True):
        np.testing.assert_allclose(a, scale * b, rtol=1e-9)


def test_zero_data_have_ordinary_units():
    b, x = cp.Parameter(3), cp.Variable(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])  # no right-hand side but zero
    assert assert_same(layer, [np.array([[1.0, -2.0, 3.0]])])


def test_options_and_copies():
    layer, sample = dense(3, 4)
    theta = sample(2, 0)
    first, expected = layer.shortcut, layer.forward(*theta)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.with_options(on_error="nan")):
        assert other.shortcut is not first
        for a, b in zip(other.forward(*theta)[0], expected[0], strict=True):
            np.testing.assert_array_equal(a, b)
    assert layer.with_options({"max_iter": 7}).shortcut.max_iter == 7
    assert assert_same(layer.with_options(on_error="nan"), theta, tol=1e-12)


@pytest.mark.parametrize(
    "options", [{"solver": "clarabel"}, {"derivative": "smoothed"}, {"derivative": "lpgd"}, {"verbose": True}], ids=str
)
def test_layers_without_a_shortcut(options):
    case = CASES["qp"]()
    assert ConeLayer(case.problem, case.parameters, case.variables, **options).shortcut is None


@pytest.mark.parametrize("name", ["socp", "geometric", "entropy", "psd_variable"])
def test_problems_without_a_shortcut(name):
    case = CASES[name]()
    assert ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp).shortcut is None


def test_large_batches_are_left_to_the_general_path():
    layer, sample = dense(10, 10)
    assert layer.shortcut.forward(sample(layer.shortcut.most + 1, 0)) is None
    assert layer.shortcut.forward([v[:0] for v in sample(1, 0)]) is None
