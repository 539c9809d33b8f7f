"""Clarabel: an interior-point method for conic programs with a quadratic objective, in Rust. One problem at a time.

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b, s in K      P upper triangle, CSC

Nothing is permuted: cones, rows and svec are in our order.
Source: https://clarabel.org; Goulart and Chen, arXiv 2405.12762.
"""

from __future__ import annotations

import numpy as np

from ..program import Status
from .base import Item, ItemSolver

_TOLERANCES = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
_STATUS = {
    "Solved": Status.SOLVED,
    "AlmostSolved": Status.INACCURATE,
    # Both come with the best point so far, from where refinement often reaches the solution.
    "InsufficientProgress": Status.INACCURATE,
    "NumericalError": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
}


class Clarabel(ItemSolver):
    """Items run in the thread pool, each on one thread."""

    name = "clarabel"
    package = "clarabel"
    cones = frozenset({"zero", "nonneg", "soc", "psd", "exp", "power"})
    rank = 20
    options = frozenset(
        {
            *_TOLERANCES,
            "tol_infeas_abs",
            "tol_infeas_rel",
            "tol_ktratio",
            "max_iter",
            "time_limit",
            "verbose",
            "max_step_fraction",
            "max_threads",
            "direct_kkt_solver",
            "direct_solve_method",
            "presolve_enable",
            "input_sparse_dropzeros",
            "reduced_tol_feas",
            "reduced_tol_gap_abs",
            "reduced_tol_gap_rel",
            "reduced_tol_infeas_abs",
            "reduced_tol_infeas_rel",
            "reduced_tol_ktratio",
            "equilibrate_enable",
            "equilibrate_max_iter",
            "equilibrate_max_scaling",
            "equilibrate_min_scaling",
            "linesearch_backtrack_step",
            "min_switch_step_length",
            "min_terminate_step_length",
            "static_regularization_enable",
            "static_regularization_constant",
            "static_regularization_proportional",
            "dynamic_regularization_enable",
            "dynamic_regularization_delta",
            "dynamic_regularization_eps",
            "iterative_refinement_enable",
            "iterative_refinement_abstol",
            "iterative_refinement_reltol",
            "iterative_refinement_max_iter",
            "iterative_refinement_stop_ratio",
            "chordal_decomposition_enable",
            "chordal_decomposition_compact",
            "chordal_decomposition_complete_dual",
            "chordal_decomposition_merge_method",
        }
    )
    # As for Moreau. Beyond 1e-10 more and more problems end "almost solved", with a point that is no worse for it.
    defaults = {**dict.fromkeys(_TOLERANCES, 1e-10), "max_threads": 1, "verbose": False}
    tight = dict.fromkeys(_TOLERANCES, 1e-11)

    def solve_item(self, cones, P, q, A, b):
        import clarabel

        settings = clarabel.DefaultSettings()
        for name, value in self.settings.items():
            setattr(settings, name, value)
        found = clarabel.DefaultSolver(P, q, A, b, native_cones(cones), settings).solve()
        status = _STATUS.get(str(found.status), Status.FAILED)
        if status not in (Status.SOLVED, Status.INACCURATE):
            return Item(status, iterations=found.iterations)
        return Item(status, np.array(found.x), np.array(found.z), np.array(found.s), found.iterations)


def native_cones(cones):
    """Clarabel's list of cones for a `ConeDims`."""
    import clarabel

    single = [make(k) for make, k in ((clarabel.ZeroConeT, cones.zero), (clarabel.NonnegativeConeT, cones.nonneg)) if k]
    return [
        *single,
        *map(clarabel.SecondOrderConeT, cones.soc),
        *map(clarabel.PSDTriangleConeT, cones.psd),
        *(clarabel.ExponentialConeT() for _ in range(cones.exp)),
        *map(clarabel.PowerConeT, cones.power),
    ]
