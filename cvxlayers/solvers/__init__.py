"""The solvers: this folder is the registry. A file with one subclass of `Solver` is a solver; nothing else lists it.

No solver package is imported here, nor until a solver of it is made.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..errors import MissingDependencyError, ProblemError
from ..program import ConeDims, Structure
from .base import Solver
from .epigraph import Epigraph
from .options import known, neutral, requested


def _discover() -> dict[str, type[Solver]]:
    found = {}
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for kind in vars(module).values():
            own = isinstance(kind, type) and issubclass(kind, Solver) and kind.__module__ == module.__name__
            if own and "name" in vars(kind):  # base.py has only kinds without a name
                found[kind.name] = kind
    return found


SOLVERS: dict[str, type[Solver]] = _discover()


def solver_named(name: str) -> type[Solver]:
    """The class of a solver, in any spelling of its name. Raises ProblemError for an unknown one."""
    if str(name).lower() not in SOLVERS:
        known = ", ".join(k if SOLVERS[k].installed() else f"{k} (not installed)" for k in sorted(SOLVERS))
        raise ProblemError(f"there is no solver {name!r}; there are: {known}; solver=None takes the best")
    return SOLVERS[str(name).lower()]


def choose(cones: ConeDims, name: str | None = None, *, quadratic: bool = True) -> list[str]:
    """Names of the solvers to try, in order: the one that is asked for, or all of the default ladder that can do it.

    The default ladder: those with a `rank` that are installed, take these cones, and, where quadratic, take P.
    """
    if name is not None:
        return [solver_named(name).name]
    ranked = sorted((kind.rank, kind.name) for kind in SOLVERS.values() if kind.rank is not None)
    able = [SOLVERS[n] for _, n in ranked if cones.kinds <= SOLVERS[n].cones and SOLVERS[n].quadratic >= quadratic]
    usable = [kind.name for kind in able if kind.installed() and (cones.rows or not kind.needs_rows)]
    if not usable:
        packages = " or ".join(kind.package for kind in able if not kind.package.startswith("cvxlayers"))
        raise MissingDependencyError(f"no solver for the cones ({cones}) is installed; pip install {packages}")
    return usable


def ladder(structure: Structure, name: str | None = None, args: dict | None = None) -> list[Solver]:
    """The solvers to try, in order, each on what the ones before left: as `choose`, then their `tighter` selves.

    args: options of the first solver. The others of the default ladder get those that they have as well.
    """
    args = neutral(args)
    names = choose(structure.cones, name, quadratic=bool(structure.P.nnz))
    if name is None:
        names = [k for k in names if SOLVERS[k].suits(structure)]
        if len(names) > 1 and not _has(names[0], args):  # an option of the more general ones
            names = names[1:]
    _check_known(args, names[0])
    steps = [_made(names[0], structure, args)]
    for other in names[1:]:
        has = known(SOLVERS[other].options, SOLVERS[other].spelled)
        steps.append(_made(other, structure, {k: v for k, v in args.items() if k in has}))
    return steps + [tight for tight in (step.tighter() for step in steps) if tight is not None]


def _has(name, args):
    return set(args) <= set(known(SOLVERS[name].options, SOLVERS[name].spelled))


def _made(name, structure, args):
    kind = SOLVERS[name]
    takes = kind.quadratic and (structure.m or not kind.needs_rows)
    return kind(structure, args) if takes or not structure.P.nnz else Epigraph(kind, structure, args)


def _check_known(args, name):
    """Raise ProblemError for an option that this solver does not have and others do, with their names."""
    for key in args:
        if key not in known(SOLVERS[name].options, SOLVERS[name].spelled):
            others = [k for k, kind in sorted(SOLVERS.items()) if key in kind.options]
            if others:
                raise ProblemError(
                    f"solver {name!r} has no option {key!r}, which is one of: {', '.join(others)}; name the solver, as in "
                    f"solver={others[0]!r}, or leave the option out"
                )


__all__ = ["SOLVERS", "Solver", "choose", "ladder", "neutral", "requested", "solver_named"]
