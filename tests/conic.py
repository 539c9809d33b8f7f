"""Programs in which all of P, q, A and b are parameters, one for each cone, with values at which the solution is regular."""

import cvxpy as cp
import numpy as np

from .problems import Case

ROWS = {"zero": 2, "nonneg": 5, "soc": 4, "psd": 6, "exp": 3, "power": 3}


def conic(cone) -> Case:
    """minimize 1/2 x'Px + q'x subject to b - Ax in the cone; the cone is active at the solution."""
    n, m = 4, ROWS[cone]
    P, q, A, b = cp.Parameter((n, n), PSD=True), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    x = cp.Variable(n)
    s = b - A @ x
    constraint = {
        "zero": lambda: s == 0,
        "nonneg": lambda: s >= 0,
        "soc": lambda: cp.SOC(s[0], s[1:]),
        "psd": lambda: cp.bmat([[s[0], s[1], s[2]], [s[1], s[3], s[4]], [s[2], s[4], s[5]]]) >> 0,
        "exp": lambda: cp.ExpCone(s[0], s[1], s[2]),
        "power": lambda: cp.PowCone3D(s[0], s[1], s[2], 0.3),
    }[cone]()
    rng = np.random.default_rng(1)
    R, A0 = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    start = {
        "psd": np.array([2.0, 0.3, -0.2, 1.5, 0.4, 1.0]),
        "exp": np.array([0.2, 1.0, 2.0]),
        "power": np.array([1.0, 1.5, 0.3]),
    }
    inside = start.get(cone, np.r_[2.0, 0.3 * rng.standard_normal(m - 1)] if cone == "soc" else rng.random(m))
    values = [R @ R.T + np.eye(n), 4 * rng.standard_normal(n), A0, inside]
    variables = [x, *constraint.dual_variables]
    return Case(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x), [constraint]), [P, q, A, b], variables, values)
