"""Numbers, shapes and layouts at the edge of what the native engine takes: right, or an error."""

import numpy as np
import pytest

from cvxlayers import native
from cvxlayers.program import Status

from .qps import FAMILIES, violation

pytestmark = pytest.mark.skipif(not native.available(), reason="the native engine has not been built")


@pytest.mark.parametrize("b", [0.0, 1e-300, 1.0])
def test_a_bound_whose_coefficient_is_zero(b):
    """0 x <= b says nothing of x; x must not be b / 0."""
    plan = native.Plan(2, 2, 0, [0, 1], [0, 1], [0, 1, 2], [0, 1])
    found = plan.solve(np.ones((1, 2)), [[1.0, -2.0]], [[0.0, 1.0]], [[b, 1.0]])
    assert found.status[0] == Status.SOLVED
    np.testing.assert_allclose(found.x, [[-1, 1]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.s, [[b, 0]], rtol=0, atol=1e-12)


def test_nan_is_not_a_residual_of_zero():
    """NaN on the right is not solved for, in whichever place."""
    plan = FAMILIES["bounds"].plan()
    P, _, A, b = (a[:1] for a in FAMILIES["bounds"].batch()[2])
    for k in range(plan.n + plan.m):
        right = np.ones((1, 1, plan.n + plan.m))
        right[0, 0, k] = np.nan
        _, good = plan.linear(P, A, np.ones_like(b), right)
        assert not good[0]


@pytest.mark.parametrize("scale", [1e100, 1e200, 1e300])
def test_numbers_that_overflow_are_not_solutions(scale):
    for name in FAMILIES:
        values = FAMILIES[name].batch()[2]
        for k in range(4):
            data = [a * scale if j == k else a for j, a in enumerate(values)]
            with np.errstate(over="ignore"):
                found = FAMILIES[name].plan().solve(*data)
            point = np.isin(found.status, (Status.SOLVED, Status.INACCURATE))
            assert all(np.isfinite(a[point]).all() for a in (found.x, found.y, found.s)), (name, k)


@pytest.mark.parametrize("block", range(4), ids=["P", "q", "A", "b"])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_solved_means_solved_in_other_units(block, scale):
    """Neither the dual nor the primal residual may hide behind the size of the other."""
    solved = 0
    for family in FAMILIES.values():
        _, problems, values = family.batch(count=48)
        found = family.plan().solve(*(a * scale if k == block else a for k, a in enumerate(values)))
        for i in np.flatnonzero(found.status == Status.SOLVED):
            problem = [a * scale if k == block else a for k, a in enumerate(problems[i])]
            assert violation(problem, family.zero, found.x[i], found.y[i], found.s[i]) <= 1e-10, family.name
            solved += 1
    assert solved >= 300


def test_small_columns_are_scaled():
    """A variable in units of 1e-4: its P of 1e-8 is not zero."""
    plan = native.Plan(2, 1, 0, [0, 0, 1], [0, 1, 1], [0, 1], [1])
    u, good = plan.linear([[1e-8, 0.0, 1.0]], [[1.0]], [[-1.0]], np.ones((1, 1, 3)))
    assert good.all()
    np.testing.assert_allclose(u[0, 0], [1e8, 1, 0], rtol=1e-12)
