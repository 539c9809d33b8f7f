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
from .canonicalize import Canonical, canonicalize
from .derivatives import derivative_named
from .diffmap import DiffMap, Saved
from .errors import ProblemError, SolverError, listed
from .info import summary
from .ladder import Solved, failure, solve
from .param_map import BLOCKS, DATA
from .parameters import definite_violation
from .program import ConeData
from .shortcut import LayerShortcut
from .solvers import ladder, neutral, requested, solver_named
from .units import rescale, units


class ConeLayer(DiffMap):
    """theta -> the optimal variables of a parametrized CVXPY problem.

    problem, parameters, variables, gp: as in `canonicalize`. solver: a name of `solvers.SOLVERS`, or None for the best one
    that is installed. solver_args: its options, in any spelling of `solvers.options`. derivative: a name of `derivatives`.
    inputs: the parameters, flattened in C order, complex ones as (re, im) pairs. outputs: the variables, likewise.
    on_error: "raise", or "nan": items of a batch whose values break a declared attribute, or that no solver solves, have
    NaN as outputs and zero as derivatives, and the other items are as if they were alone. verbose: print one line for
    each batch.
    Raises ProblemError from the constructor and for values that break a declared attribute, SolverError from `forward`.
    """

    fresh = True

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
        verbose=False,
        derivative_options=None,
    ):
        name, _ = requested(solver, solver_args)
        quadratic = derivative_named(derivative).quadratic and (name is None or solver_named(name).quadratic)
        compiled = canonicalize(problem, list(parameters), list(variables), gp=gp, quadratic=quadratic)
        self._assemble(compiled, solver, solver_args, derivative, on_error, verbose, derivative_options)

    @classmethod
    def of(cls, compiled: Canonical, *, on_error="raise") -> ConeLayer:
        """The layer of a program that needs no compiling."""
        layer = cls.__new__(cls)
        layer._assemble(compiled, on_error=on_error)
        return layer

    def _assemble(
        self,
        compiled,
        solver=None,
        solver_args=None,
        derivative="implicit",
        on_error="raise",
        verbose=False,
        derivative_options=None,
    ):
        self.structure, self.param_map, self.recovery = compiled.structure, compiled.param_map, compiled.recovery
        self.parameters, self.outputs, self.objective = compiled.parameters, compiled.outputs, compiled.objective
        self.features, self.convex, self.lifted = compiled.features, compiled.convex, compiled.lifted
        self.solver, self.solver_args, self.verbose = solver, neutral(solver_args), verbose
        self.solvers = ladder(self.structure, *requested(solver, solver_args))
        self.derivative = derivative_named(derivative)(self.structure, self.solvers, **(derivative_options or {}))
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
            other.derivative = type(self.derivative)(self.structure, other.solvers, **self.derivative.settings)
        if on_error is not None:
            other._set_on_error(on_error)
        return other

    @functools.cached_property
    def shortcut(self) -> LayerShortcut | None:
        """Solutions and derivatives of small batches, where the layer has such a thing."""
        return LayerShortcut.found(self)

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k != "shortcut"}  # another process, or other options, make their own

    def fingerprint(self) -> str:
        """A digest of the compiled problem and of all options of the layer; names do not count."""
        S, maps = self.structure, self.param_map
        words, formula_arrays = maps.formulas.facts()
        facts: list = [S.n, S.cones, S.kkt_engine is not None, *words, self.on_error, bool(self.verbose), self.convex]
        facts += [self.derivative.name, sorted(self.derivative.settings.items())]
        facts += [(p.shape, p.complex, p.declared, p.log) for p in (*self.parameters, *self.features)]
        facts += [(o.shape, o.complex) for o in self.outputs] + [self.objective]
        facts += [(solver.name, sorted(solver.settings.items())) for solver in self.solvers]
        arrays = [S.P.rows, S.P.cols, S.A.rows, S.A.cols, *formula_arrays]
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
        blocks = dict(zip(BLOCKS, self.param_map.blocks, strict=True))
        data = [Saved(blocks[name].constant.size, self.param_map.reach(blocks[name])) for name in D.needs]
        state = S.n + 2 * S.m + (3 if self.on_error == "nan" else 2)  # x, v, y, the units, and whether the item is good
        solution = [Saved(size, everything) for size in (state, *D.extra)]
        theta = [Saved(self.in_sizes[i], (i,)) for i in self.param_map.formulas.kept]
        return (*data, *solution, *theta)

    def _point(self, saved):
        S, k = self.structure, len(self.derivative.needs)
        state, end = saved[k], k + 1 + len(self.derivative.extra)
        x, v, y = state[..., : S.n], state[..., S.n : S.n + S.m], state[..., S.n + S.m : S.n + 2 * S.m]
        unit = state[..., S.n + 2 * S.m : S.n + 2 * S.m + 2]
        data = [rescale(name, a, unit) for name, a in zip(self.derivative.needs, saved[:k], strict=True)]
        theta: list = [None] * len(self.in_sizes)
        for i, kept in zip(self.param_map.formulas.kept, saved[end:], strict=False):
            theta[i] = kept
        good = state[..., -1:] > 0 if self.on_error == "nan" else None
        return _Point((*data, x, v, y, *saved[k + 1 : end]), x * unit[..., :1], y * unit[..., 1:], unit, theta, good)

    def forward(self, *theta):
        """Outputs and saved arrays. Raises SolverError naming the items without an accepted solution."""
        short = self.shortcut and self.shortcut.forward(theta)
        if short:
            return short
        found = self.evaluate(theta)
        return found.outputs, found.saved

    def evaluate(self, theta, start=None) -> Evaluation:
        """What `forward` returns, and how it came about. start: x, y, s of a warm start, (..., n), (..., m), (..., m)."""
        bad = [np.zeros(a.shape[:-1], bool) for a in theta] if self.on_error == "nan" else [None] * len(theta)
        theta = tuple(info.check(value, b) for info, value, b in zip(self.parameters, theta, bad, strict=True))
        phi, more = self._features(theta)
        bad += more
        blocks = self.param_map.blocks_of(phi)
        bad.append(self._check_curvature(blocks[0]))
        marked = [b for b in bad if b is not None and b.any()]
        mask = (functools.reduce(np.logical_or, marked)[..., None],) if marked else ()
        lead, flat = flatten((*blocks[:4], *mask, *(start or ())))
        data, B = ConeData(*flat[:4]), math.prod(lead)
        skip = np.array(np.broadcast_to(flat[4][:, 0], B)) if marked else np.zeros(B, bool)
        if data.batch < B:  # no block depends on what is bad, or on the warm start
            data = data._replace(q=np.broadcast_to(data.q, (B, self.structure.n)))
        unit = units(data)
        if not (unit == 1).all():
            data = ConeData(*(rescale(name, a, unit) for name, a in zip(DATA, data, strict=True)))
        start = start and _in_units([np.broadcast_to(a, (B, a.shape[-1])) for a in flat[-3:]], unit)
        solved = solve(self.structure, data, self.solvers, skip=skip, start=start)
        fails = self.on_error == "raise" and not solved.good.all()
        extras, solved = ((), solved) if fails else self._extras(solved, data, unit)
        if self.verbose:
            print(f"cvxlayers: {summary(solved.status, solved.rung, solved.size, solved.seconds)}")
        if fails:
            raise failure(self.structure, self.solvers, solved)
        good, point = solved.good, solved.point
        named = dict(zip(DATA, blocks, strict=False))
        saved = [named[name] for name in self.derivative.needs]
        mask = (good[:, None],) if self.on_error == "nan" else ()
        state = np.concatenate([point.x, point.v, point.y, np.broadcast_to(unit, (B, 2)), *mask], -1)
        saved += [a.reshape(lead + a.shape[1:]) for a in (state, *extras)]
        saved += [theta[i] for i in self.param_map.formulas.kept]
        outputs = self.recovery.apply(point.x * unit[:, :1], point.y * unit[:, 1:])
        if self.on_error == "nan":
            outputs = tuple(np.where(good[:, None], o, np.nan) for o in outputs)
        outputs = tuple(o.reshape(lead + o.shape[1:]) for o in outputs)
        return Evaluation(outputs, tuple(saved), blocks, lead, unit, data, solved)

    def _extras(self, solved, data, unit):
        """What the derivative saves, and what counts as solved: with on_error="nan" no item without a derivative."""
        try:
            return self.derivative.extras(solved, data, unit), solved
        except SolverError as error:
            if self.on_error == "raise":
                raise
            solved = solved.without(error.items)
            return self.derivative.extras(solved, data, unit), solved

    def _features(self, theta):
        """The features of the parameter map, checked where formulas give them; with on_error="nan" the masks of bad items."""
        phi, masks = self.param_map.formulas.apply(theta), []
        for k, info in enumerate(self.features):
            if info.position is None:
                masks.append(np.zeros(phi[k].shape[:-1], bool) if self.on_error == "nan" else None)
                phi[k] = info.check(phi[k], masks[-1])
        return phi, masks

    def _check_curvature(self, P):
        """Raise ProblemError unless P is positive semidefinite, where declared attributes do not guarantee it (psd_wrap).

        With on_error="nan" return the mask of the items where it is not.
        """
        if self.convex:
            return None
        bad = definite_violation(self.structure.P.dense(P), symmetric=True) > 0
        if bad.any() and self.on_error == "raise":
            names = ", ".join(repr(self.features[f].name) for f, _ in self.param_map.blocks[0].terms)
            raise ProblemError(
                f"the quadratic form of the objective, which depends on {names}, is not convex in batch items "
                f"{listed(np.flatnonzero(bad).tolist())}: its matrix has negative eigenvalues"
            )
        return bad

    def jvp(self, saved, *tangents):
        """Tangents of the outputs."""
        point = self._point(saved)
        data = point.masked(self.param_map.jvp(point.theta, tangents))
        return self.recovery.jvp(point.x, *self._along(point, data))

    def vjp(self, saved, *cotangents):
        """Cotangents of the parameters."""
        short = self.shortcut and self.shortcut.vjp(saved, cotangents)
        if short:
            return short
        point = self._point(saved)
        gx, gy = self.recovery.vjp(point.x, point.masked(cotangents))
        grads = self.param_map.vjp(point.theta, (*self._back(point, gx, gy), None))
        return point.masked(self._filled(grads, gx.shape[:-1]))

    def jvp2(self, saved, s, t):
        """Second derivatives of the outputs along s and t: the chain rule for recovery after solution after parameters."""
        point = self._point(saved)
        ds, dt = (point.masked(self.param_map.jvp(point.theta, d)) for d in (s, t))
        dx, dy = point.outside(*self.derivative.jvp2(point.saved, point.inside(ds), point.inside(dt)))
        if self.param_map.curved:
            bent = self._along(point, point.masked(self.param_map.jvp2(point.theta, s, t)))
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
        dt = point.masked(self.param_map.jvp(point.theta, t))
        blocks = point.inside(self.derivative.vjp2(point.saved, point.inside(dt), *point.outside(gx, gy)))
        if self.recovery.has_exps:
            bent = self._back(point, self.recovery.vjp2(point.x, self._along(point, dt)[0], c), None)
            blocks = [g + h for g, h in zip(blocks, bent, strict=True)]
        grads = self.param_map.vjp(point.theta, (*blocks, None))
        if self.param_map.curved:
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


class Evaluation(NamedTuple):
    """outputs and saved arrays of a call; the blocks P, q, A, b, d of its data; the leading dimensions of the batch; and
    of the flat batch the units, the data in them, and how they were solved."""

    outputs: tuple
    saved: tuple
    blocks: tuple
    lead: tuple
    unit: np.ndarray
    data: ConeData
    solved: Solved


class _Point(NamedTuple):
    """What forward has saved: for the derivative, with the data in the item's units; x and y; the units; theta; which
    items are good, or None for all of them. theta holds what formulas look at.

    The solution in its units is a function of the data in their units. Both changes of units are diagonal, so that each
    is its own adjoint.
    """

    saved: tuple
    x: np.ndarray
    y: np.ndarray
    unit: np.ndarray
    theta: list
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


def _in_units(start, unit):
    (x, y, s), beta, gamma = start, unit[:, :1], unit[:, 1:]
    return x / beta, y / gamma, s / beta
