"""Moreau: batches of conic programs in Rust, by a dual active-set method (DAQP) or an interior-point method.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b, s in K      both triangles of P, CSR

Nothing is permuted: cones, rows and svec are in our order. The active-set method takes zero and nonneg rows and a
positive definite P; there it is exact, and ten times as fast on dense data; the rest goes to the interior-point method.
We call `moreau_cpu`, the engine that `moreau` pins to its own version: the checks that `moreau.CompiledSolver` makes in
Python on every call take 5 times as long as a small QP (0.10 ms against 0.02 ms at n = m = 20).
Source: https://pypi.org/project/moreau (0.4.1).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

import numpy as np

from ..errors import ProblemError
from ..program import ConeProgram, Solution, Status
from .base import Solver, unsolved

_TOP = frozenset({"solver", "max_iter", "time_limit", "verbose"})
_ACTIVE_SET = frozenset(
    {"primal_tol", "dual_tol", "zero_tol", "pivot_tol", "progress_tol", "fval_bound", "iter_limit", "cycle_tol"}
)
_TOLERANCES = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
_IPM = frozenset(
    {
        *_TOLERANCES,
        "tol_infeas_abs",
        "tol_infeas_rel",
        "tol_ktratio",
        "max_step_fraction",
        "equilibrate_enable",
        "direct_solve_method",
        "reduced_tol_gap_abs",
        "reduced_tol_gap_rel",
        "reduced_tol_feas",
        "reduced_tol_infeas_abs",
        "reduced_tol_infeas_rel",
        "reduced_tol_ktratio",
        "chordal_decomposition_enable",
        "chordal_decomposition_merge_method",
    }
)

_STATUS = np.full(12, int(Status.FAILED))  # by the number of Moreau's status
_STATUS[[1, 4]] = Status.SOLVED, Status.INACCURATE
_STATUS[[2, 5]], _STATUS[[3, 6]] = Status.INFEASIBLE, Status.UNBOUNDED

_METHODS = ("auto", "active_set", "ipm")
_BATCH_SIZES, _THREADS = 4, os.cpu_count() or 1  # idle solvers that are kept: the latest batch sizes; so many of each


class Moreau(Solver):
    """The whole batch in one call. `solver`: "auto", "active_set" or "ipm"; tol_... are for the latter.

    The active-set method cannot see that a problem is unbounded, and on a singular P it can fail, or return a wrong point
    as solved (the caller tests the residual). In "auto" the items that it gives up go to the interior-point method, and
    `tighter` is that method.
    """

    name = "moreau"
    package = "moreau"
    cones = frozenset({"zero", "nonneg", "soc", "psd", "exp", "power"})
    rank = 10
    options = _TOP | _ACTIVE_SET | _IPM
    spelled = {"max_iter": ("max_iter", "iter_limit")}
    # QPs, where it is exact or must find the active rows: 1e-10 takes 1.5 iterations more than 1e-8.
    defaults = {**dict.fromkeys(_TOLERANCES, 1e-10), "solver": "auto"}
    # Other cones: the last steps are slow, half an exp cone's 40, and Newton converges from 1e-6 just as well: of 1600
    # random programs of all cones each one; from 1e-4 all but 20, in a step more.
    rough = dict.fromkeys(_TOLERANCES, 1e-6)
    # 1e-12: exp and power cones end at 1e-3 to 1e-2, 1 item of 20
    tight = {"solver": "ipm", **dict.fromkeys(_TOLERANCES, 1e-11)}

    _idle: OrderedDict[int, list]
    _pid: int

    def __init__(self, structure, args=None):
        if not structure.K.polyhedral:
            self.defaults = {**self.defaults, **self.rough}
        super().__init__(structure, args)
        method = str(self.settings["solver"]).lower()
        if method not in _METHODS:
            raise ProblemError(
                f"solver_args has solver={self.settings['solver']!r}, where moreau expects a method: {', '.join(_METHODS)}; "
                f"another solver is solve_method=... there, or solver=... in the constructor"
            )
        if method == "active_set" and (structure.cones.kinds - {"zero", "nonneg"} or not structure.m):
            raise ProblemError(
                "moreau's active_set method takes zero and nonneg rows only, at least one; use solver='ipm' or 'auto'"
            )
        self.active_set = method == "active_set" or (method == "auto" and _suits_active_set(structure))
        try:
            self._native_settings()
        except ValueError as error:
            raise ProblemError(f"solver 'moreau' does not accept the options {self.args}: {error}") from error
        fallback = self.active_set and method == "auto"
        self._fallback = type(self)(structure, {**self.args, "solver": "ipm"}) if fallback else None
        self._forget()

    def _native_settings(self):
        import moreau

        def pick(names):
            return {k: v for k, v in self.settings.items() if k in names}

        return moreau.Settings(
            **{**pick(_TOP), "solver": "active_set" if self.active_set else "ipm"},
            device="cpu",
            ipm_settings=moreau.IPMSettings(**pick(_IPM)),
            active_set_settings=moreau.ActiveSetSettings(**pick(_ACTIVE_SET)),
        )

    def _compile(self, batch):
        import moreau
        import moreau_cpu

        S = self.structure
        c = S.cones
        cones = moreau.Cones(
            num_zero_cones=c.zero,
            num_nonneg_cones=c.nonneg,
            so_cone_dims=list(c.soc),
            psd_dims=list(c.psd),
            num_exp_cones=c.exp,
            power_alphas=list(c.power),
        )
        engine = moreau_cpu.ActiveSetSolver if self.active_set else moreau_cpu.Solver
        patterns = (S.P.indptr, S.P.cols, S.A.indptr, S.A.cols)
        return engine(S.n, S.m, *patterns, cones, self._native_settings(), batch_size=batch)

    def solve(self, program, warm=None):
        S, data, B = self.structure, program.data, program.data.batch
        if B == 0:
            return unsolved(S, 0)
        P, q, A, b = data
        if B > 1 and P.shape[0] == A.shape[0] == 1:
            P, A = P[0], A[0]  # shared: copied and scaled once
        else:
            P, A = _each(P, B), _each(A, B)
        q, b = _each(q, B), _each(b, B)
        engine = self._take(B)
        engine.setup(P, A)
        found = engine.solve(q, b)
        self._give_back(B, engine)
        x, y, s = found["x"], found["z"], found["s"]
        status = _STATUS[np.asarray(found["status"], np.int64)]
        if status.any() or not np.isfinite(x.sum() + y.sum() + s.sum()):  # sums: faster than looking at each entry
            point = (status == Status.SOLVED) | (status == Status.INACCURATE)
            usable = point & np.isfinite(x).all(1) & np.isfinite(y).all(1) & np.isfinite(s).all(1)
            x[~usable] = y[~usable] = s[~usable] = np.nan
            status[point & ~usable] = Status.FAILED
        solution = Solution(x, y, s, status, np.asarray(found["iterations"], np.int64))
        left = np.flatnonzero(status != Status.SOLVED)
        if left.size and self._fallback:
            again = self._fallback.solve(ConeProgram(S, data.take(left)))
            for mine, new in zip(solution, again, strict=True):
                mine[left] = new
        return solution

    def _take(self, batch):
        """A compiled solver for this batch size. It holds the problem it works on: each call needs one for itself."""
        if self._pid != os.getpid():
            self._forget()  # after a fork: another thread may have held the lock
        with self._lock:
            engines = self._idle.get(batch)
            if engines:
                return engines.pop()
        return self._compile(batch)

    def _give_back(self, batch, engine):
        with self._lock:
            engines = self._idle.setdefault(batch, [])
            if len(engines) < _THREADS:
                engines.append(engine)
            self._idle.move_to_end(batch)
            if len(self._idle) > _BATCH_SIZES:
                self._idle.popitem(last=False)

    def _forget(self):
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._idle = OrderedDict()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_idle", "_pid")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()


def _each(array, batch):
    """(B|1, k) -> (B, k), as a view."""
    return array if array.shape[0] == batch else np.broadcast_to(array, (batch, array.shape[1]))


def _suits_active_set(structure):
    """A QP, small or dense. Without rows the method crashes; for a linear objective it is not made.

    Measured against the interior-point method: 10 times as fast on dense data, n = 20 to 400; with 3 entries a row 2 times
    as fast at n = 50, 2 times slower at 100 and beyond. That P may be singular (CVXPY writes |Lz|^2 as |y|^2, y = Lz)
    costs little: of 1536 QPs of that form, n = 20 to 60, all came back right.
    """
    S = structure
    n, m = S.n, S.m
    if S.cones.kinds - {"zero", "nonneg"} or not m or n > 500 or m > max(500, 2 * n):
        return False
    return S.P.nnz > 0 and (n <= 64 or S.P.nnz + S.A.nnz > 0.15 * n * (n + m))
