"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .selection import Selection
from .svm import Svm


class Functions(Selection, Svm):
    """All functions, for the arrays of one framework."""
