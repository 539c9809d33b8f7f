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
        _, rank = plan.linear(P, A, np.ones_like(b), right)
        assert rank[0] == 0


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
    u, rank = plan.linear([[1e-8, 0.0, 1.0]], [[1.0]], [[-1.0]], np.ones((1, 1, 3)))
    assert (rank == 1).all()
    np.testing.assert_allclose(u[0, 0], [1e8, 1, 0], rtol=1e-12)


def equal(found, expected):
    """Whether answers are the same, to the last bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


def layouts(a):
    """The same values in other layouts."""
    yield np.asfortranarray(a)
    yield np.repeat(a, 2, axis=0)[::2]
    yield np.repeat(a, 2, axis=1)[:, ::2]
    yield a[::-1].copy()[::-1]
    yield a[:, ::-1].copy()[:, ::-1]
    yield np.c_[a, np.full((len(a), 3), np.nan)][:, : a.shape[1]]
    yield a.astype(">f8")
    yield np.frombuffer(b"1234" + a.tobytes(), np.uint8)[4:].view(np.float64).reshape(a.shape)  # not aligned


@pytest.mark.parametrize("name", ["dense", "sparse", "n = 1", "no rows"])
def test_any_layout_of_the_arrays(name):
    plan, values = FAMILIES[name].plan(), FAMILIES[name].batch()[2]
    expected = plan.solve(*values)
    v, right = expected.y - expected.s, np.random.default_rng(0).standard_normal((len(values[0]), 2, plan.n + plan.m))
    linear = plan.linear(values[0], values[2], v, right)
    for arrays in zip(*map(layouts, (*values, v)), strict=True):
        assert equal(plan.solve(*arrays[:4]), expected)
        assert equal(plan.linear(arrays[0], arrays[2], arrays[4], right), linear)
    assert equal(plan.linear(values[0], values[2], v, np.asfortranarray(right)), linear)


def test_wrong_arguments_are_errors():
    family = FAMILIES["dense"]
    plan, (_, _, (P, q, A, b)) = family.plan(), family.batch()
    n, m, up, ptr = family.n, family.m, family.upper, np.arange(family.m + 1) * family.n
    cols, right = np.tile(np.arange(n), m), np.zeros((len(q), 1, n + m))
    wrong = [
        lambda: plan.solve(P[:, 1:], q, A, b),
        lambda: plan.solve(P, q[:7], A, b),
        lambda: plan.solve(P, q[0], A, b),
        lambda: plan.solve(P, q, A, b, build="none"),
        lambda: plan.solve(P, q, A, b, threads=0),
        lambda: plan.solve(P, q, A, b, max_iter=-1),
        lambda: plan.linear(P[:7], A, b, right),
        lambda: plan.linear(P, A, b, right[..., 1:]),
        lambda: native.Plan(n, m, 0, *up, ptr[1:], cols),
        lambda: native.Plan(n, m, 0, *up, ptr, cols + 2**32),  # must not wrap around
        lambda: native.Plan(n + 2**32, m, 0, *up, ptr, cols),
        lambda: native.Plan(n, m, 0, up[0][1:], up[1], ptr, cols),
        lambda: native.Plan(n, m, m + 1, *up, ptr, cols),
        lambda: native.Plan(n, m, 0, up[1], up[0], ptr, cols),
    ]
    for call in wrong:
        with pytest.raises(native.EngineError):
            call()
    assert equal(plan.solve(P, q, A, b, max_iter=2**40), plan.solve(P, q, A, b))
