"""The ready-made layers as JAX functions."""

from __future__ import annotations

import functools

import jax.numpy as jnp

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
    def apply(diffmap, *arrays):
        """The outputs of the map."""
        return evaluate(_handle(diffmap), arrays)


functions = Functions(_Arrays())
constrained_softmax = functions.constrained_softmax
constrained_sparsemax = functions.constrained_sparsemax
lml = functions.lml
sparse_topk = functions.sparse_topk
sparsemax = functions.sparsemax
