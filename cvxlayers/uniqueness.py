"""Whether the solution of a layer is the only one.

A small linear term more in the objective, along a random direction or against it, picks a solution on one side or on the
other. If there is one solution, the two come together with the size of the term; if there are many, they stay apart; if
they are an unbounded set, or the optimum is approached and not attained, one of the problems is unbounded.
"""

from __future__ import annotations

import numpy as np

from .errors import SolverError
from .ladder import solve
from .program import Status


def not_unique(layer, theta, solution, degenerate) -> list[bool]:
    """For each output of a `ConeLayer` whether it is a variable that differs between solutions.

    theta: one item. solution: its x, y, s. degenerate: whether that is degenerate; if not, no other is near, and all that
    remains to be seen is whether the optimum is attained. Raises SolverError if it is not, or the solutions are unbounded.
    """
    sizes = np.array([1e-4, -1e-4, 1e-6, -1e-6] if degenerate else [1e-4, -1e-4, 1e-7, -1e-7])  # in units of the objective
    found, rng = layer.evaluate(theta, solution), np.random.default_rng(0)
    along = [rng.standard_normal((1, n)) for n in layer.out_sizes]
    tilt, _ = layer.recovery.vjp(found.solved.point.x * found.unit[:, :1], along)  # not along what only CVXPY knows
    tilt *= np.abs(found.data.q).max(initial=1) / max(np.abs(tilt).max(initial=0), 1e-300)
    data = found.data._replace(q=found.data.q + sizes[:, None] * tilt)
    tilted = solve(layer.structure, data, layer.solvers, skip=np.zeros(sizes.size, bool))
    unbounded = tilted.status.reshape(-1, 2) == Status.UNBOUNDED
    if (unbounded[-1] | unbounded[0] & ~tilted.good[-2:]).any():  # by the larger term alone it may become so
        raise SolverError(
            "the solutions at these values of the parameters are an unbounded set, or off at infinity, where the objective "
            "tends to its optimum; bound the variables, or add a small multiple of their cp.sum_squares to the objective",
            (0,),
            (Status.UNBOUNDED,),
        )
    primal = [not output.dual for output in layer.recovery.outputs]
    if not degenerate or not tilted.good.all():
        return [False] * len(primal)
    ends = layer.recovery.apply(tilted.point.x * found.unit[:, :1], tilted.point.y * found.unit[:, 1:])
    apart = [np.abs(e[::2] - e[1::2]).max(-1, initial=0) for e in ends]
    least = [1e-6 * (1 + np.abs(e).max(initial=0)) for e in ends]
    return [p and narrow > max(wide / 2, size) for p, (wide, narrow), size in zip(primal, apart, least, strict=True)]
