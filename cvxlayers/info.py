"""What a layer can say of a call beside its outputs: `Info`, with one entry for each item of the batch."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .program import Status
from .solvers import SOLVERS

RUNGS = ("warm start", *sorted(SOLVERS), *(f"{name} (tight)" for name in sorted(SOLVERS)))  # what can answer


class Field(NamedTuple):
    """A field that travels as one of the numbers of a report, and its type outside."""

    name: str
    kind: type


REPORT = (
    Field("status", int),
    Field("iterations", int),
    Field("residual", float),
    Field("solver", int),
    Field("degenerate", bool),
    Field("solve_time", float),
)


class Info(NamedTuple):
    """How each item of a batch was solved. All fields are arrays (batch...) of the framework.

    status: of `cvxlayers.Status`; 0 is solved. objective: the optimal value, in the sense of the problem; its
    derivatives are exact and need no linear solve (envelope theorem). iterations: of the solver that answered, or
    Newton steps from a warm start. residual: the relative size of the error in the optimality conditions. solver: what
    answered, as a number, -1 for nothing; `solver_names` spells it out. degenerate: whether the derivative is not
    the only one there: the solution or a multiplier is not unique, or a constraint is about to become active.
    solve_time: seconds that the batch took until this item was solved. x (batch..., n), y (batch..., m), s (batch..., m):
    the solution of the conic program, from which a warm start begins. Only `objective` has derivatives.
    """

    status: Any
    objective: Any
    iterations: Any
    residual: Any
    solver: Any
    degenerate: Any
    solve_time: Any
    x: Any
    y: Any
    s: Any

    @property
    def solver_names(self) -> np.ndarray:
        """The name of what answered, for each item; "none" where nothing did. Not for traced arrays."""
        return np.array([*RUNGS, "none"])[np.asarray(self.solver)]

    def __repr__(self):
        try:
            status, solver, residual, seconds, iterations, degenerate = (
                np.asarray(a)
                for a in (self.status, self.solver, self.residual, self.solve_time, self.iterations, self.degenerate)
            )
        except Exception:  # in a traced function there are no numbers yet
            return f"Info(batch {tuple(self.objective.shape)}, values not known yet)"
        words, solved = [summary(status, solver, residual, seconds)], iterations[solver >= 0]
        if solved.size:
            low, high = solved.min(), solved.max()
            words.append(f"{low} iterations" if low == high else f"{low} to {high} iterations")
        if degenerate.any():
            words.append(f"{degenerate.sum()} degenerate")
        return f"Info({', '.join(words)})"


def summary(status, solver, residual, seconds) -> str:
    """One line for a batch: its size, who solved how many, what became of the others, the worst residual, the time."""
    status, solver = np.ravel(status), np.ravel(solver)
    counts = Counter(RUNGS[k] for k in solver[solver >= 0].tolist())
    words = [f"batch {status.size}"] + [f"{count} solved by {name}" for name, count in counts.items()]
    words += [f"{count} {Status(k)}" for k, count in sorted(Counter(status[solver < 0].tolist()).items())]
    if counts:
        words.append(f"worst residual {np.ravel(residual)[solver >= 0].max():.1e}")
    return ", ".join([*words, f"{1e3 * np.max(seconds, initial=0):.2f} ms"])


def assemble(results, cast) -> Info:
    """The Info of the results (objective, report, x, y, s) of an `InformedLayer`. cast(array, kind): the array as int, bool
    or float numbers of the framework, without derivatives."""
    objective, report, *state = results
    told = {field.name: cast(report[..., i], field.kind) for i, field in enumerate(REPORT)}
    x, y, s = (cast(a, float) for a in state)
    return Info(objective=objective[..., 0], x=x, y=y, s=s, **told)
