"""Ways to differentiate a solved conic program; one file each, chosen by the `derivative` argument of a layer."""

from ..errors import ProblemError
from .diffcp import Diffcp
from .implicit import Implicit

DERIVATIVES = {"implicit": Implicit, "diffcp": Diffcp}


def derivative_named(name: str):
    """The class of a derivative. Raises ProblemError for an unknown name."""
    if not isinstance(name, str) or name not in DERIVATIVES:
        raise ProblemError(f"derivative={name!r} does not exist; choose one of: {', '.join(DERIVATIVES)}")
    return DERIVATIVES[name]
