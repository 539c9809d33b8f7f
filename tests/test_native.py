"""The native engine by itself: random QPs of all kinds, side by side in its groups, against Clarabel and dense algebra.

What a problem is answered must not depend on its neighbours, on the number of threads, or on how the arrays are stored: to the
last bit.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cvxlayers import native
from cvxlayers.program import Status

from .qps import EITHER, FAMILIES, condition, kkt_matrix, reference, violation

pytestmark = pytest.mark.skipif(not native.available(), reason="the native engine has not been built")
BUILDS = native.builds() or ("",)
FINAL = (Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED)
HALF = 0.6  # of the problems with a thin slab: what may end without a verified solution, at about 1e-7
RARE = 0.01  # of all others


@functools.cache
def solved(name, build=""):
    """(kinds, problems, values, answer) of a family."""
    family = FAMILIES[name]
    kinds, problems, values = family.batch()
    return kinds, problems, values, family.plan().solve(*values, build=build)


def systems(name):
    """(plan, values, v, right, active): the KKT systems at the solutions, and at random active sets."""
    family, (kinds, _, values, found) = FAMILIES[name], solved(name)
    rng = np.random.default_rng(1)
    v = found.y - found.s
    v[::3] = rng.standard_normal(v[::3].shape)
    active = (np.arange(family.m) < family.zero) | (v > 0)
    return family.plan(), values, v, rng.standard_normal((len(kinds), 3, family.n + family.m)), active


def equal(found, expected, items=slice(None)):
    """Whether answers are the same, to the last bit."""
    pairs = zip(map(np.asarray, found), map(np.asarray, expected), strict=True)
    return all(np.array_equal(a[items], b[items], equal_nan=True) for a, b in pairs)


families = pytest.mark.parametrize("name", FAMILIES)


@families
def test_statuses_are_those_of_clarabel(name):
    """But for thin slabs, and a few that the engine leaves to others; never is a wrong status final."""
    kinds, problems, _, found = solved(name)
    thin = others = 0
    for kind, problem, status in zip(kinds, problems, map(Status, found.status), strict=True):
        expected = reference(problem, FAMILIES[name].zero, kind)
        if status not in FINAL:
            thin, others = thin + (kind == "tight"), others + (kind != "tight")
        elif expected == EITHER:
            assert status != Status.SOLVED
        elif expected != Status.FAILED:
            assert status == expected, kind
        elif "infeasible" in kind or kind in ("inconsistent", "unbounded", "free"):
            assert status != Status.SOLVED, kind
    assert thin <= HALF * max(kinds.count("tight"), 5)
    assert others <= RARE * max(len(kinds), 100)


def test_there_are_2000_problems_and_few_unfinished_ones():
    statuses = np.concatenate([solved(name)[3].status for name in FAMILIES])
    thin = np.concatenate([np.array(solved(name)[0]) == "tight" for name in FAMILIES])
    assert statuses.size == 2000
    assert (np.isin(statuses, FINAL) | thin).mean() >= 0.998
    assert not (statuses == Status.FAILED).any()


@families
def test_solved_means_solved_to_rounding(name):
    kinds, problems, _, found = solved(name)
    for i in np.flatnonzero(found.status == Status.SOLVED):
        assert violation(problems[i], FAMILIES[name].zero, found.x[i], found.y[i], found.s[i]) <= 1e-10, kinds[i]
    for i in np.flatnonzero(found.status == Status.INACCURATE):
        assert np.isfinite(found.x[i]).all()


@families
def test_linear_solves_the_kkt_systems(name):
    """Several right-hand sides at once, and one by one."""
    plan, values, v, right, active = systems(name)
    u, rank = plan.linear(values[0], values[2], v, right)
    problems, good = solved(name)[1], rank == 1
    for i in np.flatnonzero(good):
        K, rows = kkt_matrix(problems[i], active[i]), np.r_[np.full(plan.n, True), active[i]]
        error = np.abs(K @ u[i][:, rows].T - right[i][:, rows].T).max()
        assert error <= 1e-12 * (np.abs(K).max() * np.abs(u[i]).max() + np.abs(right[i]).max())
        assert not u[i][:, ~rows].any()
    for k in range(3):
        one, _ = plan.linear(values[0], values[2], v, right[:, k : k + 1])
        scale = 1e-9 * (1 + np.abs(u[good, k]).max(initial=0))
        np.testing.assert_allclose(one[good, 0], u[good, k], rtol=1e-6, atol=scale)
    nothing, _ = plan.linear(values[0], values[2], v, right[:, :0])
    assert nothing.shape == (len(problems), 0, plan.n + plan.m)


@families
def test_linear_knows_which_systems_are_singular(name):
    """1: regular. 2: singular, and the answer is of least norm. 0: left to the dense algebra of the caller."""
    plan, values, v, right, active = systems(name)
    u, rank = plan.linear(values[0], values[2], v, right)
    matrices = [kkt_matrix(p, a) for p, a in zip(solved(name)[1], active, strict=True)]
    size = np.array([condition(K) for K in matrices])
    assert not (rank == 1)[size > 1e12].any() and not (rank >= 2)[size < 1e10].any()
    assert (rank == 1)[size < 1e8].mean() >= 0.98 if (size < 1e8).any() else True
    for i in np.flatnonzero(rank == 2):
        rows = np.r_[np.full(plan.n, True), active[i]]
        expected = np.linalg.pinv(matrices[i], rcond=1e-11, hermitian=True) @ right[i][:, rows].T
        np.testing.assert_allclose(u[i][:, rows].T, expected, rtol=0, atol=1e-6 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("shared", [False, True])
def test_linear_with_weights(shared):
    """Rows with any weight, zero included, for one pattern."""
    rng = np.random.default_rng(0)
    n, m, B = 6, 5, 11
    pattern = rng.random((m, n)) < 0.6
    plan = native.Plan(
        n, m, 0, np.arange(n), np.arange(n), np.r_[0, pattern.sum(1).cumsum()], np.nonzero(pattern)[1], weighted=True
    )
    count = 1 if shared else B
    P, A = rng.random((count, n)) + 0.1, rng.standard_normal((count, pattern.sum()))
    weights, right = rng.random((B, m)) * (rng.random((B, m)) < 0.6), rng.standard_normal((B, 2, n + m))
    u, rank = plan.linear(P, A, np.zeros((B, m)), right, weights=weights)
    for i in range(B):
        dense = np.zeros((m, n))
        dense[pattern] = A[i % count]
        K = np.block([[np.diag(P[i % count]), dense.T], [dense, -np.diag(weights[i])]])
        if condition(K) < 1e8:
            assert rank[i] == 1
            np.testing.assert_allclose(u[i], np.linalg.solve(K, right[i].T).T, rtol=1e-9, atol=1e-9)
    assert (rank == 1).sum() >= 8
    with pytest.raises(native.EngineError):
        plan.solve(P, np.zeros((1, n)), A, np.zeros((1, m)))


@families
@pytest.mark.parametrize("build", BUILDS[1:])
def test_builds_agree(name, build):
    """To the last bit with one instruction set; else in what is certain, to 1e-9."""
    kinds, problems, _, expected = solved(name, BUILDS[0])
    found = solved(name, build)[3]
    if build.split("_")[0] == BUILDS[0].split("_")[0]:
        assert equal(found, expected)
        return
    differ = (found.status != expected.status) & (np.array(kinds) != "tight")
    assert differ.mean() <= RARE
    both = (found.status == Status.SOLVED) & (expected.status == Status.SOLVED)
    for i in np.flatnonzero(both):
        P, q, _, b = problems[i]
        objective = [0.5 * x @ P @ x + q @ x for x in (found.x[i], expected.x[i])]
        assert abs(objective[0] - objective[1]) <= 1e-9 * max(1, abs(objective[1]), np.abs(q).max(), np.abs(b).max(initial=0))
        if kinds[i] == "normal" and np.linalg.eigvalsh(P)[0] > 1e-3:
            np.testing.assert_allclose(found.x[i], expected.x[i], rtol=0, atol=1e-9)


@families
def test_threads_do_not_change_the_answers(name):
    _, _, values, expected = solved(name)
    plan, values, v, right, _ = systems(name)
    linear = plan.linear(values[0], values[2], v, right)
    for threads in (2, 8):
        assert equal(plan.solve(*values, threads=threads), expected)
        assert equal(plan.linear(values[0], values[2], v, right, threads=threads), linear)


@families
def test_a_problem_alone_is_the_problem_in_a_batch(name):
    kinds, _, values, expected = solved(name)
    plan, _, v, right, _ = systems(name)
    u, good = plan.linear(values[0], values[2], v, right)
    for i in range(0, len(kinds), 3):
        assert equal(plan.solve(*(a[i : i + 1] for a in values)), [a[i : i + 1] for a in expected]), kinds[i]
        alone = plan.linear(values[0][i : i + 1], values[2][i : i + 1], v[i : i + 1], right[i : i + 1])
        assert equal(alone, (u[i : i + 1], good[i : i + 1])), kinds[i]


@families
def test_shared_matrices_are_repeated_matrices(name):
    """Where P and A are the same for all items, what is computed from them alone is computed once."""
    family, (kinds, _, (_, q, _, b), _) = FAMILIES[name], solved(name)
    plan, (P, _, A, _), v, right, _ = systems(name)
    for i in range(0, len(kinds), 20):
        one, many = (P[i : i + 1], A[i : i + 1]), (np.repeat(P[i : i + 1], len(q), 0), np.repeat(A[i : i + 1], len(q), 0))
        assert equal(plan.solve(one[0], q, one[1], b), plan.solve(many[0], q, many[1], b)), kinds[i]
        assert equal(plan.linear(*one, v, right), plan.linear(*many, v, right)), kinds[i]
    assert family.m == plan.m


@families
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_stays_in_its_item(name, value):
    _, _, values, expected = solved(name)
    plan, _, v, right, _ = systems(name)
    linear = plan.linear(values[0], values[2], v, right)
    for k, bad in enumerate(values):
        if bad.shape[1] == 0:
            continue
        bad = bad.copy()
        bad[3, -1] = value
        data = [*values[:k], bad, *values[k + 1 :]]
        found = plan.solve(*data)
        assert found.status[3] == Status.FAILED
        assert equal(found, expected, np.arange(len(bad)) != 3)
        if k in (0, 2):
            found = plan.linear(data[0], data[2], v, right)
            assert not found[1][3]
            assert equal(found, linear, np.arange(len(bad)) != 3)
    right[3, 1, 0] = value
    found = plan.linear(values[0], values[2], v, right)
    assert not found[1][3]
    assert equal(found, linear, np.arange(len(right)) != 3)


@pytest.mark.parametrize("name", ["dense", "larger", "simplex"])
def test_calls_from_many_threads(name):
    _, _, values, expected = solved(name)
    plan, _, v, right, _ = systems(name)
    linear = plan.linear(values[0], values[2], v, right)

    def call(k):
        if k % 2:
            return equal(plan.linear(values[0], values[2], v, right, threads=1 + k % 3), linear)
        return equal(plan.solve(*values, threads=1 + k % 3), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(32)))


def test_empty_batches():
    family = FAMILIES["dense"]
    plan, (_, _, (P, q, A, b), _) = family.plan(), solved("dense")
    found = plan.solve(P[:1], q[:0], A[:1], b[:1])
    assert [a.shape for a in found] == [(0, family.n), (0, family.m), (0, family.m), (0,), (0,)]
    u, good = plan.linear(P[:1], A[:1], b[:1], np.zeros((0, 2, family.n + family.m)))
    assert u.shape == (0, 2, family.n + family.m) and good.shape == (0,)
