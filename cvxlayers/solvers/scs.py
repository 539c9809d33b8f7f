"""SCS: operator splitting on the homogeneous embedding, with Anderson acceleration, in C. One problem at a time.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b, s in K      P upper triangle, CSC; cones in our order

Permuted: svec, which stacks the lower triangle column by column: (0,0), (1,0), (2,0), (1,1), (2,1), (2,2).
Source: https://www.cvxgrp.org/scs; O'Donoghue, SIAM J. Optim. 31 (2021).
"""

from __future__ import annotations

import numpy as np

from ..program import Status
from .base import Item, ItemSolver

_STATUS = {1: Status.SOLVED, 2: Status.INACCURATE, -1: Status.UNBOUNDED, -2: Status.INFEASIBLE}  # -6, -7: guesses only


class SCS(ItemSolver):
    """First order: cheap iterations, many of them."""

    name = "scs"
    package = "scs"
    cones = frozenset({"zero", "nonneg", "soc", "psd", "exp", "power"})
    needs_rows = True
    warm_starts = True
    options = frozenset(
        {
            "max_iters",
            "eps_abs",
            "eps_rel",
            "eps_infeas",
            "alpha",
            "rho_x",
            "scale",
            "normalize",
            "adaptive_scale",
            "acceleration_lookback",
            "acceleration_interval",
            "time_limit_secs",
            "linear_solver",
            "verbose",
        }
    )
    spelled = {
        "tol_gap_abs": ("eps_abs",),
        "tol_gap_rel": ("eps_rel",),
        "tol_feas": ("eps_abs",),  # one tolerance for both
        "max_iter": ("max_iters",),
        "time_limit": ("time_limit_secs",),
    }
    # 1e-8 leaves v = y - s at 1e-8 to 1e-6, from where Newton converges; at 1e-9 a linear objective over n = 60 with
    # SOC and PSD cones ran into 20000 iterations for 1 item of 4. QDLDL: others bring threads of their own.
    defaults = {"eps_abs": 1e-8, "eps_rel": 1e-8, "max_iters": 20_000, "linear_solver": "qdldl", "verbose": False}
    tight = {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100_000}  # 1e-10: power cones stall, 4 of 10

    def row_order(self, cones):
        return lower_svec_order(cones)

    def solve_item(self, cones, P, q, A, b, warm=None):
        import scs

        data = {"A": A, "b": b, "c": q, **({"P": P} if P.nnz else {})}
        solver = scs.SCS(data, native_cones(cones), **self.settings)
        found = solver.solve(**dict(zip("xys", warm or (), strict=False)), warm_start=warm is not None)
        status = _STATUS.get(found["info"]["status_val"], Status.FAILED)
        if status not in (Status.SOLVED, Status.INACCURATE):
            return Item(status, iterations=found["info"]["iter"])
        return Item(status, found["x"], found["y"], found["s"], found["info"]["iter"])


def native_cones(cones):
    """SCS's dictionary of cones for a `ConeDims`."""
    return {
        "z": cones.zero,
        "l": cones.nonneg,
        "q": list(cones.soc),
        "s": list(cones.psd),
        "ep": cones.exp,
        "p": list(cones.power),
    }


def lower_svec_order(cones):
    """Our row at each row of SCS."""
    order = np.arange(cones.rows)
    start = cones.zero + cones.nonneg + sum(cones.soc)
    for k in cones.psd:
        i, j = np.triu_indices(k)  # row by row in the upper triangle is column by column in the lower one
        order[start : start + i.size] = start + j * (j + 1) // 2 + i
        start += i.size
    return order
