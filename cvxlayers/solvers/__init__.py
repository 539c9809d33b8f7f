"""The solvers: this folder is the registry. A file with one subclass of `Solver` is a solver; nothing else lists it.

No solver package is imported here, nor until a solver of it is made.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..errors import MissingDependencyError, ProblemError
from ..program import ConeDims, Structure
from .base import Solver


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
        raise ProblemError(f"there is no solver {name!r}; there are: {known}")
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
        packages = " or ".join(kind.package for kind in able)
        raise MissingDependencyError(f"no solver for the cones ({cones}) is installed; pip install {packages}")
    return usable


def ladder(structure: Structure, name: str | None = None, args: dict | None = None) -> list[Solver]:
    """The solvers to try, in order, each on what the ones before left: as `choose`, then their `tighter` selves.

    args: options of the first solver. The others of the default ladder get those that they have as well.
    """
    names = choose(structure.cones, name, quadratic=bool(structure.P.nnz))
    first = SOLVERS[names[0]](structure, args)
    known = [(SOLVERS[n], SOLVERS[n].options | set(SOLVERS[n].aliases)) for n in names[1:]]
    steps = [first, *(kind(structure, {k: v for k, v in (args or {}).items() if k in has}) for kind, has in known)]
    return steps + [tight for tight in (step.tighter() for step in steps) if tight is not None]


__all__ = ["SOLVERS", "Solver", "choose", "ladder", "solver_named"]
