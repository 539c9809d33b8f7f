"""cvxlayers: a parametrized CVXPY problem as a differentiable layer.

    from cvxlayers.torch import CvxpyLayer

`import cvxlayers` brings in numpy, scipy and cvxpy only; each framework has its own module.
"""

from .diffmap import DiffMap, Saved
from .errors import MissingDependencyError, ProblemError, ShapeError, SolverError
from .layer import ConeLayer

__version__ = "0.1.0"
__all__ = [
    "ConeLayer",
    "DiffMap",
    "MissingDependencyError",
    "ProblemError",
    "Saved",
    "ShapeError",
    "SolverError",
    "__version__",
]
