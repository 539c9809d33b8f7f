"""cvxlayers: a parametrized CVXPY problem as a differentiable layer.

    from cvxlayers.torch import CvxpyLayer

`import cvxlayers` brings in numpy, scipy and cvxpy only; each framework has its own module.
"""

from . import sets
from .config import show_config
from .diffmap import DiffMap, Saved
from .errors import MissingDependencyError, ProblemError, ShapeError, SolverError
from .info import Info
from .layer import ConeLayer
from .program import Status
from .sensitivities import Sensitivity, sensitivity

__version__ = "0.1.0"
__all__ = [
    "ConeLayer",
    "DiffMap",
    "Info",
    "MissingDependencyError",
    "ProblemError",
    "Saved",
    "Sensitivity",
    "ShapeError",
    "SolverError",
    "Status",
    "__version__",
    "sensitivity",
    "sets",
    "show_config",
]
