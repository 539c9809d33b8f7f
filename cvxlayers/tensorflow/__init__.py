"""TensorFlow: `CvxpyLayer`, `lift`, which turns any DiffMap into a differentiable function, and `jvp`."""

from ..errors import MissingDependencyError

try:
    import tensorflow as _tensorflow  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("cvxlayers.tensorflow needs TensorFlow; pip install 'cvxlayers[tensorflow]'") from error

from .functions import qp, ridge_head, sparsemax, svm_binary, svm_crammer_singer
from .host import jvp, lift
from .layer import CvxpyLayer

__all__ = ["CvxpyLayer", "jvp", "lift", "qp", "ridge_head", "sparsemax", "svm_binary", "svm_crammer_singer"]
