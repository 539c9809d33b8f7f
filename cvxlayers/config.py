"""What this installation can do, in a few lines: for bug reports, and to see whether the native engine is in use."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from . import native
from .solvers import SOLVERS
from .threads import workers

_FRAMEWORKS = ("torch", "jax", "tensorflow", "keras")


def show_config() -> None:
    """Print the version, the builds of the native engine, the threads, the solvers in the order of the default ladder, and
    the frameworks that are installed."""
    ranked = sorted(SOLVERS, key=lambda name: (SOLVERS[name].rank is None, SOLVERS[name].rank or 0, name))
    solvers = [_versioned(name, SOLVERS[name].package) for name in ranked if SOLVERS[name].installed()]
    frameworks = [_versioned(name, name) for name in _FRAMEWORKS if find_spec(name)]
    for word, facts in {
        "cvxlayers": version("cvxlayers"),
        "native engine": _engine(),
        "threads": f"{workers()}, at most (CVXLAYERS_NUM_THREADS)",
        "solvers": ", ".join(solvers),
        "frameworks": ", ".join(frameworks) or "none",
    }.items():
        print(f"{word:<15}{facts}")


def _engine():
    builds, chosen = native.builds(), native.chosen_build()
    if not builds:
        return f"none ({native.reason()}); QPs go to the next solver"
    return f"{chosen} (CVXLAYERS_ENGINE)" if chosen else f"{', '.join(builds)}; the best one for each batch"


def _versioned(name, package):
    try:
        return f"{name} {version(package)}"
    except PackageNotFoundError:  # of another name there, or ours
        return name
