"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .selection import Selection
from .transport import Transport


class Functions(Selection, Transport):
    """All functions, for the arrays of one framework."""
