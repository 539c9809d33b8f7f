"""The ready-made layers as TensorFlow functions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..errors import ShapeError
from ..functions import Functions
from .host import common_dtype, evaluate


class _Arrays:
    """TensorFlow's own operations; sizes that are known when a graph runs are tensors."""

    @staticmethod
    def asarray(value, like=None):
        """A tensor."""
        try:
            tensor = tf.convert_to_tensor(value) if like is None else tf.convert_to_tensor(value, common_dtype([like]))
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise ShapeError(f"found a {type(value).__name__}; expected a tensor: {error}") from error
        if tensor.dtype.is_complex or tensor.shape.rank is None:
            raise ShapeError(
                f"found a tensor of {tensor.dtype.name} and shape {tensor.shape}; expected a real one of known rank"
            )
        return tensor

    @staticmethod
    def shape(x):
        """Sizes, or tensors where they are not known yet."""
        later = tf.shape(x)
        return tuple(later[d] if k is None else k for d, k in enumerate(x.shape))

    @staticmethod
    def reshape(x, shape):
        """In C order."""
        return tf.ensure_shape(
            tf.reshape(x, tf.stack(shape) if shape else ()), [k if isinstance(k, int) else None for k in shape]
        )

    @staticmethod
    def broadcast_to(x, shape):
        """As in NumPy."""
        return tf.broadcast_to(x, tf.stack(shape) if shape else ())

    @staticmethod
    def moveaxis(x, source, destination):
        """As in NumPy."""
        order = list(range(x.shape.rank))
        order.insert(range(x.shape.rank)[destination], order.pop(source))
        return tf.transpose(x, order)

    matmul = staticmethod(tf.matmul)
    inverse = staticmethod(tf.linalg.inv)

    @staticmethod
    def cast(x, like):
        """A tensor of its dtype."""
        return tf.cast(x, like.dtype)

    @staticmethod
    def values(x):
        """Of eager tensors."""
        return x.numpy() if tf.executing_eagerly() else None

    @staticmethod
    def on_host(x):
        """Here all maps run on the host."""
        return True

    @staticmethod
    def floating(x):
        """Never of half precision."""
        return tf.cast(x, common_dtype([x]))

    @staticmethod
    def gumbel(shape, like, generator=None, seed=None):
        """From TensorFlow's global generator, or from one that is given, or for the seed of stateless operations."""
        dtype, shape = like.dtype, tf.stack(shape)
        if seed is not None:
            uniform = tf.random.stateless_uniform(shape, seed, dtype=dtype)
        else:
            uniform = (generator or tf.random).uniform(shape, dtype=dtype)
        return -tf.math.log(-tf.math.log(tf.maximum(uniform, np.finfo(dtype.as_numpy_dtype).tiny)))

    @staticmethod
    def apply(diffmap, *arrays):
        """The outputs of the map."""
        return evaluate(diffmap, arrays)


functions = Functions(_Arrays())
constrained_softmax = tf.autograph.experimental.do_not_convert(functions.constrained_softmax)
constrained_sparsemax = tf.autograph.experimental.do_not_convert(functions.constrained_sparsemax)
gumbel_sinkhorn = tf.autograph.experimental.do_not_convert(functions.gumbel_sinkhorn)
lml = tf.autograph.experimental.do_not_convert(functions.lml)
optimal_transport = tf.autograph.experimental.do_not_convert(functions.optimal_transport)
project = tf.autograph.experimental.do_not_convert(functions.project)
qp = tf.autograph.experimental.do_not_convert(functions.qp)
ridge_head = tf.autograph.experimental.do_not_convert(functions.ridge_head)
sinkhorn = tf.autograph.experimental.do_not_convert(functions.sinkhorn)
soft_rank = tf.autograph.experimental.do_not_convert(functions.soft_rank)
soft_sort = tf.autograph.experimental.do_not_convert(functions.soft_sort)
sparse_topk = tf.autograph.experimental.do_not_convert(functions.sparse_topk)
sparsemax = tf.autograph.experimental.do_not_convert(functions.sparsemax)
svm_binary = tf.autograph.experimental.do_not_convert(functions.svm_binary)
svm_crammer_singer = tf.autograph.experimental.do_not_convert(functions.svm_crammer_singer)
