"""diffcp's own way to solve: the reference that cvxpylayers uses, on top of SCS, ECOS or Clarabel. No P, no power.

    minimize q'x   subject to  Ax + s = b, s in K      CSC; cones in our order

Permuted: svec, as SCS has it; diffcp permutes the rows that ECOS and Clarabel want. One problem at a time: its batch
call raises for the whole batch if one item fails. We call the function below `diffcp.solve_only`, which keeps the
status: with Clarabel, `solve_only` returns the iterate of an infeasible problem as if it were a solution.
Source: Agrawal, Barratt, Boyd, Busseti and Moursi, J. Appl. Numer. Optim. 1 (2019).
"""

from __future__ import annotations

from ..errors import ProblemError
from ..program import Status
from .base import Item, ItemSolver
from .clarabel import Clarabel
from .ecos import ECOS
from .scs import SCS, lower_svec_order

_METHODS = {"SCS": SCS, "ECOS": ECOS, "Clarabel": Clarabel}
_STATUS = {
    "solved": Status.SOLVED,
    "solved/inaccurate": Status.INACCURATE,
    "optimal inaccurate": Status.INACCURATE,
    "solved (inaccurate - reached max_iters)": Status.INACCURATE,
    "solved (inaccurate - reached time_limit_secs)": Status.INACCURATE,
    "infeasible": Status.INFEASIBLE,
    "infeasible inaccurate": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "unbounded inaccurate": Status.UNBOUNDED,
}


class Diffcp(ItemSolver):
    """`solve_method`: "SCS" (default), "ECOS" or "Clarabel"; the other options are those of the method."""

    name = "diffcp"
    package = "diffcp"
    cones = frozenset({"zero", "nonneg", "soc", "psd", "exp"})
    quadratic = False
    needs_rows = True
    options = frozenset({"solve_method"}).union(*(method.options for method in _METHODS.values()))

    def __init__(self, structure, args=None):
        wanted = str((args or {}).get("solve_method", "SCS"))
        self.method = next((name for name in _METHODS if name.lower() == wanted.lower()), None)
        if self.method is None:
            raise ProblemError(f"solver 'diffcp' has no solve_method {wanted!r}; it has: {', '.join(_METHODS)}")
        below = _METHODS[self.method]
        self.cones = Diffcp.cones & below.cones  # these belong to the method
        self.options = below.options | {"solve_method"}
        self.spelled, self.defaults, self.tight = below.spelled, below.defaults, below.tight
        if self.method == "Clarabel" and max(structure.cones.psd, default=0) > 3:
            raise ProblemError(
                "diffcp with Clarabel returns y and s of matrices beyond 3 x 3 in the wrong order; "
                "use solve_method='SCS', or the solver 'clarabel'"
            )
        super().__init__(structure, args)

    def row_order(self, cones):
        return lower_svec_order(cones)

    def solve_item(self, cones, P, q, A, b):
        from diffcp.cone_program import SolverError, solve_internal

        dims = {"z": cones.zero, "l": cones.nonneg, "q": list(cones.soc), "s": list(cones.psd), "ep": cones.exp}
        settings = {k: v for k, v in self.settings.items() if k != "solve_method"}
        try:
            found = solve_internal(A, b, q, dims, solve_method=self.method, raise_on_error=False, **settings)
        except SolverError as error:  # ECOS raises all the same: "Solver ecos returned status Infeasible"
            return Item(_STATUS.get(str(error).lower().rpartition("status ")[2], Status.FAILED))
        status = _STATUS.get(found["info"]["status"].lower(), Status.FAILED)
        if status not in (Status.SOLVED, Status.INACCURATE):
            return Item(status, iterations=found["info"]["iter"])
        return Item(status, found["x"], found["y"], found["s"], found["info"]["iter"])
