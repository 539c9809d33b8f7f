"""QP engines behind one interface: a batch of conic data in, points out, and the derivative's linear solve where there is one.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b,  s = 0 in the first rows,  s >= 0 in the others

Each engine is a function (structure, data) -> list of `Entry`, or None if its package is not installed; an entry's forward
gives (x, y) of the first items at least, its backward gq (B, n). Data in the format of
the engine are made here, before anything is timed. Blocks that are the same for the whole batch are handed over once where
the engine can do that. Tolerances are the packages' own: 1e-8 (PIQP: absolute 1e-8, relative 1e-9).
"""

from __future__ import annotations

import importlib.util

import numpy as np
import scipy.sparse as sp
from cases import CORES, Entry

from cvxlayers.program import ConeProgram, Status
from cvxlayers.solvers.base import CscValues
from cvxlayers.solvers.clarabel import Clarabel

ITEMS = 16  # of a batch, for engines that take one problem at a time; their times are scaled up to the batch


def ours(structure, data):
    """The native engine; its backward factorizes the active set's K and solves for one right-hand side."""
    if structure.engine is None:
        return None
    return [_ours(structure, data, threads) for threads in sorted({1, min(2, CORES)})]


def _ours(S, data, threads):
    right, state = np.zeros((data.batch, 1, S.n + S.m)), {}

    def forward():
        found = S.engine.solve(*data, threads=threads)
        state["v"], state["unsolved"] = found.y - found.s, (found.status != Status.SOLVED).sum()
        return found.x, found.y

    def backward(gx):
        np.negative(gx, out=right[:, 0, : S.n])
        u, rank = S.engine.linear(data.P, data.A, state["v"], right, threads=threads)
        regular = rank != 0
        state["singular"] = (~regular).sum()
        return u[:, 0, : S.n]

    def note():
        return "".join(f", {state[k]} {k}" for k in ("unsolved", "singular") if state[k])

    return Entry("cvxlayers", threads, forward, backward, note=note)


def moreau(structure, data):
    """Moreau's interior point, and its active set up to n = 500, where Moreau itself would take it."""
    if importlib.util.find_spec("moreau") is None:
        return None
    methods = ("active_set", "ipm") if structure.n <= 500 else ("ipm",)
    return [_moreau(structure, data, method) for method in methods]


def _moreau(S, data, method):
    import moreau as package

    cones = package.Cones(num_zero_cones=S.cones.zero, num_nonneg_cones=S.cones.nonneg)
    settings = package.Settings(solver=method, device="cpu", batch_size=data.batch, enable_grad=True)
    pattern = (S.P.indptr, S.P.cols, S.A.indptr, S.A.cols)
    solver = package.CompiledSolver(S.n, S.m, *pattern, cones=cones, settings=settings)
    each = np.ones((data.batch, 1))
    if len(data.P) == len(data.A) == 1:  # both are shared, or neither
        P, A = data.P[0], data.A[0]
    else:
        P, A = data.P * each, data.A * each
    q, b = data.q * each, data.b * each

    def forward():
        solver.setup(P, A)
        found = solver.solve(q, b)
        return np.asarray(found.x), np.asarray(found.z)

    return Entry(f"Moreau, {method}", CORES, forward, lambda gx: np.asarray(solver.backward(gx)["dq"]))


def piqp(structure, data):
    """PIQP's dense and sparse interfaces, one problem after the other: update and solve, the setup is not counted.

    Rows with one entry are given as bounds on the variable, the first of each side.
    """
    if importlib.util.find_spec("piqp") is None:
        return None
    dense = [_piqp(structure, data, "dense")] if structure.n + structure.m <= 600 else []
    return [*dense, _piqp(structure, data, "sparse")]


def _piqp(S, data, kind):
    import piqp as package

    z, n, count = S.cones.zero, S.n, min(data.batch, ITEMS)
    rows = np.flatnonzero(np.diff(S.A.indptr) == 1)
    rows = rows[rows >= z]
    variable, entries = S.A.cols[S.A.indptr[rows]], data.A[:, S.A.indptr[rows]]
    sides = {}
    for side in (1, -1):
        usable = np.flatnonzero((np.sign(entries) == side).all(0))
        sides[side] = usable[np.unique(variable[usable], return_index=True)[1]]
    bounds = np.concatenate([rows[k] for k in sides.values()])
    equal, general = np.arange(z), np.setdiff1d(np.arange(z, S.m), bounds)
    parts = [_part(S.A, equal, kind), _part(S.A, general, kind)]
    matrix_P = _part(S.P, np.arange(n), kind)

    def item(i):
        P, q, A, b = (a[0 if len(a) == 1 else i] for a in data)
        values = {"P": matrix_P(P), "c": q.copy()}
        if z:
            values |= {"A": parts[0](A), "b": b[:z].copy()}
        if general.size:
            values |= {"G": parts[1](A), "h_u": b[general].copy()}
        for side, key, empty in ((1, "x_u", np.inf), (-1, "x_l", -np.inf)):
            if sides[side].size:
                limit, k = np.full(n, empty), sides[side]
                limit[variable[k]] = b[rows[k]] / A[S.A.indptr[rows[k]]]
                values[key] = limit
        return values

    items = [item(i) for i in range(count)]
    solver = package.DenseSolver() if kind == "dense" else package.SparseSolver()
    solver.setup(**items[0])
    constant = {k for k, a in (("P", data.P), ("A", data.A), ("G", data.A)) if len(a) == 1}
    items = [{k: a for k, a in values.items() if k not in constant} for values in items]

    def forward():
        x, y = np.empty((count, n)), np.zeros((count, S.m))
        for i, values in enumerate(items):
            solver.update(**values)
            solver.solve()
            found = solver.result
            x[i], y[i, :z], y[i, general] = found.x, found.y, found.z_u
            for side, dual in ((1, found.z_bu), (-1, found.z_bl)):
                k = sides[side]
                y[i, rows[k]] = dual[variable[k]] / np.abs(data.A[0 if len(data.A) == 1 else i, S.A.indptr[rows[k]]])
        return x, y

    return Entry(f"PIQP, {kind}", 1, forward, scale=data.batch / count)


def _part(pattern, rows, kind):
    """values (nnz) -> the matrix of these rows, dense or CSC."""
    mine = np.flatnonzero(np.isin(pattern.rows, rows))
    place = np.searchsorted(rows, pattern.rows[mine])
    make = CscValues(place, pattern.cols[mine], (rows.size, pattern.shape[1]), mine)
    if kind == "dense":
        return lambda values: np.asfortranarray(make(values).toarray())
    return lambda values: sp.csc_matrix(make(values))


def clarabel(structure, data):
    """Clarabel as cvxlayers calls it: items in a pool of threads, each with its setup."""
    count = min(data.batch, ITEMS)
    solver = Clarabel(structure, {"tol": 1e-8})
    program = ConeProgram(structure, data.take(np.arange(count)))

    def forward():
        found = solver.solve(program)
        return found.x, found.y

    return [Entry("Clarabel", min(CORES, count), forward, scale=data.batch / count)]


ENGINES = {"cvxlayers": ours, "Moreau": moreau, "PIQP": piqp, "Clarabel": clarabel}


def kkt(structure, data, x, y):
    """The largest residual of the optimality conditions over the items of x (B, n) and y (B, m): absolute, unscaled.

    |Px + q + A'y|, |s| in the zero rows, and in the others -s, -y and min(|s|, |y|), with s = b - Ax; inf for NaN.
    """
    S, z = structure, structure.cones.zero
    data = data.take(np.arange(len(x)))
    s = data.b - S.A.matvec(data.A, x)
    sz, yz = s[:, z:], y[:, z:]
    parts = [S.P.matvec(data.P, x) + data.q + S.A.rmatvec(data.A, y), s[:, :z], np.minimum(sz, 0), np.minimum(yz, 0)]
    worst = max(np.abs(a).max(initial=0) for a in (*parts, np.minimum(np.abs(sz), np.abs(yz))))
    return worst if np.isfinite(worst) else np.inf
