"""Every error this library raises on purpose; each message names the object, what was found, what was expected, what to do."""

import functools
import sys


class ProblemError(ValueError):
    """The problem, or a value of one of its parameters, is outside of what a layer can represent."""


class ShapeError(ValueError):
    """A value has the wrong shape, or the number of values is wrong."""


class SolverError(RuntimeError):
    """Items of the batch have no solution that passes the residual test.

    items: tuple of flat batch indices; statuses: tuple of Status, one for each of them. Where diffcp is loaded it is a
    diffcp.SolverError as well, which code written for cvxpylayers 0.1 expects.
    """

    def __new__(cls, *args):
        other = getattr(sys.modules.get("diffcp"), "SolverError", None)
        return super().__new__(_both(other) if other and cls is SolverError else cls, *args)

    def __init__(self, message, items=(), statuses=()):
        super().__init__(message)
        self.items = tuple(items)
        self.statuses = tuple(statuses)

    def __reduce__(self):  # RuntimeError would lose the extra fields in a worker process
        return SolverError, (self.args[0], self.items, self.statuses)


@functools.cache
def _both(other):
    return type("SolverError", (SolverError, other), {"__module__": __name__, "__doc__": SolverError.__doc__})


class MissingDependencyError(ImportError):
    """An optional package is needed and is not installed; the message holds the pip command."""


def listed(items, separator=", ", most=10) -> str:
    """The first items as text, and how many there are in all if they are more."""
    text = separator.join(map(str, items[:most]))
    return f"{text}{separator}... ({len(items)} in all)" if len(items) > most else text
