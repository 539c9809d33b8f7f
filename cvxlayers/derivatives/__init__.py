"""Ways to differentiate a solved conic program; one file each, chosen by the `derivative` argument of a layer."""

from ..errors import ProblemError
from .base import Derivative
from .diffcp import Diffcp
from .implicit import Implicit
from .lpgd import LPGD
from .smoothed import Smoothed

DERIVATIVES = {kind.name: kind for kind in (Implicit, Smoothed, LPGD, Diffcp)}


def derivative_named(name: str) -> type[Derivative]:
    """The class of a derivative. Raises ProblemError for an unknown name."""
    if not isinstance(name, str) or name not in DERIVATIVES:
        raise ProblemError(f"derivative={name!r} does not exist; choose one of: {', '.join(DERIVATIVES)}")
    return DERIVATIVES[name]
