"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .selection import Selection
from .sorting import Sorting


class Functions(Selection, Sorting):
    """All functions, for the arrays of one framework."""
