"""The native engine: batches of QPs, several problems in one register, solved to rounding error (see `cvxlayers.native`).

    minimize 1/2 x'Px + q'x   subject to  Ax + s = b,  s in the zero and nonneg cones

An interior-point method to 1e-5, then the active set that it shows, solved for exactly and verified; what does not verify
goes on to 1e-7 and 1e-9. Nothing is permuted. The tolerances of other solvers are understood and have nothing to set.
"""

from __future__ import annotations

import numpy as np

from .. import native
from ..errors import ProblemError
from ..program import Solution, Status
from ..threads import workers
from .base import Solver, unsolved

_TOLERANCES = ("tol_gap_abs", "tol_gap_rel", "tol_feas")


class Native(Solver):
    """The whole batch in one call, on all threads. An item's answer does not depend on the others, to the last bit."""

    name = "native"
    package = "cvxlayers.native"
    cones = frozenset({"zero", "nonneg"})
    rank = 0
    options = frozenset({"max_iter", "verbose", *_TOLERANCES})
    defaults = {"max_iter": 60}

    def __init__(self, structure, args=None):
        super().__init__(structure, args)
        if structure.engine is None:
            raise ProblemError("solver 'native' does not take a problem of this size; leave solver=None")
        limit = self.settings["max_iter"]
        if not isinstance(limit, (int, np.integer)) or limit < 1:
            raise ProblemError(f"solver 'native' does not accept the options {self.args}: max_iter must be a positive integer")
        for key in set(_TOLERANCES) & set(self.settings):  # they have no effect: answers are exact
            if not isinstance(self.settings[key], (int, float, np.number)):
                raise ProblemError(f"solver 'native' does not accept the options {self.args}: {key} must be a number")

    @classmethod
    def installed(cls):
        """Whether the extension has been built, and this processor runs it."""
        return native.available()

    @classmethod
    def missing(cls):
        """Why there is no engine."""
        return f"the native engine, which is {native.reason()}; leave solver=None"

    @classmethod
    def suits(cls, structure):
        """Whether the factor of K fits the engine."""
        return structure.engine is not None

    def solve(self, program, warm=None):
        S, data = self.structure, program.data
        if data.batch == 0:
            return unsolved(S, 0)
        assert S.engine is not None  # or the constructor would have raised
        found = S.engine.solve(
            data.P, data.q, data.A, data.b, max_iter=int(self.settings["max_iter"]), threads=workers(),
            build=native.chosen_build(),
        )  # fmt: skip
        x, y, s, status, iterations = found
        nothing = (status != Status.SOLVED) & (status != Status.INACCURATE)
        if nothing.any():
            x[nothing] = y[nothing] = s[nothing] = np.nan
        return Solution(x, y, s, status.astype(np.int64), iterations.astype(np.int64))
