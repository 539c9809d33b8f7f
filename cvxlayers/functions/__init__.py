"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .quadratic import Quadratic
from .selection import Selection


class Functions(Selection, Quadratic):
    """All functions, for the arrays of one framework."""
