"""TensorFlow: `CvxpyLayer`, `lift`, which turns any DiffMap into a differentiable function, and `jvp`."""

from ..errors import MissingDependencyError

try:
    import tensorflow as _tensorflow  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("cvxlayers.tensorflow needs TensorFlow; pip install 'cvxlayers[tensorflow]'") from error

from .functions import (
    constrained_softmax,
    constrained_sparsemax,
    gumbel_sinkhorn,
    lml,
    optimal_transport,
    project,
    qp,
    ridge_head,
    sinkhorn,
    soft_rank,
    soft_sort,
    sparse_topk,
    sparsemax,
    svm_binary,
    svm_crammer_singer,
)
from .host import jvp, lift
from .layer import CvxpyLayer

__all__ = [
    "CvxpyLayer",
    "constrained_softmax",
    "constrained_sparsemax",
    "gumbel_sinkhorn",
    "jvp",
    "lift",
    "lml",
    "optimal_transport",
    "project",
    "qp",
    "ridge_head",
    "sinkhorn",
    "soft_rank",
    "soft_sort",
    "sparse_topk",
    "sparsemax",
    "svm_binary",
    "svm_crammer_singer",
]
