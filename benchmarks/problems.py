"""The problems of the benchmarks: what layers are used for, and how random values for their parameters are drawn.

Each function returns (problem, parameters, variables, sample): a CVXPY problem, its parameters in the order of a layer's
inputs, the variables that are the layer's outputs, and sample(B, rng), a list of one array (B, *shape) per parameter. All
samples are feasible and bounded. Fixed data come from a generator of their own, so that a problem is the same in every run.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.linalg
import scipy.sparse as sp


def _convex(B, n, rng):
    """Q (B, n, n), positive definite and badly enough conditioned: Gram matrices of uniform entries."""
    U = rng.random((B, n, n))
    return U @ U.transpose(0, 2, 1) + 1e-3 * np.eye(n)


def _rows(B, m, n, rng):
    """G (B, m, n) and h (B, m), such that G z <= h has an interior point."""
    G, z, slack = rng.standard_normal((B, m, n)), rng.standard_normal((B, n)), rng.random((B, m))
    return G, (G @ z[..., None])[..., 0] + slack


def dense_qp(n=10, m=None):
    """min 1/2 z'Qz + p'z, G z <= h, with Q given as it is; all data are parameters."""
    m = n if m is None else m
    Q, p, G, h, z = cp.Parameter((n, n), PSD=True), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(z, Q) + p @ z), [G @ z <= h])

    def sample(B, rng):
        return [_convex(B, n, rng), rng.standard_normal((B, n)), *_rows(B, m, n, rng)]

    return problem, [Q, p, G, h], [z], sample


def optnet_qp(n=10, m=None):
    """The same QP as CVXPY wants it, 1/2 |L z|^2, L a full parameter (Amos and Kolter, OptNet, 2017).

    CVXPY adds the variable y = L z: 2n variables, n more equalities, and P is diagonal on y and zero on z.
    """
    m = n if m is None else m
    L, p, G, h, z = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ z) + p @ z), [G @ z <= h])

    def sample(B, rng):
        L = np.linalg.cholesky(_convex(B, n, rng)).transpose(0, 2, 1)
        return [L, rng.standard_normal((B, n)), *_rows(B, m, n, rng)]

    return problem, [L, p, G, h], [z], sample


def box_qp(n=100):
    """min 1/2 |L z|^2 + p'z, l <= z <= u."""
    L, p, l, u, z = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter(n), cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ z) + p @ z), [z >= l, z <= u])

    def sample(B, rng):
        L = np.linalg.cholesky(_convex(B, n, rng)).transpose(0, 2, 1)
        return [L, rng.standard_normal((B, n)), -rng.random((B, n)), rng.random((B, n))]

    return problem, [L, p, l, u], [z], sample


def sparse_rows(n):
    """A (n/2, n) and G (n, n) of the sparse QP."""
    rng = np.random.default_rng(0)
    A = (sp.random(n // 2, n, 3 / n, rng=rng) + sp.eye(n // 2, n)).tocsr()
    return A, (sp.random(n, n, 3 / n, rng=rng) + sp.eye(n)).tocsr()


def sparse_qp(n=200):
    """min 1/2 |z|^2 + p'z, G z <= h, A z = b, fixed sparse A (n/2 rows) and G (n rows), four entries a row.

    As in Agrawal et al., Differentiable convex optimization layers (2019), with half as many equalities and with slack, so
    that the feasible set has an interior.
    """
    A, G = sparse_rows(n)
    p, b, h, z = cp.Parameter(n), cp.Parameter(n // 2), cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(z) + p @ z), [G @ z <= h, A @ z == b])

    def sample(B, rng):
        point = rng.standard_normal((B, n))
        return [rng.standard_normal((B, n)), (A @ point.T).T, (G @ point.T).T + rng.random((B, n))]

    return problem, [p, b, h], [z], sample


def simplex(n=1000):
    """The projection onto the probability simplex (sparsemax)."""
    q, x = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) - q @ x), [x >= 0, cp.sum(x) == 1])
    return problem, [q], [x], lambda B, rng: [rng.standard_normal((B, n))]


def sudoku_rows(b=2):
    """The rules of a Sudoku with b x b blocks, sum = 1 over cells, rows, columns and blocks: independent rows (k, b^6)."""
    n = b * b
    cube = np.arange(n**3).reshape(n, n, n)  # row, column, digit
    groups = [*cube.reshape(-1, n), *cube.transpose(0, 2, 1).reshape(-1, n), *cube.transpose(1, 2, 0).reshape(-1, n)]
    groups += [*cube.reshape(b, b, b, b, n).transpose(0, 2, 4, 1, 3).reshape(-1, n)]
    A = np.zeros((len(groups), n**3))
    np.put_along_axis(A, np.array(groups), 1.0, axis=1)
    _, R, order = scipy.linalg.qr(A.T, mode="economic", pivoting=True)
    return A[np.sort(order[: int((np.abs(np.diag(R)) > 1e-9).sum())])]


def sudoku(b=2):
    """min 0.05 |z|^2 + p'z, A z = 1, z >= 0, with A a parameter that starts at the rules (OptNet's Sudoku layer)."""
    rules = sudoku_rows(b)
    k, n = rules.shape
    p, A, c, z = cp.Parameter(n), cp.Parameter((k, n)), cp.Parameter(k), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(0.05 * cp.sum_squares(z) + p @ z), [A @ z == c, z >= 0])

    def sample(B, rng):
        given = (rng.random((B, n)) < 0.2).astype(float)
        return [-given, np.tile(rules, (B, 1, 1)), np.ones((B, k))]

    return problem, [p, A, c], [z], sample


def mpc(states=8, inputs=4, steps=20):
    """Linear control: x+ = A x + B u + b, |u| <= 1, quadratic cost; the model and the first state are parameters.

    The benchmark of Frey et al., differentiable nonlinear MPC in acados (2025).
    """
    fixed = np.random.default_rng(42)
    drift = np.eye(states) + 0.2 * fixed.standard_normal((states, states))
    model = (drift, fixed.standard_normal((states, inputs)), fixed.standard_normal(states))
    A, B_, b, x0 = cp.Parameter((states, states)), cp.Parameter((states, inputs)), cp.Parameter(states), cp.Parameter(states)
    x, u = cp.Variable((states, steps + 1)), cp.Variable((inputs, steps + 1))
    rows = [x[:, 0] == x0, cp.abs(u) <= 1] + [x[:, t + 1] == A @ x[:, t] + B_ @ u[:, t] + b for t in range(steps)]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + 0.5 * cp.sum_squares(u)), rows)

    def sample(B, rng):
        return [*(np.tile(a, (B,) + (1,) * a.ndim) for a in model), rng.standard_normal((B, states))]

    return problem, [A, B_, b, x0], [u], sample


def portfolio(n=100, k=10):
    """max mu'w, sum(w) = 1, w >= 0, |(F w, d w)| <= 0.3: a long-only portfolio with a factor model; a second-order cone."""
    mu, F, d, w = cp.Parameter(n), cp.Parameter((k, n)), cp.Parameter(n, nonneg=True), cp.Variable(n)
    risk = cp.norm(cp.hstack([F @ w, cp.multiply(d, w)]))
    problem = cp.Problem(cp.Maximize(mu @ w), [cp.sum(w) == 1, w >= 0, risk <= 0.3])

    def sample(B, rng):
        F = 0.3 * rng.standard_normal((B, k, n)) / np.sqrt(k)
        return [0.1 * rng.standard_normal((B, n)), F, 0.3 * rng.random((B, n))]

    return problem, [mu, F, d], [w], sample


def logistic_regression(N=100, d=20):
    """Regularized logistic regression; the N points and the weight of the regularization are parameters. N exp cones twice."""
    labels = (np.random.default_rng(7).random(N) > 0.5).astype(float)
    X, weight, a, b = cp.Parameter((N, d)), cp.Parameter(nonneg=True), cp.Variable(d), cp.Variable()
    loss = cp.sum(cp.logistic(X @ a + b) - cp.multiply(labels, X @ a + b)) / N
    problem = cp.Problem(cp.Minimize(loss + weight * cp.sum_squares(a)))
    return problem, [X, weight], [a, b], lambda B, rng: [rng.standard_normal((B, N, d)), np.full(B, 0.1)]


def softmax(n=100):
    """max x'y + entropy(y), sum(y) = 1: exp cones."""
    x, y = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(-x @ y - cp.sum(cp.entr(y))), [cp.sum(y) == 1])
    return problem, [x], [y], lambda B, rng: [rng.standard_normal((B, n))]


def lml(n=100, k=5):
    """The limited multi-label layer, a smooth top-k: max x'y + binary entropy(y), sum(y) = k (Amos et al., 2019)."""
    x, y = cp.Parameter(n), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(-x @ y - cp.sum(cp.entr(y)) - cp.sum(cp.entr(1 - y))), [cp.sum(y) == k])
    return problem, [x], [y], lambda B, rng: [rng.standard_normal((B, n))]


def nearest_correlation(n=10):
    """The correlation matrix that is nearest to C: a semidefinite cone."""
    C, X = cp.Parameter((n, n)), cp.Variable((n, n), PSD=True)

    def sample(B, rng):
        M = 0.5 * rng.standard_normal((B, n, n))
        return [np.eye(n) + 0.5 * (M + M.transpose(0, 2, 1))]

    return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1]), [C], [X], sample
