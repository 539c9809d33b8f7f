"""`lift` turns any DiffMap into a differentiable function of TensorFlow; `jvp` is forward mode.

The mechanism is a recursive `tf.custom_gradient` whose computation is plain NumPy when eager and a `tf.numpy_function` in
graphs. Reverse mode of any order, `tape.jacobian` and eager forward mode follow from it. Inside of tf.function forward
mode would take the numpy_function for a constant, so its operands refuse to be differentiated: use `jvp` there.
Graphs with Python functions have limits of their own: no XLA (jit_compile=True), and a SavedModel runs only in the
process that made it.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from ..calls import (
    call_on_host,
    check_inputs,
    check_order,
    differentiable,
    gradient,
    joined,
    result_sizes,
    shapes,
    transposed,
)
from ..diffmap import DiffMap
from ..handles import check_map

_FORWARD_MODE = (
    "cvxlayers: tf.autodiff.ForwardAccumulator does not reach a layer through tf.function; use cvxlayers.tensorflow.jvp, "
    "or the accumulator in eager mode"
)


def _call(diffmap, kind, theta, saved=(), groups=()):
    """The results of a call, as a function of theta and of the linear groups."""
    theta = _guarded(diffmap, kind, theta)
    sizes = [len(theta), *map(len, groups)]

    @tf.custom_gradient
    def function(*args):
        parts = tf.nest.pack_sequence_as([[0] * k for k in sizes], args)
        theta, groups = parts[0], parts[1:]
        results, state = _compute(diffmap, kind, theta, saved, groups)
        state = state if kind == "forward" else saved

        def backward(*c):
            grads = []
            for j, like in enumerate(parts):
                if j:
                    other, rest = transposed(kind, groups, c)[j - 1]
                elif not differentiable(diffmap, kind):
                    grads += [tf.zeros_like(a) for a in like]  # `_guarded` refuses them
                    continue
                else:
                    other, rest = gradient(diffmap, kind, groups, c)
                found = _call(diffmap, other, theta, state, rest)
                grads += [_unbroadcast(g, a) for g, a in zip(found, like, strict=True)]
            return grads

        return results, backward

    return function(*theta, *joined(groups))


def _guarded(diffmap, kind, theta):
    """theta, in calls without a derivative in theta behind a door that raises when a gradient wants to pass.

    A custom gradient has to answer for all of its arguments at once, also for those nobody asks for.
    """
    if differentiable(diffmap, kind):
        return theta

    @tf.custom_gradient
    def door(a):
        def backward(g):
            check_order(diffmap, kind)

        return tf.identity(a), backward

    return [door(a) for a in theta]


def _compute(diffmap, kind, theta, saved, groups):
    """(results, saved) as tensors."""
    operands = theta if kind == "forward" else [*saved, *joined(groups)]
    like, dtype = [*theta, *joined(groups)], theta[0].dtype
    count = len(result_sizes(diffmap, kind))

    def host(leads, *arrays):
        want = shapes(diffmap, kind, [tuple(row) for row in leads.tolist()])
        results, state = call_on_host(diffmap, kind, arrays, want)
        return [*(np.array(r, dtype.as_numpy_dtype) for r in results), *map(np.array, state)]

    leads = [a.shape[:-1] for a in like]
    known = np.array(leads, int).reshape(len(like), -1) if all(lead.is_fully_defined() for lead in leads) else None
    if tf.executing_eagerly():
        out = [tf.convert_to_tensor(a) for a in host(known, *(a.numpy() for a in operands))]
    else:
        operands = [tf.raw_ops.PreventGradient(input=a, message=_FORWARD_MODE) for a in operands]
        types = [dtype] * count + [tf.float64] * (len(diffmap.saved) if kind == "forward" else 0)
        if known is None:
            out = tf.numpy_function(host, [tf.stack([tf.shape(a)[:-1] for a in like]), *operands], types, stateful=False)
        else:
            out = tf.numpy_function(lambda *arrays: host(known, *arrays), operands, types, stateful=False)
        lead = functools.reduce(tf.broadcast_static_shape, leads)
        for t, k in zip(out, result_sizes(diffmap, kind), strict=False):
            t.set_shape(lead + [k])
        for t, s in zip(out[count:], diffmap.saved, strict=False):
            t.set_shape([None] * lead.rank + [s.size])
    return tuple(out[:count]), tuple(out[count:])


def _unbroadcast(g, like):
    if g.shape.is_fully_defined() and g.shape == like.shape:
        return g
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(like), s1=tf.shape(g))
    out = tf.reshape(tf.reduce_sum(g, axes), tf.shape(like))
    out.set_shape(like.shape)
    return out


def evaluate(diffmap, tensors):
    """Outputs for theta of common depth, in their common dtype."""
    dtype = common_dtype(tensors[: diffmap.typed])
    return _call(diffmap, "forward", [tf.cast(t, dtype) for t in tensors])


def common_dtype(tensors):
    dtypes = [t.dtype.real_dtype for t in tensors if t.dtype.is_floating or t.dtype.is_complex]
    dtype = max(dtypes, key=lambda d: d.size, default=tf.float32)
    return tf.float32 if dtype.size < 4 else dtype  # half precision cannot hold what a solver returns


@tf.autograph.experimental.do_not_convert
def lift(diffmap: DiffMap):
    """A DiffMap as a TensorFlow function, on the host.

    The function takes tensors (lead..., in_sizes[i]), all with the same number of leading dimensions, each 1 or the
    batch's size, and returns a tuple of tensors (lead..., out_sizes[k]) in their dtype.
    Raises ShapeError for other shapes; lift itself raises ProblemError for what is no DiffMap.
    """
    check_map(diffmap)

    @tf.autograph.experimental.do_not_convert
    def function(*tensors):
        converted = [tf.convert_to_tensor(t) for t in tensors]
        check_inputs(diffmap, converted)
        return evaluate(diffmap, converted)

    return function


@tf.autograph.experimental.do_not_convert
def jvp(function, primals, tangents):
    """(function(*primals), its derivative along the tangents), by two reverse passes; in eager mode and in tf.function.

    primals, tangents: lists of tensors, of equal shapes. The function returns a tensor or a structure of them.
    """
    primals, tangents = ([tf.convert_to_tensor(p) for p in group] for group in (primals, tangents))
    for p, t in zip(primals, tangents, strict=True):
        p.shape.assert_is_compatible_with(t.shape)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(primals)
            values = function(*primals)
        seeds = tf.nest.map_structure(tf.zeros_like, values)
        outer.watch(seeds)
        grads = inner.gradient(values, primals, output_gradients=seeds, unconnected_gradients="zero")
    weights = [tf.cast(t, p.dtype) for t, p in zip(tangents, primals, strict=True)]
    return values, outer.gradient(grads, seeds, output_gradients=weights, unconnected_gradients="zero")
