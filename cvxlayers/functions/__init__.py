"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .projections import Projections
from .selection import Selection


class Functions(Projections, Selection):
    """All functions, for the arrays of one framework."""
