"""PyTorch: `CvxpyLayer`, and `lift`, which turns any DiffMap into a function with all of torch's transformations."""

from ..errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("cvxlayers.torch needs PyTorch 2.13; pip install 'cvxlayers[torch]'") from error

from .functions import constrained_softmax, constrained_sparsemax, lml, sparse_topk, sparsemax
from .host import lift
from .layer import CvxpyLayer

__all__ = ["CvxpyLayer", "constrained_softmax", "constrained_sparsemax", "lift", "lml", "sparse_topk", "sparsemax"]
