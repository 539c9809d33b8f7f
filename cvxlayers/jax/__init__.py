"""JAX: `CvxpyLayer`, and `lift`, which turns any DiffMap into a function with all of JAX's transformations."""

from ..errors import MissingDependencyError

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("cvxlayers.jax needs JAX 0.6 or newer; pip install 'cvxlayers[jax]'") from error

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
from .host import lift
from .layer import CvxpyLayer

__all__ = [
    "CvxpyLayer",
    "constrained_softmax",
    "constrained_sparsemax",
    "gumbel_sinkhorn",
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
