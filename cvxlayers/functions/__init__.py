"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .projections import Projections
from .selection import Selection
from .sorting import Sorting


class Functions(Projections, Selection, Sorting):
    """All functions, for the arrays of one framework."""
