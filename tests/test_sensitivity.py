"""Sensitivities: closed forms of statistics, prices by the dual variables, predictions by differences, and clear errors."""

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit

from cvxlayers import ProblemError, Sensitivity, SolverError, Status, sensitivity

from .problems import CASES, Case
from .support import assign, central, relative

RNG = np.random.default_rng(0)


def blobs(n=30):
    """(X, y): two classes of overlapping points in the plane, around (2, 2) and (-2, -2)."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return (2.0 - 4 * y)[:, None] + 3 * rng.standard_normal((n, 2)), 1.0 - y


class Logistic:
    """min 1/n sum_i v_i (log(1 + exp(z_i'theta)) - y_i z_i'theta) + lam |w|^2,  theta = (w, b), z_i = (x_i, 1)."""

    def __init__(self, X, y, lam=0.05):
        n, d = X.shape
        self.X, self.v = cp.Parameter((n, d), name="X", value=X), cp.Parameter(n, nonneg=True, name="v", value=np.ones(n))
        self.lam = cp.Parameter(nonneg=True, name="lam", value=lam)
        self.y, self.w, self.b = y, cp.Variable(d, name="w"), cp.Variable(name="b")
        z = self.X @ self.w + self.b
        losses = cp.logistic(z) - cp.multiply(y, z)
        self.problem = cp.Problem(cp.Minimize(self.v @ losses / n + self.lam * cp.sum_squares(self.w)))

    def theta(self):
        s = sensitivity(self.problem)
        return np.r_[s.solution[self.w], s.solution[self.b]]

    def jacobian(self, s, parameter):
        """d theta / d parameter."""
        return np.concatenate([s.jacobian(self.w, parameter), s.jacobian(self.b, parameter)[None]])

    def closed_forms(self, theta):
        """(d theta / dX, d theta / dv) at theta, v = 1."""
        X, y, n, d = self.X.value, self.y, *self.X.shape
        Z = np.c_[X, np.ones(n)]
        p = expit(Z @ theta)
        H = Z.T * (p * (1 - p)) @ Z / n + 2 * self.lam.value * np.diag(np.r_[np.ones(d), 0])
        E = np.eye(d + 1)[:, :d]
        mixed = np.einsum("i,ij,k->jik", p * (1 - p), Z, theta[:d]) + np.einsum("i,jk->jik", p - y, E)
        return -np.linalg.solve(H, mixed.reshape(d + 1, -1)).reshape(d + 1, n, d) / n, -np.linalg.solve(H, ((p - y) * Z.T) / n)


def test_logistic_regression_is_the_closed_form():
    fit = Logistic(*blobs())
    s = sensitivity(fit.problem)
    theta = np.r_[s.solution[fit.w], s.solution[fit.b]]
    moved, weighed = fit.closed_forms(theta)
    assert np.abs(moved).max() > 0.01
    assert np.abs(fit.jacobian(s, fit.X) - moved).max() <= 1e-9
    assert np.abs(fit.jacobian(s, fit.v) - weighed).max() <= 1e-9


def test_leaving_a_point_out_is_predicted():
    fit = Logistic(*blobs())
    s = sensitivity(fit.problem)
    theta, influence, refits = fit.theta(), -fit.jacobian(s, fit.v), []
    for i in range(30):
        fit.v.value = 1.0 - (np.arange(30) == i)
        refits.append(fit.theta() - theta)
    assert np.corrcoef(influence.ravel(), np.transpose(refits).ravel())[0, 1] > 0.95


def test_regularization_without_end():
    fit, moves = Logistic(*blobs()), []
    for lam in (1e2, 1e4, 1e6):
        fit.lam.value = lam
        s = sensitivity(fit.problem)
        moves.append((np.abs(s.solution[fit.w]).max(), np.abs(s.jacobian(fit.w, fit.X)).max()))
    assert np.allclose(np.array(moves) * np.array([[1e2], [1e4], [1e6]]), np.array(moves[-1]) * 1e6, rtol=0.02)
    assert np.max(moves[-1]) < 1e-5


@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.parametrize("lam", [1e-4, 0.0])
def test_separable_data(n, lam):
    """Without regularization there is no solution: the loss tends to 0 where theta tends to infinity."""
    X, y = blobs(n)
    fit = Logistic(X + 20 * (2 * y - 1)[:, None], y, lam)
    if lam:
        assert not sensitivity(fit.problem).degenerate
        return
    with pytest.raises(SolverError, match=r"unbounded set, or off at infinity.*cp\.sum_squares") as error:
        sensitivity(fit.problem)
    assert error.value.statuses == (Status.UNBOUNDED,)


def location(values, loss):
    """(Sensitivity, m, x) of min_m loss(x - m)."""
    x, m = cp.Parameter(len(values), name="x", value=values), cp.Variable(name="m")
    return sensitivity(cp.Problem(cp.Minimize(loss(x - m)))), m, x


def test_the_mean():
    s, m, x = location(RNG.standard_normal(7), cp.sum_squares)
    assert np.allclose(s.jacobian(m, x), 1 / 7, atol=1e-12) and not s.degenerate and s.not_unique == ()


@pytest.mark.parametrize("n", [1, 7, 8])
def test_the_median(n):
    """That of an odd number of values is one of them; between the two in the middle of an even number all are medians."""
    values = RNG.permutation(n) ** 2.0
    s, m, x = location(values, cp.norm1)
    if n % 2:
        assert np.allclose(s.jacobian(m, x), np.arange(n) == np.argsort(values)[n // 2], atol=1e-12) and not s.degenerate
        assert np.allclose(s.value_sensitivity(x), np.sign(values - np.median(values)), atol=1e-9)
    else:
        assert s.degenerate and s.not_unique == (m,) and "not unique: m" in str(s)


SENSES = {"minimize": (cp.Minimize, 1), "maximize": (cp.Maximize, -1)}


@pytest.mark.parametrize("sense", SENSES)
def test_slack_is_worth_the_dual_variable(sense):
    """p*' in b is -nu*, in h it is -lambda* where the problem minimizes; and what differences of solutions say."""
    objective, sign = SENSES[sense]
    c, b, h, x = cp.Parameter(4, name="c"), cp.Parameter(name="b"), cp.Parameter(3, name="h"), cp.Variable(4, name="x")
    c.value, b.value, h.value = np.array([1.0, -2.0, 0.5, 3.0]), 1.0, np.array([-2.0, 0.3, 3.0])
    G = np.array([[1.0, 1, 0, 0], [0, 0, 1, -1], [1, 0, 0, 1]])
    even, below, above = cp.sum(x) == b, G @ x <= h, x >= -3
    problem = cp.Problem(objective(sign * cp.sum_squares(x - c)), [even, below, above])

    def slopes():
        for p in (b, h):
            value = np.array(p.value)

            def optimum(v, p=p):
                p.value = v[0]
                return [np.array(sensitivity(problem).value)]

            yield np.array([central(optimum, [value], [d.reshape(p.shape)], 1e-3)[0] for d in np.eye(p.size)])
            p.value = value

    s, (in_b, in_h) = sensitivity(problem), slopes()
    assert np.allclose(s.value_sensitivity(b), in_b[0], atol=1e-7) and np.allclose(s.value_sensitivity(h), in_h, atol=1e-7)
    assert np.allclose(s.value_sensitivity(even), in_b[0], atol=1e-7)
    assert np.allclose(s.value_sensitivity(below), in_h, atol=1e-7) and np.abs(in_h).max() > 0.1
    assert np.allclose(s.value_sensitivity(b), -sign * s.solution[even.dual_variables[0]], atol=1e-12)
    assert np.allclose(s.value_sensitivity(h), -sign * s.solution[below.dual_variables[0]], atol=1e-12)
    assert (sign * s.value_sensitivity(below) <= 0).all() and np.array_equal(s.value_sensitivity(above), np.zeros(4))
    problem.solve(solver="CLARABEL")
    assert np.allclose(s.solution[even.dual_variables[0]], even.dual_value, atol=1e-5)


CONSTRAINTS = {
    "a matrix inequality": lambda X, U: cp.PSD(X + U),
    "<<": lambda X, U: 2 * np.eye(2) + U >> X,
    "NonNeg": lambda X, U: cp.NonNeg(X[0] + U[0]),
    "NonPos": lambda X, U: cp.NonPos(X[0] - U[0]),
    "Zero": lambda X, U: cp.Zero(X[0] - U[0]),
    ">=": lambda X, U: X >= 1 - U,
}


@pytest.mark.filterwarnings("ignore:(?s).*NonPos")
@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_slack_of_every_kind(kind, sense):
    """A parameter in the place of the slack has the same sensitivity."""
    objective, sign = SENSES[sense]
    target = np.array([[1.0, 4.0], [4.0, -1.0]]) * (-1 if kind in ("NonNeg", ">=") else 1)
    X, U = cp.Variable((2, 2), symmetric=True, name="X"), cp.Parameter((2, 2), symmetric=True, name="U", value=np.zeros((2, 2)))
    constraint = CONSTRAINTS[kind](X, U)
    s = sensitivity(cp.Problem(objective(sign * cp.sum_squares(X - target)), [constraint]))
    found, expected = s.value_sensitivity(constraint), s.value_sensitivity(U)
    if found.ndim == 1:  # half of a symmetric parameter's off-diagonal entries counts
        found = np.array([[found[0], found[1] / 2], [found[1] / 2, 0]])
    assert np.abs(expected).max() > 0.1 and np.allclose((found + found.T) / 2, expected, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_reverse_mode_agree_with_the_jacobians(name):
    case = CASES[name]()
    s = solved(case)
    dp = {p: _like(p, v.dtype) for p, v in zip(case.parameters, map(np.asarray, case.values), strict=True)}
    gx = {x: _like(x, s.solution[x].dtype) for x in case.variables}
    dx, gp = s.jvp(dp), s.vjp(gx)
    inner = [sum(np.vdot(a[k], b[k]).real for k in a) for a, b in ((gx, dx), (dp, gp))]
    assert inner[0] == pytest.approx(inner[1], rel=1e-9, abs=1e-9)
    real = [p for p in case.parameters if not p.is_complex()]
    for x in case.variables:
        if np.iscomplexobj(s.solution[x]) or len(real) < len(case.parameters):
            continue
        J = [s.jacobian(x, p) for p in real]
        assert [j.shape for j in J] == [x.shape + p.shape for p in real]
        total = sum(np.tensordot(j, dp[p], p.ndim) for j, p in zip(J, real, strict=True))
        assert relative(total, dx[x]) <= 1e-9 or np.abs(total - dx[x]).max() <= 1e-12


@pytest.mark.parametrize("name", ["qp", "lp", "qp_quad_form"])
def test_the_prediction_is_of_second_order(name):
    case = CASES[name]()
    s, errors = solved(case), []
    dp = {p: _like(p) for p in case.parameters}
    for e in (1e-3, 5e-4):
        moved = solved(case._replace(values=[v + e * dp[p] for p, v in zip(case.parameters, case.values, strict=True)]))
        dx = s.jvp({p: e * d for p, d in dp.items()})
        errors.append([np.abs(s.solution[x] + dx[x] - moved.solution[x]).max() for x in case.variables])
        errors[-1].append(abs(s.value + e * sum(np.vdot(s.value_sensitivity(p), d) for p, d in dp.items()) - moved.value))
    small, tiny = np.array(errors)
    assert (small < 1e-3).all() and (tiny < 0.3 * small).all()


def solved(case: Case) -> Sensitivity:
    assign(case.parameters, case.values)
    return sensitivity(case.problem, gp=case.gp)


def _like(leaf, dtype=float):
    """A direction in which the leaf can go."""
    d = RNG.standard_normal(leaf.shape)
    d = d + 1j * RNG.standard_normal(leaf.shape) if np.dtype(dtype).kind == "c" else d
    if any(leaf.attributes[kind] for kind in ("symmetric", "PSD", "NSD", "hermitian")):
        d = (d + np.conj(np.swapaxes(d, -1, -2))) / 2
    if leaf.attributes["diag"]:
        d = d * np.eye(len(d))
    return d


def test_symmetric_matrices():
    """The projection of S on the semidefinite matrices: the Jacobian, of its eigenvectors, and S of an attribute."""
    S = cp.Parameter((3, 3), symmetric=True, name="S", value=np.diag([2.0, 1.0, -1.0]))
    X = cp.Variable((3, 3), PSD=True, name="X")
    s = sensitivity(cp.Problem(cp.Minimize(cp.sum_squares(X - S))))
    J = s.jacobian(X, S)
    weight = np.array([[1, 1, 2 / 3], [1, 1, 1 / 2], [2 / 3, 1 / 2, 0]])
    D = _like(S)
    assert np.allclose(np.tensordot(J, D, 2), weight * D, atol=1e-7) and np.allclose(J, J.transpose(0, 1, 3, 2))
    assert np.allclose(s.value_sensitivity(S), np.diag([0, 0, -2.0]), atol=1e-7)


def test_complex_parameters():
    z, y = cp.Parameter(2, complex=True, name="z", value=[1 + 2j, 3 - 1j]), cp.Variable(2, complex=True, name="y")
    even = cp.sum(y) == 1
    s = sensitivity(cp.Problem(cp.Minimize(cp.sum_squares(y - z)), [even]))
    assert np.allclose(s.solution[y], z.value - (3 + 1j) / 2) and np.allclose(s.jvp({z: [1j, 1]})[y], [-0.5 + 0.5j, 0.5 - 0.5j])
    assert np.allclose(s.vjp({y: [1j, 1]})[z], [-0.5 + 0.5j, 0.5 - 0.5j])  # a projection is its own adjoint
    assert np.allclose(s.value_sensitivity(z), 3 + 1j)  # of |sum(z) - 1|^2 / 2
    assert np.allclose(s.value_sensitivity(even), -3 - 1j)
    with pytest.raises(ProblemError, match=r"Jacobian of the variable 'y' in the parameter 'z' .* complex .* use jvp or vjp"):
        s.jacobian(y, z)


def test_geometric_programs():
    h, u, v = cp.Parameter(pos=True, name="h", value=2.0), cp.Variable(pos=True, name="u"), cp.Variable(pos=True, name="v")
    above = u * v >= h
    s = sensitivity(cp.Problem(cp.Minimize(u + v), [above]), gp=True)
    assert s.value == pytest.approx(2 * 2**0.5) and s.value_sensitivity(h) == pytest.approx(2**-0.5)
    assert s.jacobian(u, h) == pytest.approx(8**-0.5)
    with pytest.raises(ProblemError, match=r"'h <= u \* v' belongs to a geometric program"):
        s.value_sensitivity(above)


def test_sparse_parameters_and_none():
    D = cp.Parameter((2, 2), diag=True, name="D", value=2 * np.eye(2))
    F, x = cp.Parameter((2, 2), sparsity=([0], [1]), name="F"), cp.Variable(2, name="x")
    F.value_sparse = sp.coo_array(([3.0], ([0], [1])), shape=(2, 2))
    s = sensitivity(cp.Problem(cp.Minimize(cp.sum_squares(D @ x + F @ x - [4, 2]))))
    assert np.allclose(s.solution[x], [0.5, 1])
    assert np.allclose(s.jacobian(x, D), [[[-0.25, 0], [0, 0.75]], [[0, 0], [0, -0.5]]])
    assert np.allclose(s.jacobian(x, F), [[[0, -0.5], [0, 0]], np.zeros((2, 2))])
    none = sensitivity(cp.Problem(cp.Maximize(-cp.sum_squares(x)), [x[0] >= 1]))
    assert np.allclose(none.solution[x], [1, 0]) and none.vjp({x: [1, 1]}) == {} and "in its slack" in str(none)
