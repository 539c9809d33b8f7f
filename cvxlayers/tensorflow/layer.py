"""TensorFlow: `CvxpyLayer`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..batching import leading_dims
from ..errors import ShapeError
from ..handles import Handle
from ..interface import Interface, argument, check_complex, check_mask, is_number
from .host import common_dtype, evaluate


class CvxpyLayer(Interface):
    """The solution of a parametrized CVXPY problem as a function of its parameters.

    Example:
        >>> import cvxpy as cp, tensorflow as tf
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
        >>> tf.round(layer(tf.constant([1.0, -1.0]))[0]).numpy().tolist()
        [1.0, 0.0]
    """

    _handle_type = Handle

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *values, solver_args=None, on_error=None, return_info=False, warm_start=None):
        """Solve for these parameter values.

        values: one tensor for each parameter, of its shape or with leading batch dimensions, which broadcast as in NumPy and
        may be unknown inside of tf.function. Returns a tuple, one tensor (batch..., *shape) for each variable, in the
        dtype of the values. solver_args, on_error: options for this call. return_info: return (outputs, info), see
        `cvxlayers.Info`. warm_start: the info of another call, from whose solution to start. Raises ShapeError,
        ProblemError for values that break a declared attribute, SolverError for infeasible, unbounded or failed items,
        naming them; a graph that runs raises the latter two as a `tf.errors.OpError` with the same text.
        """
        start = tuple(map(tf.stop_gradient, self._start(warm_start))) if values else ()
        layer = self._handle.variant(solver_args, on_error, bool(return_info or start), bool(start)).map
        tensors = _as_tensors((*values, *start), layer.parameters)
        leads = leading_dims([tuple(t.shape) for t in tensors], layer.parameters)
        theta = [_flat(t, len(lead), p) for t, p, lead in zip(tensors, layer.parameters, leads, strict=True)]
        results = evaluate(layer, theta) if theta else [tf.constant(r, tf.float32) for r in layer.forward()[0]]
        return self._returned([_shaped(r, o) for r, o in zip(results, layer.outputs, strict=True)], return_info, _cast)


def _as_tensors(values, parameters):
    """Tensors; Python numbers in the dtype of the tensors beside them."""
    tensors = [None if is_number(v) else _as_tensor(v, i, parameters) for i, v in enumerate(values)]
    beside = [t for t in tensors if t is not None]
    dtype = common_dtype(beside) if beside else None
    return [
        _as_tensor(v, i, parameters, dtype) if t is None else t for i, (v, t) in enumerate(zip(values, tensors, strict=True))
    ]


def _as_tensor(value, position, parameters, dtype=None):
    check_mask(value, position, parameters)
    try:
        tensor = tf.convert_to_tensor(value)
        value = tf.convert_to_tensor(value, dtype) if dtype and tensor.dtype.is_floating else tensor
    except (TypeError, ValueError, tf.errors.OpError) as error:
        found = type(value).__name__
        raise ShapeError(f"{argument(position, parameters)} is a {found}; expected a tensor: {error}") from error
    if not (value.dtype.is_floating or value.dtype.is_complex or value.dtype.is_integer or value.dtype.is_bool):
        raise ShapeError(f"{argument(position, parameters)} is a tensor of {value.dtype.name}; expected numbers")
    if value.shape.rank is None:
        raise ShapeError(f"{argument(position, parameters)} has an unknown number of dimensions; set its shape")
    own = parameters[position].shape if position < len(parameters) else ()
    if own and None in value.shape[-len(own) :] and value.shape.rank >= len(own):
        value = tf.ensure_shape(value, [*value.shape[: -len(own)], *own])  # checked when the graph runs
    return value


def _flat(value, depth, info):
    check_complex(info, value.dtype.is_complex)
    own = value.shape.rank - len(info.shape)
    if info.complex:
        value = tf.stack([tf.math.real(value), tf.math.imag(value)], -1)
    return tf.reshape(value, tf.concat([[1] * (depth - own), tf.shape(value)[:own], [info.size]], 0))


def _cast(tensor, kind):
    return tf.cast(tf.stop_gradient(tensor), {int: tf.int32, bool: tf.bool}.get(kind, tensor.dtype))


def _shaped(result, info):
    lead = tf.shape(result)[:-1]
    static = result.shape[:-1] + info.shape
    if info.complex:
        pairs = tf.reshape(result, tf.concat([lead, info.shape, [2]], 0))
        out = tf.complex(pairs[..., 0], pairs[..., 1])
    else:
        out = tf.reshape(result, tf.concat([lead, np.array(info.shape, np.int32)], 0))
    out.set_shape(static)
    return out
