"""Random problems over all cones and kinds of parameters: the KKT conditions, the adjoint law, and batch = loop.

`make test` runs a few examples, always the same; `make fuzz` runs many new ones.
"""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvxlayers import ConeLayer
from cvxlayers.batching import flatten
from cvxlayers.ladder import solve
from cvxlayers.program import ConeData
from cvxlayers.residual import tolerance

from .support import flat
from .test_cones import all_belong


class Draft:
    """A problem that grows; x0 is strictly feasible, so that small changes of the parameters keep it solvable."""

    def __init__(self, n, seed, parts):
        self.n, self.seed, self.names, self.rng = n, seed, [part.__name__ for part in parts], np.random.default_rng(seed)
        self.x, self.x0 = cp.Variable(n), self.normal(n)
        self.terms, self.constraints, self.parameters, self.values = [], [], [], []
        for part in parts:
            part(self)
        self.terms.append(cp.sum_squares(self.x - self.parameter(2 * self.normal(n))))  # one solution

    def __repr__(self):
        return f"Draft(n={self.n}, seed={self.seed}, {', '.join(self.names)})"

    def parameter(self, value, **attributes):
        value = np.asarray(value, np.float64)
        p = cp.Parameter(value.shape, **attributes)
        self.parameters.append(p)
        self.values.append(value)
        return p

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def slack(self, *shape):
        return 0.1 + self.rng.random(shape)


def equality(d):
    A = d.normal(max(d.n - 1, 1), d.n)[: d.n - 1]
    if len(A):
        d.constraints.append(d.parameter(A) @ d.x == d.parameter(A @ d.x0))


def redundant_equality(d):
    a = d.normal(1, d.n)
    if d.n > 1:
        d.constraints.append(np.vstack([a, 2 * a]) @ d.x == np.ravel(np.vstack([a, 2 * a]) @ d.x0))


def inequality(d):
    G = d.normal(d.n + 1, d.n)
    d.constraints.append(d.parameter(G) @ d.x <= d.parameter(G @ d.x0 + d.slack(d.n + 1)))


def bounds(d):
    d.constraints += [
        d.x <= d.x0 + d.parameter(d.slack(d.n), nonneg=True),
        d.x >= d.x0 + d.parameter(-d.slack(d.n), nonpos=True),
    ]


def sparse_rows(d):
    pattern = (np.arange(d.n), np.arange(d.n)[::-1])
    value = np.zeros((d.n, d.n))
    value[pattern] = d.normal(d.n)
    d.constraints.append(d.parameter(value, sparsity=pattern) @ d.x <= value @ d.x0 + d.slack(d.n))


def diagonal_rows(d):
    value = np.diag(d.normal(d.n))
    d.constraints.append(d.parameter(value, diag=True) @ d.x <= value @ d.x0 + d.slack(d.n))


def ball(d):
    F, f = d.normal(3, d.n), d.normal(3)
    radius = np.linalg.norm(F @ d.x0 - f) + d.slack()
    d.constraints.append(cp.norm(d.parameter(F) @ d.x - d.parameter(f)) <= d.parameter(radius, pos=True))


def balls_by_columns(d):
    X = cp.vstack([d.x, 2 * d.x - 1])
    d.constraints.append(cp.SOC(d.parameter(np.linalg.norm([d.x0, 2 * d.x0 - 1], axis=0) + d.slack(d.n)), X, axis=0))


def semidefinite(d):
    M = d.normal(d.n, d.n)
    S = M @ M.T - np.diag(d.x0) + np.diag(d.slack(d.n))
    d.constraints.append(d.parameter(S, symmetric=True) + cp.diag(d.x) >> 0)


def exponential(d):
    c = d.normal(d.n)
    d.constraints.append(cp.exp(d.parameter(c) @ d.x) <= d.parameter(np.exp(c @ d.x0) + d.slack(), pos=True))


def power(d):
    a, b = np.abs(d.x0[0]) + 1 + d.slack(), 1 + d.slack()
    z = 0.3 * d.x - 0.3 * d.x0
    d.constraints.append(cp.PowCone3D(d.x[0] + d.parameter(a), d.parameter(b) + 0 * d.x[0], z[-1], 0.4))


def quadratic_term(d):
    M = d.normal(d.n, d.n)
    d.terms.append(cp.quad_form(d.x, d.parameter(M @ M.T + 1e-3 * np.eye(d.n), PSD=True)))


def concave_matrix_term(d):
    M = d.normal(d.n, d.n)
    d.terms.append(-cp.quad_form(d.x, d.parameter(-M @ M.T, NSD=True)))


def linear_term(d):
    d.terms.append(d.parameter(3 * d.normal(d.n)) @ d.x)


def norm_term(d):
    d.terms.append(d.parameter(d.slack(), nonneg=True) * cp.norm(d.x - d.normal(d.n)))


def absolute_term(d):
    d.terms.append(d.parameter(d.slack(), nonneg=True) * cp.norm1(d.x))


def log_term(d):
    d.terms.append(cp.log_sum_exp(d.parameter(d.normal(2, d.n)) @ d.x))


CONSTRAINTS = (
    equality,
    redundant_equality,
    inequality,
    bounds,
    sparse_rows,
    diagonal_rows,
    ball,
    balls_by_columns,
    semidefinite,
    exponential,
    power,
)
TERMS = (quadratic_term, concave_matrix_term, linear_term, norm_term, absolute_term, log_term)


PARTS = st.tuples(st.lists(st.sampled_from(TERMS), max_size=2), st.lists(st.sampled_from(CONSTRAINTS), max_size=3))
DRAFTS = st.builds(
    lambda n, seed, parts: Draft(n, seed, parts[0] + parts[1]), st.integers(1, 4), st.integers(0, 2**32 - 1), PARTS
)


def check(d):
    problem = cp.Problem(cp.Minimize(sum(d.terms[1:], d.terms[0])), d.constraints)
    layer = ConeLayer(problem, d.parameters, [d.x])
    theta = flat(d.values)
    _check_kkt(layer, theta)
    outputs, saved = layer.forward(*theta)
    c, t = [d.normal(1, d.n)], [d.normal(*a.shape) for a in theta]
    tangent, gradient = layer.jvp(saved, *t), layer.vjp(saved, *c)
    assert all(np.isfinite(a).all() for a in (*tangent, *gradient))
    left, right = (sum((a * b).sum() for a, b in zip(*pair, strict=True)) for pair in ((c, tangent), (gradient, t)))
    size = sum(np.abs(a * b).sum() for a, b in (*zip(c, tangent, strict=True), *zip(gradient, t, strict=True)))
    assert abs(left - right) <= 1e-9 * size + 1e-12
    batch = [np.concatenate([a, a * (1 + 1e-6), a * (1 - 1e-6)]) for a in theta]
    (many,), saved = layer.forward(*batch)
    grads = layer.vjp(saved, np.repeat(c[0], 3, 0))
    for i in range(3):
        (one,), own = layer.forward(*(a[[i]] for a in batch))
        np.testing.assert_allclose(many[[i]], one, rtol=1e-6, atol=1e-7)
        if i == 0:
            np.testing.assert_allclose(one, outputs[0], rtol=1e-9, atol=1e-9)
        del own
    assert all(np.isfinite(g).all() for g in grads)


def _check_kkt(layer, theta):
    """The optimality conditions, with cones that are tested by themselves (`test_cones`), not by the projection."""
    S = layer.structure
    data = ConeData(*flatten(layer.param_map.apply(theta)[:4])[1])
    point = solve(S, data, layer.solvers).point
    x, y, s = point.x, point.y, point.y - point.v
    tol = 100 * tolerance(S) * (1 + max(np.abs(a).max(initial=0) for a in (x, y, s, data.q, data.b)))
    assert np.abs(S.P.matvec(data.P, x) + data.q + S.A.rmatvec(data.A, y)).max() <= tol
    assert np.abs(S.A.matvec(data.A, x) + s - data.b).max(initial=0) <= tol
    for part, dual in ((y, True), (s, False)):
        assert all_belong(S.cones, part, np.full(1, tol), dual)
    assert np.abs((y * s).sum(-1)).max() <= tol * (1 + np.abs(y).max(initial=0) + np.abs(s).max(initial=0))


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(DRAFTS)
def test_random_problems(d):
    check(d)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(DRAFTS)
def test_many_random_problems(d):
    check(d)
