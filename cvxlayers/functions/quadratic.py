"""Quadratic programs."""

from __future__ import annotations

from typing import Any

from ..errors import ProblemError, ShapeError
from ..layers.dense_qp import DenseQP
from ..layers.qp import host_qp
from .base import Base, size_of

_MAPS: dict[str, Any] = {"host": host_qp, "arrays": DenseQP}


class Quadratic(Base):
    """qp."""

    def qp(self, Q, p, A=None, b=None, G=None, h=None, *, return_duals=False, on_error="raise", solver=None):
        """The solution of a quadratic program: z = argmin 1/2 z'Qz + p'z subject to Az = b, Gz <= h.

        Q: (..., n, n), of which the symmetric part counts, positive semidefinite; 0 makes it a linear program. p: (..., n).
        A: (..., k, n) and b: (..., k), and G: (..., m, n) and h: (..., m): each pair may be missing. The leading dimensions
        broadcast; the gradient of what is shared is the sum over the batch. Returns z: (..., n), or with return_duals
        (z, nu, lam), nu: (..., k) and lam: (..., m) the multipliers, where Qz + p + A'nu + G'lam = 0 and lam >= 0 (None for
        rows that there are not).

        The derivative is that of the KKT conditions, in all six arguments; gradients in Q are symmetric. Where a row is active
        with multiplier 0, it is the derivative without this row; where the solution is not unique, the least-norm one.
        Rows may be redundant. Raises ProblemError for values that are not finite and for Q that is not convex, SolverError
        for what is infeasible or unbounded; both name the items of the batch. on_error="nan": such items are NaN instead, with
        zeros as gradients.

        solver: "host", the native engine on the CPU, the default for arrays there; "arrays", array operations, the default on
        other devices, where 1e-9 is the relative residual of a solution (1e-4 in single precision).
        Source: Amos, Kolter, "OptNet", ICML 2017.
        """
        given = {"Q": Q, "p": p, "A": A, "b": b, "G": G, "h": h}
        if on_error not in ("raise", "nan"):
            raise ProblemError(f"on_error is {on_error!r}; expected 'raise' or 'nan'")
        for matrix, vector in ("Ab", "Gh"):
            if (given[matrix] is None) != (given[vector] is None):
                found, other = (vector, matrix) if given[matrix] is None else (matrix, vector)
                raise ShapeError(f"found {found} without {other}; expected both or neither")
        if solver is not None and solver not in _MAPS:
            raise ProblemError(f"solver is {solver!r}; expected one of {', '.join(map(repr, _MAPS))}, or None")
        names = [name for name, value in given.items() if value is not None]
        arrays = dict(zip(names, self._all(*(given[name] for name in names)), strict=True))
        n, rows = _sizes(arrays)
        for matrix, vector in ("Ab", "Gh"):
            if not rows[vector]:
                arrays = {name: a for name, a in arrays.items() if name not in (matrix, vector)}
        flat = [self._merged(a, 2) if name in "QAG" else a for name, a in arrays.items()]
        if solver is None:
            solver = "host" if self._arrays.on_host(flat[0]) else "arrays"
        results = iter(self._apply(_MAPS[solver](n, rows["b"], rows["h"], return_duals, on_error), *flat))
        if not return_duals:
            return next(results)
        return next(results), *(next(results) if rows[name] else None for name in "bh")


def _sizes(arrays):
    """(n, the number of rows by the name of the vector). Raises ShapeError where the arrays do not fit together."""
    for name, a in arrays.items():
        least = 2 if name in "QAG" else 1
        if len(a.shape) < least:
            raise ShapeError(f"{name} has shape {tuple(a.shape)}; expected at least {least} dimensions")
    n = size_of(arrays["p"], -1)
    rows = {name: size_of(arrays[name], -1) if name in arrays else 0 for name in "bh"}
    expected = {"Q": (n, n), "A": (rows["b"], n), "G": (rows["h"], n)}
    for name, shape in expected.items():
        if name in arrays and (found := tuple(size_of(arrays[name], d) for d in (-2, -1))) != shape:
            raise ShapeError(f"{name} ends in the dimensions {found}; expected {shape}, as p and the vectors say")
    if not n:
        raise ShapeError(f"p has shape {tuple(arrays['p'].shape)}; expected at least one variable")
    return n, rows
