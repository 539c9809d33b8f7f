"""The conic layer: parameters -> conic data -> solve -> refine -> differentiate -> recover, as one DiffMap.

It works on NumPy arrays in float64. Every point that a solver hands back goes through the same test on the residual map;
what does not pass goes to the next solver of the ladder, and what no solver can do raises, naming the items.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from typing import NamedTuple

import numpy as np

from .batching import flatten
from .canonicalize import canonicalize
from .derivatives import derivative_named
from .diffmap import DiffMap, Saved
from .errors import ProblemError, SolverError, listed
from .linsolve import DENSE
from .param_map import BLOCKS, DATA
from .parameters import definite_violation
from .program import ConeData, ConeProgram, Status
from .residual import Refined, accepted, refine, tolerance
from .solvers import ladder, neutral, requested, solver_named
from .units import rescale, units


class ConeLayer(DiffMap):
    """theta -> the optimal variables of a parametrized CVXPY problem.

    problem, parameters, variables, gp: as in `canonicalize`. solver: a name of `solvers.SOLVERS`, or None for the best one
    that is installed. solver_args: its options, in any spelling of `solvers.options`. derivative: a name of `derivatives`.
    inputs: the parameters, flattened in C order, complex ones as (re, im) pairs. outputs: the variables, likewise.
    on_error: "raise", or "nan": items of a batch whose values break a declared attribute, or that no solver solves, have
    NaN as outputs and zero as derivatives, and the other items are as if they were alone.
    Raises ProblemError from the constructor and for values that break a declared attribute, SolverError from `forward`.
    """

    def __init__(
        self,
        problem,
        parameters,
        variables,
        *,
        solver=None,
        gp=False,
        solver_args=None,
        derivative="implicit",
        on_error="raise",
    ):
        make_derivative = derivative_named(derivative)
        name, args = requested(solver, solver_args)
        quadratic = make_derivative.quadratic and (name is None or solver_named(name).quadratic)
        compiled = canonicalize(problem, list(parameters), list(variables), gp=gp, quadratic=quadratic)
        self.structure, self.param_map, self.recovery = compiled.structure, compiled.param_map, compiled.recovery
        self.parameters, self.outputs = compiled.parameters, compiled.outputs
        self.solver, self.solver_args = solver, neutral(solver_args)
        self.solvers = ladder(self.structure, name, args)
        self.derivative = make_derivative(self.structure)
        self.second_order = self.derivative.second_order
        self.in_sizes, self.out_sizes = self.param_map.sizes, self.recovery.sizes
        self._set_on_error(on_error)

    def _set_on_error(self, on_error):
        if on_error not in ("raise", "nan"):
            raise ProblemError(f"on_error is {on_error!r}; expected 'raise' or 'nan'")
        self.on_error = on_error
        self.saved = self._describe_saved()

    def with_options(self, solver_args=None, on_error=None) -> ConeLayer:
        """The same layer with other options; nothing is compiled again."""
        other = copy.copy(self)
        if solver_args:
            other.solver_args = {**self.solver_args, **neutral(solver_args)}
            other.solvers = ladder(self.structure, *requested(self.solver, other.solver_args))
        if on_error is not None:
            other._set_on_error(on_error)
        return other

    def fingerprint(self) -> str:
        """A digest of the compiled problem, the solvers with their options, and the derivative; names do not count."""
        S, maps = self.structure, self.param_map
        facts: list = [S.n, S.cones, maps.sizes, maps.features, type(self.derivative).__name__, self.on_error]
        facts += [(p.shape, p.complex, p.declared, p.log) for p in self.parameters]
        facts += [(o.shape, o.complex) for o in self.outputs]
        facts += [(solver.name, sorted(solver.settings.items())) for solver in self.solvers]
        arrays = [S.P.rows, S.P.cols, S.A.rows, S.A.cols]
        for block in maps.blocks:
            arrays.append(block.constant)
            for f, term in block.terms:
                facts.append((f, term.shape))
                arrays += [term.rows, term.cols, term.values]
        for term, dual, exp in self.recovery.outputs:
            facts.append((term.shape, dual, exp))
            arrays += [term.rows, term.cols, term.values]
        digest = hashlib.sha256(repr(facts).encode())
        for a in arrays:
            digest.update(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()

    def _describe_saved(self):
        S, D = self.structure, self.derivative
        everything = tuple(range(len(self.in_sizes)))
        reach = {
            name: tuple(sorted({self.param_map.features[f].parameter for f, _ in block.terms}))
            for name, block in zip(BLOCKS, self.param_map.blocks, strict=True)
        }
        sizes = {name: block.constant.size for name, block in zip(BLOCKS, self.param_map.blocks, strict=True)}
        data = [Saved(sizes[name], reach[name]) for name in D.needs]
        solution = [Saved(size, everything) for size in (S.n, S.m, S.m, *D.extra, 2)]
        logs = [Saved(size, (i,)) for i, size in enumerate(self.in_sizes)] if self.param_map.has_logs else []
        mask = [Saved(1, everything)] if self.on_error == "nan" else []
        return (*data, *solution, *logs, *mask)

    def _point(self, saved):
        k = len(self.derivative.needs)
        end = k + 3 + len(self.derivative.extra)
        unit = saved[end]
        data = [rescale(name, a, unit) for name, a in zip(self.derivative.needs, saved[:k], strict=True)]
        theta = saved[end + 1 : end + 1 + len(self.in_sizes)] if self.param_map.has_logs else None
        good = saved[-1] > 0 if self.on_error == "nan" else None
        return _Point((*data, *saved[k:end]), saved[k] * unit[..., :1], unit, theta, good)

    def forward(self, *theta):
        """Outputs and saved arrays. Raises SolverError naming the items without an accepted solution."""
        bad = [np.zeros(a.shape[:-1], bool) for a in theta] if self.on_error == "nan" else [None] * len(theta)
        theta = tuple(info.check(value, b) for info, value, b in zip(self.parameters, theta, bad, strict=True))
        blocks = self.param_map.apply(theta)[:4]
        bad.append(self._check_curvature(blocks[0]))
        lead, flat = flatten(blocks)
        skip = np.zeros(math.prod(lead), bool)
        marked = [b for b in bad if b is not None and b.any()]
        if marked:
            lead, (*flat, mask) = flatten((*blocks, functools.reduce(np.logical_or, marked)[..., None]))
            skip = np.array(np.broadcast_to(mask[:, 0], math.prod(lead)))
            flat[1] = np.broadcast_to(flat[1], (skip.size, self.structure.n))  # no block may depend on what is bad
        unit = units(ConeData(*flat))
        point = self.solve(ConeData(*(rescale(name, a, unit) for name, a in zip(DATA, flat, strict=True))), skip)
        data = dict(zip(DATA, blocks, strict=True))
        saved = [data[name] for name in self.derivative.needs]
        solution = (point.x, point.v, point.y, *self.derivative.extras(point), unit + 0 * point.size[:, None])
        saved += [a.reshape(lead + a.shape[1:]) for a in solution]
        saved += theta if self.param_map.has_logs else ()
        outputs = self.recovery.apply(point.x * unit[:, :1], point.y * unit[:, 1:])
        if self.on_error == "nan":
            saved.append(np.where(skip, 0.0, 1.0).reshape(*lead, 1))
            outputs = tuple(np.where(skip[:, None], np.nan, o) for o in outputs)
        return tuple(o.reshape(lead + o.shape[1:]) for o in outputs), tuple(saved)

    def _check_curvature(self, P):
        """Raise ProblemError unless P is positive semidefinite, where no declared attribute guarantees it (psd_wrap).

        With on_error="nan" return the mask of the items where it is not.
        """
        terms = self.param_map.blocks[0].terms
        if all(self.parameters[self.param_map.features[f].parameter].declared for f, _ in terms):
            return None
        bad = definite_violation(self.structure.P.dense(P)) > 0
        if bad.any() and self.on_error == "raise":
            names = ", ".join(repr(self.parameters[self.param_map.features[f].parameter].name) for f, _ in terms)
            raise ProblemError(
                f"the quadratic form of the objective, which depends on {names}, is not convex in batch items "
                f"{listed(np.flatnonzero(bad).tolist())}: its matrix has negative eigenvalues"
            )
        return bad

    def solve(self, data: ConeData, skip=None) -> Refined:
        """Accepted solutions of a flat batch: each solver of the ladder gets what the ones before it left.

        skip (B,): items to leave out, their solution is zero; with on_error="nan" those that fail are added to it.
        """
        S = self.structure
        skip = np.zeros(data.batch, bool) if skip is None else skip
        done: Refined | None = None if not skip.any() else _nothing(S, skip.size)
        todo = np.flatnonzero(~skip)
        status = np.full(skip.size, Status.FAILED)
        for solver in self.solvers if todo.size else ():
            part = data if done is None else data.take(todo)
            answer = solver.solve(ConeProgram(S, part))
            point = refine(S, part, answer.x, answer.y - answer.s)
            good = accepted(S, part, point)
            if done is None and good.all():
                return point
            done = _replace(_nothing(S, skip.size) if done is None else done, todo, point, good)
            found = np.where(answer.status == Status.SOLVED, Status.INACCURATE, answer.status)
            certified = (status[todo] == Status.INFEASIBLE) | (status[todo] == Status.UNBOUNDED)
            status[todo] = np.where(certified & (found == Status.FAILED), status[todo], found)  # a reason beats none
            best = point.size[~good]
            todo = todo[~good]
            if not todo.size:
                return done
        if todo.size and self.on_error == "raise":
            raise self._error(todo, status[todo], best)
        assert done is not None  # there is always a solver
        skip[todo] = True
        return done

    def _error(self, items, status, size):
        words = []
        for i, s, r in zip(items.tolist(), status.tolist(), size.tolist(), strict=True):
            residual = f", residual {r:.1e}" if s == Status.INACCURATE and np.isfinite(r) else ""
            words.append(f"item {i}: {Status(s)}{residual}")
        tried = ", ".join(dict.fromkeys(solver.name for solver in self.solvers))
        return SolverError(
            f"no solution within the tolerance {tolerance(self.structure):.0e}: {listed(words, '; ')} (tried: {tried})",
            items.tolist(),
            [Status(s) for s in status.tolist()],
        )

    def jvp(self, saved, *tangents):
        """Tangents of the outputs."""
        point = self._point(saved)
        data = point.masked(self.param_map.jvp(point.theta, tangents))
        return self.recovery.jvp(point.x, *self._along(point, data))

    def vjp(self, saved, *cotangents):
        """Cotangents of the parameters."""
        point = self._point(saved)
        gx, gy = self.recovery.vjp(point.x, point.masked(cotangents))
        grads = self.param_map.vjp(point.theta, (*self._back(point, gx, gy), None))
        return self._filled(grads, gx.shape[:-1])

    def jvp2(self, saved, s, t):
        """Second derivatives of the outputs along s and t: the chain rule for recovery after solution after parameters."""
        point = self._point(saved)
        ds, dt = (self.param_map.jvp(point.theta, d) for d in (s, t))
        dx, dy = point.outside(*self.derivative.jvp2(point.saved, point.inside(ds), point.inside(dt)))
        if self.param_map.has_logs:
            bent = self._along(point, self.param_map.jvp2(point.theta, s, t))
            dx, dy = dx + bent[0], dy + bent[1]
        values = self.recovery.jvp(point.x, dx, dy)
        if self.recovery.has_exps:
            more = self.recovery.jvp2(point.x, self._along(point, ds)[0], self._along(point, dt)[0])
            values = tuple(v + w for v, w in zip(values, more, strict=True))
        return point.masked(values)

    def vjp2(self, saved, t, c):
        """The gradient of <c, jvp(t)> in the parameters."""
        point = self._point(saved)
        c = point.masked(c)
        gx, gy = self.recovery.vjp(point.x, c)
        dt = self.param_map.jvp(point.theta, t)
        blocks = point.inside(self.derivative.vjp2(point.saved, point.inside(dt), *point.outside(gx, gy)))
        if self.recovery.has_exps:
            bent = self._back(point, self.recovery.vjp2(point.x, self._along(point, dt)[0], c), None)
            blocks = [g + h for g, h in zip(blocks, bent, strict=True)]
        grads = self.param_map.vjp(point.theta, (*blocks, None))
        if self.param_map.has_logs:
            more = self.param_map.vjp2(point.theta, t, (*self._back(point, gx, gy), None))
            grads = [g if h is None else g + h for g, h in zip(grads, more, strict=True)]
        return point.masked(self._filled(grads, blocks[1].shape[:-1]))

    def _along(self, point, data):
        """Tangents of (x, y) along tangents of the blocks."""
        return point.outside(*self.derivative.jvp(point.saved, *point.inside(data)))

    def _back(self, point, gx, gy):
        """Cotangents of P, q, A, b for cotangents of (x, y); gy None is zero."""
        return point.inside(self.derivative.vjp(point.saved, *point.outside(gx, gy)))

    def _filled(self, grads, lead):
        return tuple(np.zeros((*lead, k)) if g is None else g for g, k in zip(grads, self.in_sizes, strict=True))


class _Point(NamedTuple):
    """What forward has saved: for the derivative, with the data in the item's units; x; the units; theta or None; which
    items are good, or None for all of them.

    The solution in its units is a function of the data in their units. Both changes of units are diagonal, so that each
    is its own adjoint.
    """

    saved: tuple
    x: np.ndarray
    unit: np.ndarray
    theta: tuple | None
    good: np.ndarray | None

    def masked(self, arrays):
        """Arrays with zeros for the items that are not good, whatever they hold there."""
        return arrays if self.good is None else tuple(np.where(self.good, a, 0.0) for a in arrays)

    def inside(self, data):
        """Tangents of the data in the item's units; or cotangents, back from there."""
        return [rescale(name, a, self.unit) for name, a in zip(DATA, data, strict=False)]

    def outside(self, x, y):
        """Tangents of the solution, (x, y), from the item's units; or cotangents, to them. y None is zero."""
        return x * self.unit[..., :1], None if y is None else y * self.unit[..., 1:]


def _nothing(S, B):
    """A `Refined` of zeros: the derivatives at it are zero."""
    N = S.n + S.m
    inverse = np.zeros((B, N, N)) if N <= DENSE else None
    return Refined(np.zeros((B, S.n)), np.zeros((B, S.m)), np.zeros((B, S.m)), np.zeros(B), inverse, np.zeros(B, bool))


def _replace(done, items, point, good):
    """`done` with the good ones of `point` in the places `items`."""
    for mine, new in zip(done, point, strict=True):
        if mine is not None:
            mine[items[good]] = new[good]
    return done
