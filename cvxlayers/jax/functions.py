"""The ready-made layers as JAX functions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from .. import sets
from ..errors import ShapeError
from ..functions import Functions
from .host import JaxHandle, common_dtype, evaluate

_handle = functools.lru_cache(maxsize=1024)(JaxHandle)  # equal maps are one


class _Arrays:
    """JAX's own operations."""

    reshape = staticmethod(jnp.reshape)
    moveaxis = staticmethod(jnp.moveaxis)
    broadcast_to = staticmethod(jnp.broadcast_to)

    @staticmethod
    def asarray(value, like=None):
        """An array."""
        try:
            array = jnp.asarray(value) if like is None else jnp.asarray(value, common_dtype([like]))
        except (TypeError, ValueError, OverflowError) as error:
            raise ShapeError(f"found a {type(value).__name__}; expected an array: {error}") from error
        if jnp.iscomplexobj(array):
            raise ShapeError(f"found an array of {array.dtype}; expected a real one")
        return array

    @staticmethod
    def shape(x):
        """Sizes."""
        return tuple(x.shape)

    matmul = staticmethod(jnp.matmul)
    inverse = staticmethod(jnp.linalg.inv)

    @staticmethod
    def cast(x, like):
        """An array of its dtype."""
        return jnp.asarray(x, like.dtype)

    @staticmethod
    def values(x):
        """Of arrays that are not traced."""
        return None if isinstance(x, jax.core.Tracer) else np.asarray(x)

    @staticmethod
    def on_host(x):
        """By its devices, which a traced array does not have: they will be the default ones."""
        if isinstance(x, jax.core.Tracer):
            return jax.default_backend() == "cpu"
        return all(device.platform == "cpu" for device in x.devices())

    @staticmethod
    def floating(x):
        """Never of half precision."""
        return jnp.asarray(x, common_dtype([x]))

    @staticmethod
    def gumbel(shape, like, key):
        """For a key of jax.random."""
        return jax.random.gumbel(key, shape, like.dtype)

    @staticmethod
    def apply(diffmap, *arrays):
        """The outputs of the map."""
        return evaluate(_handle(diffmap), arrays)


functions = Functions(_Arrays())
constrained_softmax = functions.constrained_softmax
constrained_sparsemax = functions.constrained_sparsemax
gumbel_sinkhorn = functions.gumbel_sinkhorn
lml = functions.lml
optimal_transport = functions.optimal_transport
project = functions.project
qp = functions.qp
ridge_head = functions.ridge_head
sinkhorn = functions.sinkhorn
soft_rank = functions.soft_rank
soft_sort = functions.soft_sort
sparse_topk = functions.sparse_topk
sparsemax = functions.sparsemax
svm_binary = functions.svm_binary
svm_crammer_singer = functions.svm_crammer_singer

for _kind in sets.SETS.values():
    register_dataclass(_kind, _kind.parameters(), _kind.options())
