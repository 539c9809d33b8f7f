"""ECOS: an interior-point method for second-order and exponential cones, in C. One problem at a time; no P.

    minimize q'x   subject to  A_eq x = b_eq,  Gx + s = h, s in K      A_eq: our zero rows, G: the others; CSC

Permuted: an exponential cone, whose rows are (x, z, y).
Source: Domahidi, Chu and Boyd, ECC 2013; Serrano, thesis, 2015.
"""

from __future__ import annotations

import numpy as np

from ..program import Status
from .base import Item, ItemSolver

_TOLERANCES = ("abstol", "reltol", "feastol")
_STATUS = {
    0: Status.SOLVED,
    10: Status.INACCURATE,
    1: Status.INFEASIBLE,
    11: Status.INFEASIBLE,
    2: Status.UNBOUNDED,
    12: Status.UNBOUNDED,
}


class ECOS(ItemSolver):
    """Few iterations, all of them on one thread."""

    name = "ecos"
    package = "ecos"
    cones = frozenset({"zero", "nonneg", "soc", "exp"})
    quadratic = False
    options = frozenset({*_TOLERANCES, "abstol_inacc", "reltol_inacc", "feastol_inacc", "max_iters", "verbose"})
    spelled = {"tol_gap_abs": ("abstol",), "tol_gap_rel": ("reltol",), "tol_feas": ("feastol",), "max_iter": ("max_iters",)}
    defaults = {**dict.fromkeys(_TOLERANCES, 1e-10), "verbose": False}
    tight = dict.fromkeys(_TOLERANCES, 1e-12)

    def row_order(self, cones):
        order = np.arange(cones.rows)
        first = cones.rows - 3 * cones.exp
        order[first:] = order[first:].reshape(-1, 3)[:, [0, 2, 1]].ravel()
        return order

    def solve_item(self, cones, P, q, A, b):
        import ecos

        z = cones.zero
        # copies: ECOS scales its arguments in place and scales them back afterwards, not to the last bit
        equalities = (A[:z], b[:z].copy()) if z else (None, None)
        others = (A[z:], b[z:].copy()) if z < b.size else (None, None)
        dims = {"l": cones.nonneg, "q": list(cones.soc), "e": cones.exp}
        found = ecos.solve(q.copy(), *others, dims, *equalities, **self.settings)
        status = _STATUS.get(found["info"]["exitFlag"], Status.FAILED)
        if status not in (Status.SOLVED, Status.INACCURATE):
            return Item(status, iterations=found["info"]["iter"])
        y, s = np.r_[found["y"], found["z"]], np.r_[np.zeros(z), found["s"]]
        return Item(status, found["x"], y, s, found["info"]["iter"])
