"""Compilation: the data are CVXPY's own, to the last digit, and nothing is baked in, dropped or left changed."""

import gc
import warnings

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import ConeLayer
from cvxlayers.canonicalize import canonicalize

from .problems import CASES, REAL
from .support import assign, compiled


@pytest.mark.parametrize("name", [n for n in REAL if n != "power_nd"])  # CVXPY's Clarabel keeps the n-dimensional power cone
def test_data_equal_cvxpys(name):
    case, layer, theta, *_ = compiled(name)
    P, q, A, b, d = layer.param_map.apply(theta)
    assign(case.parameters, case.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = cp.Problem(case.problem.objective, case.problem.constraints)
        data, _, inverse = wrapper.get_problem_data("CLARABEL", gp=case.gp, enforce_dpp=True, solver_opts={})
    S = layer.structure
    assert np.allclose(S.A.dense(A)[0], data["A"].toarray(), rtol=0, atol=1e-14)
    assert np.allclose(b[0], data["b"], rtol=0, atol=1e-14)
    assert np.allclose(q[0], data["c"], rtol=0, atol=1e-14)
    assert np.allclose(S.P.dense(P)[0], data["P"].toarray() if "P" in data else 0, rtol=0, atol=1e-14)
    assert np.isclose(d[0, 0], inverse[-1]["offset"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_the_problem_is_left_alone(name):
    case = CASES[name]()
    values = [p._value for p in case.parameters]
    canonicalize(case.problem, case.parameters, case.variables, gp=case.gp)
    assert all(p._value is v for p, v in zip(case.parameters, values, strict=True))
    assert all(v._value is None for v in case.problem.variables())
    assert case.problem._cache.param_prog is None


def test_the_parameter_map_reads_the_symmetric_part_and_the_pattern():
    _, layer, theta, *_ = compiled("parameter_kinds")
    rng = np.random.default_rng(0)
    blocks = layer.param_map.apply(theta)
    changed = [t.copy() for t in theta]
    R = rng.standard_normal((3, 3))
    changed[0] = changed[0] + (R - R.T).reshape(1, -1)  # antisymmetric: no effect
    changed[2] = changed[2] + (R - np.diag(np.diag(R))).reshape(1, -1)  # off the diagonal: no effect
    for a, b in zip(blocks, layer.param_map.apply(changed), strict=True):
        assert np.allclose(a, b, atol=1e-14)


def test_quadratic_objectives_become_cones_only_on_request():
    case = CASES["qp"]()
    assert canonicalize(case.problem, case.parameters, case.variables).structure.P.nnz == 5
    conic = canonicalize(case.problem, case.parameters, case.variables, quadratic=False)
    assert conic.structure.P.nnz == 0
    assert "soc" in conic.structure.cones.kinds


def test_a_large_linear_term_compiles_in_sparse_arithmetic():
    n = 20_000  # CVXPY's own extraction would need a dense array of 3 GB
    x, b = cp.Variable(n), cp.Parameter(n)
    compiled = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x) + b @ x), [x >= 0]), [b], [x])
    assert compiled.structure.n == n
    assert np.array_equal(compiled.param_map.apply([np.arange(float(n))[None]])[1][0], np.arange(n))


def test_a_constraint_listed_twice_counts_once():
    x, b = cp.Variable(2), cp.Parameter(2)
    rows = x >= b
    assert canonicalize(cp.Problem(cp.Minimize(cp.sum(x)), [rows, rows]), [b], [x, rows.dual_variables[0]]).structure.m == 2


def test_a_compiled_problem_holds_no_cvxpy_objects():
    case = CASES["parameter_kinds"]()
    compiled = canonicalize(case.problem, case.parameters, case.variables)
    seen, stack = set(), [compiled]
    while stack:
        item = stack.pop()
        if (
            id(item) in seen
            or isinstance(item, (type, str))
            or type(item).__name__ in ("module", "function", "builtin_function_or_method")
        ):
            continue
        seen.add(id(item))
        assert not type(item).__module__.startswith("cvxpy"), type(item)
        stack.extend(gc.get_referents(item) if not isinstance(item, dict) else item.values())


def test_the_perspective_of_a_function():
    """s f(x / s) for f = |x - 1|^2 is |x - s|^2 / s."""
    b, x, s = cp.Parameter(2), cp.Variable(2), cp.Variable(nonneg=True)
    value = np.array([[1.0, -0.5]])
    found, expected = (
        ConeLayer(cp.Problem(cp.Minimize(f + b @ x + cp.square(s - 0.7)), [s >= 0.2]), [b], [x, s]).forward(value)[0]
        for f in (cp.perspective(cp.sum_squares(x - 1), s), cp.quad_over_lin(x - s, s))
    )
    for a, c in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, c, atol=1e-9)
