"""How the solution and the optimal value of a CVXPY problem move with its parameters, around the values that they have.

    jacobian(x, p)          dx*/dp
    jvp({p: dp})            dx* along dp: x* + dx* predicts the solution at p + dp
    vjp({x: g})             the gradient of <g, x*>
    value_sensitivity(p)    the gradient of the optimal value (envelope theorem: no linear solve)

It is a layer at one point: an `InformedLayer` has all derivatives, and here they get the names and shapes of the problem.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from .checks import called, described
from .duals import has_duals
from .errors import ProblemError, ShapeError, SolverError
from .info import assemble
from .informed import InformedLayer
from .layer import ConeLayer
from .program import Status
from .uniqueness import not_unique


def sensitivity(problem, *, gp=False, solver=None, solver_args=None) -> Sensitivity:
    """Solve a CVXPY problem at the values that its parameters have, and return its `Sensitivity` there.

    gp, solver, solver_args: as for a `CvxpyLayer`. The problem stays as it is; its variables get no values.
    Raises ProblemError if a parameter has no value, or if the problem is not one that a layer can represent; SolverError if
    it is infeasible or unbounded, or if its solutions are an unbounded set.
    """
    return Sensitivity(problem, gp=gp, solver=solver, solver_args=solver_args)


class Sensitivity:
    """The solution of a problem and its derivatives, at one value of its parameters; `print` shows what matters most.

    value: the optimal value. solution: the values of all variables and dual variables, by the CVXPY object. degenerate: whether
    the derivatives are one choice of several, at a kink or where the solution or the multipliers are not unique. not_unique:
    the variables that differ between solutions. info: how the problem was solved, an `Info`.
    """

    def __init__(self, problem, *, gp=False, solver=None, solver_args=None):
        if not isinstance(problem, cp.Problem):
            raise ProblemError(f"sensitivity got {described(problem)}; expected a cvxpy.Problem")
        parameters, variables, self._constraints = problem.parameters(), problem.variables(), problem.constraints
        outputs = variables + [d for c in self._constraints if has_duals(c) for d in c.dual_variables]
        values = {p: _value(p) for p in parameters}
        self._layer = ConeLayer(problem, parameters, outputs, gp=gp, solver=solver, solver_args=solver_args)
        self._sign, self._gp = self._layer.objective
        self._optimum = "minimum" if self._sign > 0 else "maximum"
        self._inputs = _Leaves(parameters, self._layer.parameters, f"a parameter of the problem ({_names(parameters)})")
        what = f"a variable of the problem ({_names(variables)}) or a dual variable of its constraints"
        self._variables, self._outputs = variables, _Leaves(outputs, self._layer.outputs, what)
        self._theta = self._inputs.flat(values, "value")
        informed, count = InformedLayer(self._layer), len(outputs)
        try:
            results, saved = informed.forward(*self._theta)
        except SolverError as error:
            known = error.statuses[0] in (Status.INFEASIBLE, Status.UNBOUNDED)
            reason = f"the problem is {error.statuses[0] if known else 'not solved'} at the values of its parameters"
            raise SolverError(f"{reason}: {error}", error.items, error.statuses) from error
        self.info = assemble([r.reshape(r.shape[-1]) for r in results[count:]], np.asarray)
        self.value, self.degenerate = float(self.info.objective), bool(self.info.degenerate)
        self.solution = self._outputs.named(results[:count])
        test = self.degenerate or self._layer.structure.cones.kinds - {"zero", "nonneg"}  # a QP attains its optimum
        many = not_unique(self._layer, self._theta, results[-3:], self.degenerate) if test else ()
        self.not_unique = tuple(v for v, several in zip(outputs, many, strict=False) if several)
        one = [np.full((1, n), float(k == count)) for k, n in enumerate(informed.out_sizes)]
        self._slopes, self._saved = informed.vjp(saved, *one), saved[:-1]

    def jacobian(self, variable, parameter):
        """d variable / d parameter, an array (*variable.shape, *parameter.shape); variable may be a dual variable.

        One factorization, and as many right-hand sides as the smaller of the two has entries. In a symmetric parameter the
        Jacobian is symmetric, so that of a change of it the symmetric part counts.
        """
        k, i = self._outputs.position(variable), self._inputs.position(parameter)
        if self._outputs.complex[k] or self._inputs.complex[i]:
            pair = f"{described(variable)} in {described(parameter)}"
            raise ProblemError(f"the Jacobian of {pair} is not one array, since complex numbers take part; use jvp or vjp")
        if parameter.size <= variable.size:
            matrix = self._layer.jvp(self._saved, *self._inputs.units(i))[k].T
        else:
            matrix = self._layer.vjp(self._saved, *self._outputs.units(k))[i]
        return matrix.reshape(variable.shape + parameter.shape)

    def jvp(self, directions):
        """How each variable and dual variable moves along {parameter: direction}; other parameters stay."""
        return self._outputs.named(self._layer.jvp(self._saved, *self._inputs.flat(directions, "direction")))

    def vjp(self, weights):
        """The gradient in each parameter of the sum of <weight, variable> over {variable: weight}, dual variables included.

        The inner product of complex arrays is the real part of vdot.
        """
        return self._inputs.named(self._layer.vjp(self._saved, *self._outputs.flat(weights, "weight")))

    def value_sensitivity(self, of):
        """The gradient of the optimal value in a parameter, or in the slack u of a constraint, at u = 0.

        With slack a constraint reads lhs <= rhs + u, lhs == rhs + u, or lhs + u >> rhs. The gradient in u is minus the dual
        variable if the problem minimizes, plus the dual variable if it maximizes.
        """
        if not isinstance(of, cp.Constraint):
            return self._inputs.named(self._slopes)[of].copy()
        if not any(of is c for c in self._constraints):
            raise ProblemError(f"{described(of)} is not of the problem; it has: {_names(self._constraints)}")
        if not self._has_slack(of):
            why = "belongs to a geometric program" if self._gp else f"is of the kind {type(of).__name__}"
            expected = "expected one of the forms ==, <=, >= and >> in a convex program, which have a slack"
            raise ProblemError(f"{described(of)} {why}; {expected}. Ask for the sensitivity in a parameter of it")
        return -self._sign * self.solution[of.dual_variables[0]]

    def _has_slack(self, constraint):
        return has_duals(constraint) and len(constraint.dual_variables) == 1 and not self._gp

    def __repr__(self):
        names = f"({_names(self._inputs.leaves)}) -> ({_names(self._variables)})"
        return f"Sensitivity({names}, {self._optimum} {self.value:.6g})"

    def __str__(self):
        lines = [f"{self._optimum} {self.value:.6g}"]
        if self.not_unique:
            lines.append(f"not unique: {_names(self.not_unique)}; the derivatives are one choice of several")
        elif self.degenerate:
            lines.append("degenerate: at a kink, or multipliers are not unique; the derivatives are one choice of several")
        if self._theta:
            head = ("parameter", f"slope of the {self._optimum}", "1 % more moves it by", "and the variables by")
            lines += ["", *_table([head, *self._effects()])]
        slack = [(called(c), _largest(self.value_sensitivity(c))) for c in self._constraints if self._has_slack(c)]
        if slack:
            lines += ["", *_table([("constraint", f"slope of the {self._optimum} in its slack"), *slack])]
        return "\n".join(lines)

    def _effects(self):
        """A row for each parameter; what moves the optimal value most is first."""
        more = [0.01 * np.eye(len(self._theta))[:, [i]] * t for i, t in enumerate(self._theta)]
        moves = self._layer.jvp(self._saved, *more)[: len(self._variables)]
        by = np.array([0.01 * (g * t).sum() for g, t in zip(self._slopes, self._theta, strict=True)])
        moved = np.linalg.norm(np.concatenate(moves, -1), axis=-1)
        by, moved = (np.where(np.abs(a) > 1e-12 * np.abs(a).max(), a, 0.0) for a in (by, moved))  # the rest is rounding
        names = [(p.name(), _largest(slope)) for p, slope in self._inputs.named(self._slopes).items()]
        return [(*names[i], f"{by[i]:.3g}", f"{moved[i]:.3g}") for i in np.lexsort((-moved, -np.abs(by)))]


class _Leaves:
    """The parameters of a problem, or its variables and dual variables, and their flat arrays (..., size), complex numbers as
    pairs. expected: what to say when something else comes."""

    def __init__(self, leaves, infos, expected):
        self.leaves, self.complex, self.expected = leaves, [info.complex for info in infos], expected

    def position(self, leaf):
        """Where it is among them."""
        for k, other in enumerate(self.leaves):
            if leaf is other:
                return k
        dual = isinstance(leaf, cp.Constraint) and "dual" in self.expected
        hint = "; that of a constraint is constraint.dual_variables[0]" if dual else ""
        raise ProblemError(f"got {described(leaf)}; expected {self.expected}{hint}")

    def named(self, arrays):
        """{leaf: array of its shape}, from flat arrays."""
        arrays = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
        pairs = [a.view(np.complex128) if c else a for a, c in zip(arrays, self.complex, strict=True)]
        return _Values(self, {leaf: a.reshape(leaf.shape) for leaf, a in zip(self.leaves, pairs, strict=True)})

    def flat(self, given, what):
        """Flat arrays of one item, from {leaf: array}; zeros for leaves that are not named."""
        if not isinstance(given, dict):
            raise ProblemError(f"got {described(given)}; expected a dictionary with a {what} for {self.expected}")
        arrays = [np.zeros(leaf.shape) for leaf in self.leaves]
        for leaf, value in given.items():
            k = self.position(leaf)
            arrays[k] = _checked(value, leaf, self.complex[k], f"the {what} for {described(leaf)}")
        dtypes = [np.complex128 if c else np.float64 for c in self.complex]
        return [np.ravel(a).astype(t).view(np.float64)[None] for a, t in zip(arrays, dtypes, strict=True)]

    def units(self, k):
        """Flat arrays with every unit direction of the k-th leaf, a real one; the others stay."""
        sizes = [leaf.size * (2 if c else 1) for leaf, c in zip(self.leaves, self.complex, strict=True)]
        return [np.eye(n) if j == k else np.zeros((1, n)) for j, n in enumerate(sizes)]


class _Values(dict):
    """Arrays, by the variable or the parameter that they belong to."""

    def __init__(self, leaves, arrays):
        super().__init__(arrays)
        self._leaves = leaves

    def __missing__(self, key):
        self._leaves.position(key)  # raises


def _value(parameter):
    """The value of a parameter, as a dense array."""
    value = parameter.value_sparse if parameter.attributes["sparsity"] else parameter.value
    if value is None:
        raise ProblemError(f"{described(parameter)} has no value; set its .value, of shape {parameter.shape}, before the call")
    return value.toarray() if sp.issparse(value) else value


def _checked(value, leaf, takes_complex, whose):
    """A value of the leaf as an array. Raises ShapeError."""
    try:
        array = np.asarray(value.toarray() if sp.issparse(value) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{whose} is {described(value)}; expected an array of shape {leaf.shape}: {error}") from error
    if array.dtype.kind not in "biufc" or (array.dtype.kind == "c" and not takes_complex):
        raise ShapeError(f"{whose} has the dtype {array.dtype}; expected real numbers in an array of shape {leaf.shape}")
    if array.shape != leaf.shape:
        raise ShapeError(f"{whose} has shape {array.shape}; expected {leaf.shape}")
    return array


def _names(things):
    return ", ".join(map(called, things))


def _largest(array):
    """The largest entry as text, with its place."""
    if not array.any():
        return "0"
    at = np.unravel_index(np.argmax(np.abs(array)), array.shape)
    return f"{array[at]:.3g}" + (f" at [{', '.join(map(str, at))}]" if at else "")


def _table(rows):
    """Lines with the cells of each column below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
