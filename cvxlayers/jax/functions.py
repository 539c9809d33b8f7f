"""The ready-made layers as JAX functions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
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
project = functions.project
soft_rank = functions.soft_rank
soft_sort = functions.soft_sort
gumbel_sinkhorn = functions.gumbel_sinkhorn
optimal_transport = functions.optimal_transport
sinkhorn = functions.sinkhorn
sparsemax = functions.sparsemax

for _kind in sets.SETS.values():
    register_dataclass(_kind, _kind.parameters(), _kind.options())
