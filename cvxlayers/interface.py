"""What the `CvxpyLayer` of every framework has in common: the constructor, its spellings, and the words for errors."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .errors import ProblemError, ShapeError
from .handles import Handle
from .info import Info, assemble
from .ladder import rungs
from .layer import ConeLayer


class Interface:
    """The constructor of a layer. Subclasses say how to call it, and with which kind of handle."""

    _handle_type: ClassVar[type[Handle]] = Handle

    def __init__(
        self,
        problem,
        parameters=None,
        variables=None,
        solver=None,
        gp=False,
        verbose=False,
        canon_backend=None,
        solver_args=None,
        *,
        derivative="implicit",
        on_error="raise",
        mu=None,
        tau=None,
        params=None,
        out=None,
        out_vars=None,
        custom_method=None,
    ):
        """Compile the problem.

        problem: a convex problem whose data are affine in the parameters (DPP), after lifting; or a log-log convex one, with
        gp=True. parameters: all of its cp.Parameter, in the order of the call. variables: what to return, in this order:
        cp.Variable, or dual variables of constraints (`constraint.dual_variables[0]`). solver: "native", "moreau", "clarabel",
        "scs", "ecos", "diffcp", or None for the best that is installed. solver_args: its options.
        derivative: "implicit" (exact), "smoothed" (that of the problem with a logarithmic barrier of weight mu), "lpgd"
        (gradients by steps of length tau in the loss), or "diffcp" (the reference implementation, slow). on_error: "raise", or
        "nan" for items that cannot be solved: NaN as outputs, zero as gradients. verbose: print one line for each batch
        that is solved: its size, the solver, the worst residual, the time. The positions are those of cvxpylayers 1.x, and gp
        fourth as in 0.1; canon_backend is accepted and makes no difference. The keywords params=, out= and out_vars= stand
        for parameters= and variables=; custom_method=, of cvxpylayers 0.1, is an error.

        Raises ProblemError if the problem has no layer, with the offending expression.
        """
        super().__init__()
        if isinstance(solver, bool):  # cvxpylayers 0.1 has gp in this place, and custom_method after it
            solver, gp, custom_method = None, solver, gp or custom_method
        if custom_method:
            raise ProblemError("custom_method is not available; write a DiffMap and lift it (docs/custom_layers.md)")
        parameters = _one_of("parameters", parameters=parameters, params=params)
        variables = _one_of("variables", variables=variables, out=out, out_vars=out_vars)
        options = {"solver": solver, "gp": gp, "solver_args": solver_args, "derivative": derivative, "on_error": on_error}
        given = {k: v for k, v in {"mu": mu, "tau": tau}.items() if v is not None}
        layer = ConeLayer(problem, parameters, variables, verbose=verbose, derivative_options=given, **options)
        self._handle = self._handle_type(layer)

    def _start(self, warm_start):
        """The arrays (x, y, s) of a warm start."""
        if warm_start is None or isinstance(warm_start, bool):  # cvxpylayers 1.x: a start that the layer would have kept
            return ()
        if not isinstance(warm_start, Info):
            found = type(warm_start).__name__
            raise ProblemError(f"warm_start is a {found}; expected the info that a call with return_info=True returns")
        start, S = (warm_start.x, warm_start.y, warm_start.s), self._handle.map.structure
        n, m = (a.shape[-1] for a in start[:2])
        if (n, m) != (S.n, S.m):
            raise ProblemError(
                f"warm_start is of another problem, with {n} variables and {m} rows; expected the info of this layer, which "
                f"has {S.n} and {S.m}"
            )
        return start

    def _returned(self, results, return_info, cast):
        """outputs, or (outputs, info), from the results of an `InformedLayer` or of the layer itself."""
        count = len(self._handle.map.outputs)
        outputs = tuple(results[:count])
        return (outputs, assemble(results[count:], cast)) if return_info else outputs

    @property
    def lifted(self):
        """What the layer has rewritten so that its data are affine in the parameters; see `lifting.Lifted`."""
        return self._handle.map.lifted

    def _summary(self):
        m = self._handle.map
        inputs = ", ".join(f"{p.name}{list(p.shape)}" for p in m.parameters)
        outputs = ", ".join(f"{o.name}{list(o.shape)}" for o in m.outputs)
        return f"({inputs}) -> ({outputs}); n={m.structure.n}, cones: {m.structure.cones}, solver: {m.solvers[0].name}"

    def __repr__(self):
        return f"CvxpyLayer({self._summary()})"

    def __str__(self):
        m = self._handle.map
        parameters = [f"{p.name} {p.shape} {' '.join(p.declared)}".rstrip() for p in m.parameters]
        rows = {
            "parameters": ", ".join(parameters) or "none",
            "variables": ", ".join(f"{o.name} {o.shape}" for o in m.outputs),
            "program": f"{m.structure.n} variables, {m.structure.m} rows: {m.structure.cones}",
            "solvers": ", then ".join(rungs(m.solvers)),
            "derivative": str(m.derivative),
            "on error": m.on_error,
        }
        lines = [f"  {name:<11} {value}" for name, value in rows.items()]
        return "\n".join(["CvxpyLayer", *lines, *(f"  lifted      {record}" for record in m.lifted)])


Interface.__init__.__qualname__ = "CvxpyLayer.__init__"  # what a user has called, in Python's own errors


def _one_of(name, **spellings):
    given = [v for v in spellings.values() if v is not None]
    if len(given) != 1:
        raise ProblemError(f"pass {name}=[...] once; got it {len(given)} times (spellings: {', '.join(spellings)})")
    if not isinstance(given[0], (list, tuple)):
        raise ProblemError(f"{name} is a {type(given[0]).__name__}; expected a list")
    return list(given[0])


def is_number(value):
    """Whether a value is a Python number or a list of them, which takes the dtype of the arrays beside it."""
    return isinstance(value, (bool, int, float, complex, list, tuple))


def argument(position, parameters):
    """What to call an argument in an error."""
    return (
        f"parameter {parameters[position].name!r} (position {position})" if position < len(parameters) else f"value {position}"
    )


def check_mask(value, position, parameters):
    """Raise ShapeError for a masked array, of which a framework would take the numbers below the mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise ShapeError(f"{argument(position, parameters)} is a masked array; expected a plain one (.filled(...))")


def check_complex(info, found):
    """Raise ShapeError unless a value is complex (found) exactly where its parameter is."""
    if found != info.complex:
        found, expected = ("complex", "real") if found else ("real", "complex")
        raise ShapeError(f"parameter {info.name!r} (position {info.position}) got a {found} value; expected a {expected} one")
