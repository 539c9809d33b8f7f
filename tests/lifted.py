"""A table of problems that are not DPP as they are written, or that are lifted although they are: what `lifting.py` is for."""

from __future__ import annotations

import cvxpy as cp
import numpy as np


def _parameters():
    """Fresh parameters by name, and two values for each."""
    rng = np.random.default_rng(3)
    p = {
        "g": cp.Parameter(nonneg=True, name="g"),
        "h": cp.Parameter(nonneg=True, name="h"),
        "q": cp.Parameter(pos=True, name="q"),
        "s": cp.Parameter(name="s"),
        "b": cp.Parameter(3, name="b"),
        "c": cp.Parameter(3, name="c"),
        "w": cp.Parameter(3, nonneg=True, name="w"),
        "F": cp.Parameter((3, 3), name="F"),
        "G": cp.Parameter((3, 3), name="G"),
        "P": cp.Parameter((3, 3), PSD=True, name="P"),
        "N": cp.Parameter((3, 3), NSD=True, name="N"),
        "S": cp.Parameter((3, 3), symmetric=True, name="S"),
    }

    def value(q):
        v = rng.standard_normal(q.shape)
        if q.attributes["PSD"] or q.attributes["NSD"]:
            return (v @ v.T + np.eye(3)) * (1 if q.attributes["PSD"] else -1)
        v = (v + v.T) / 2 if q.attributes["symmetric"] else v
        return np.asarray(np.abs(v) + 0.3 if q.is_nonneg() else v)

    return p, [{name: value(q) for name, q in p.items()} for _ in range(2)]


x, y = cp.Variable(3, name="x"), cp.Variable(3, name="y")
X = cp.Variable((3, 3), name="X")
SMALL = cp.sum_squares(x - 1)  # makes the solution unique


def rows(p):
    """name -> (objective, constraints); each with the variable x or X."""
    g, h, q, s, b, c, w, F, G, P, N, S = p.values()
    lo, box = cp.Minimize, [x >= -3, x <= 3]
    return {
        "1 g*h*x": (lo(SMALL + g * h * cp.sum(x)), box),
        "1 g*h*x in a constraint": (lo(SMALL), [g * h * x <= 1]),
        "2 g*(F@x)": (lo(SMALL + cp.sum(g * (F @ x))), box),
        "3 F@G@x": (lo(SMALL), [F @ G @ x <= 1]),
        "3 F@(G@x)": (lo(SMALL), [F @ (G @ x) <= 1]),
        "4 F@(x-b)": (lo(cp.sum_squares(F @ (x - b)) + SMALL), box),
        "5 g*sum_squares(F@x-b)": (lo(g * cp.sum_squares(F @ x - b) + SMALL), box),
        "5 g*norm1(F@x)": (lo(g * cp.norm1(F @ x) + SMALL), box),
        "5 weighted squares": (lo(cp.sum(cp.multiply(w, cp.square(F @ x - b))) + SMALL), box),
        "5 a scalar and weights": (lo(g * cp.sum(cp.multiply(w, cp.logistic(F @ x - b))) + SMALL), box),
        "5 a scalar and a sum": (lo(g * (cp.sum_squares(F @ x) + h * cp.norm(x - b)) + SMALL), box),
        "5 a scalar and constant weights": (lo(g * (np.arange(1, 4) @ cp.square(F @ x)) + SMALL), box),
        "5 nonneg matrix": (lo(cp.sum(cp.multiply(np.ones((3, 3)), w) @ cp.square(F @ x)) + SMALL), box),
        "5 a scalar and a maximum": (lo(g * cp.maximum(h * cp.norm(F @ x - b), cp.quad_form(x, P)) + SMALL), []),
        "5 a matrix and a product": (lo(cp.sum(cp.diag(w) @ cp.multiply(w, cp.exp(F @ x - b))) + SMALL), []),
        "5 a scalar and a constant kron": (
            lo(g * cp.sum(cp.kron(np.ones((1, 2)), cp.square(F @ X - 1))) + cp.sum_squares(X - 1)),
            [],
        ),
        "6 quad_form(x-b, P)": (lo(cp.quad_form(x - b, P)), [cp.sum(x) == 1, *box]),
        "6 quad_form(x-b, constant)": (lo(cp.quad_form(x - b, np.diag([1.0, 2.0, 3.0]))), [cp.sum(x) == 1, *box]),
        "7 g*quad_form(x,P)": (lo(g * cp.quad_form(x, P) + SMALL), box),
        "7 g*quad_form(x-b,P)": (lo(g * cp.quad_form(x - b, P) + SMALL), box),
        "7 maximize": (cp.Maximize(g * cp.quad_form(x, N) - SMALL), box),
        "7 minus": (cp.Maximize(-(g * cp.quad_form(x, P)) - SMALL), box),
        "7 in a sum": (lo(g * (cp.quad_form(x, P) + cp.norm(x)) + SMALL), box),
        "8 quad_form(x,P) <= 1": (lo(b @ x), [cp.quad_form(x, P) <= 1]),
        "8 quad_form(x-b,P) <= q": (lo(c @ x), [cp.quad_form(x - b, P) <= q]),
        "8 quad_form(F@x,P) <= 1": (lo(SMALL), [cp.quad_form(F @ x, P) <= 1]),
        "8 g*quad_form(x,P) <= 1": (lo(SMALL), [g * cp.quad_form(x, P) <= 1]),
        "8 quad_form(x,N) >= -1": (lo(SMALL), [cp.quad_form(x, N) >= -1]),
        "8 quad_form(x,2*P+I)": (lo(SMALL), [cp.quad_form(x, 2 * P + np.eye(3)) <= 1]),
        "8 quad_form under max": (lo(cp.maximum(cp.quad_form(x, P), 1) + SMALL), []),
        "8 quad_form under exp": (lo(cp.exp(0.1 * cp.quad_form(x - b, P)) + SMALL), []),
        "8 quad_form under square": (lo(cp.square(1 + cp.quad_form(x, P)) + SMALL), []),
        "9 x/g": (lo(SMALL), [x / g <= 1]),
        "9 sum_squares(x)/g": (lo(cp.sum_squares(x) / g + SMALL), []),
        "9 norm(x)/g": (lo(cp.norm(x) / g + SMALL), []),
        "9 norm(F@x-b)/g": (lo(cp.norm(F @ x - b) / g + SMALL), []),
        "9 sum_squares(x/g)": (lo(cp.sum_squares(x / g) + SMALL), []),
        "9 vector over vector": (lo(SMALL), [x / w <= 1]),
        "10 x <= s**2": (lo(SMALL), [x <= s**2]),
        "10 x <= abs(b)+0.1": (lo(SMALL), [x <= cp.abs(b) + 0.1]),
        "10 norm(x) <= norm(b)": (lo(SMALL), [cp.norm(x) <= cp.norm(b)]),
        "11 x <= 1/q": (lo(SMALL), [x <= 1 / q]),
        "12 exp(s)*x": (lo(SMALL), [cp.exp(s) * x <= 1]),
        "12 norm(b)*norm(x)": (lo(SMALL + cp.norm(b) * cp.norm(x)), []),
        "13 (b@b)*x": (lo(SMALL + (b @ b) * cp.sum(x)), []),
        "13 b@F@x": (lo(SMALL + b @ F @ x), []),
        "14 quad_over_lin(x,q)": (lo(cp.quad_over_lin(x, q) + SMALL), []),
        "14 quad_over_lin(F@x-b,s**2)": (lo(SMALL), [cp.quad_over_lin(F @ x - b, s**2 + 1) <= 5]),
        "15 multiply(b,F@x)": (lo(SMALL), [cp.multiply(b, F @ x) <= 1]),
        "15 diag(b)@F@x": (lo(SMALL), [cp.diag(b) @ F @ x <= 1]),
        "16 F@X@F.T": (lo(cp.sum_squares(X) + cp.trace(F @ X @ F.T)), [X >> np.eye(3)]),
        "16 a quadratic form of X": (lo(cp.sum_squares(X - np.eye(3)) + cp.quad_form(b, X)), [X >> 0]),
        "17 quad_form(x,psd_wrap(F.T@F))": (lo(cp.quad_form(x, cp.psd_wrap(F.T @ F)) + SMALL), []),
        "17 quad_form(x,psd_wrap(F.T@F)) <= 1": (lo(b @ x + SMALL), [cp.quad_form(x, cp.psd_wrap(F.T @ F)) <= 1]),
        "20 parametric bounds": (lo(SMALL), [x >= g * h - 2, x <= g * h]),
        "22 x >= abs(b)": (lo(cp.sum_squares(x + 1)), [x >= cp.abs(b)]),
        "22 x <= sqrt(q)": (lo(SMALL), [x <= cp.sqrt(q)]),
        "22 x >= exp(b)": (lo(SMALL), [x >= cp.exp(b)]),
        "22 x >= norm(b)": (lo(SMALL), [x >= cp.norm(b)]),
        "22 maximum": (lo(SMALL), [x <= cp.maximum(b, 0.1), x >= cp.minimum(b, -1)]),
        "22 log_sum_exp": (lo(SMALL), [cp.sum(x) <= cp.log_sum_exp(b)]),
        "a constant of the objective": (lo(SMALL + cp.norm(b) + b @ x), []),
        "S is symmetric": (lo(SMALL), [S @ S @ x <= 1]),
        "second-order cone": (lo(SMALL), [cp.SOC(g * h, F @ (x - b) / 4 + x)]),
        "exponential cone": (lo(SMALL), [cp.ExpCone(x, np.ones(3), cp.exp(b) + 0.5)]),
        "power cone": (lo(SMALL), [cp.PowCone3D(x[0], g * h + 1, x[1], 0.3)]),
        "semidefinite": (lo(cp.sum_squares(X)), [X >> F.T @ F]),
        "equality": (lo(SMALL), [cp.sum(x) == cp.norm(b)]),
    }


NAMES = list(rows(_parameters()[0]))


def problem(name):
    """(problem, its parameters, its variable, two lists of values)."""
    p, values = _parameters()
    objective, constraints = rows(p)[name]
    program = cp.Problem(objective, constraints)
    used = [q for q in p.values() if any(q is r for r in program.parameters())]
    return program, used, program.variables()[0], [[v[q.name()] for q in used] for v in values]
