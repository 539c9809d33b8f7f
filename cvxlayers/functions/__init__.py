"""The public functions of the ready-made layers, written once: an adapter binds them to its arrays."""

from .projections import Projections
from .selection import Selection
from .sorting import Sorting
from .svm import Svm
from .transport import Transport


class Functions(Projections, Selection, Sorting, Svm, Transport):
    """All functions, for the arrays of one framework."""
