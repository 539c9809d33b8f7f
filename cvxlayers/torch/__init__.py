"""PyTorch: `CvxpyLayer`, and `lift`, which turns any DiffMap into a function with all of torch's transformations."""

from ..errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("cvxlayers.torch needs PyTorch 2.13; pip install 'cvxlayers[torch]'") from error

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
from .modules import LML, QP, QPFunction, Sinkhorn, SoftRank, SoftSort, Sparsemax, SparseTopK

__all__ = [
    "LML",
    "QP",
    "CvxpyLayer",
    "QPFunction",
    "Sinkhorn",
    "SoftRank",
    "SoftSort",
    "SparseTopK",
    "Sparsemax",
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
