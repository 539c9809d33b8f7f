"""JAX: `CvxpyLayer`, hashable and static under jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..batching import leading_dims
from ..errors import ShapeError
from ..interface import Interface, argument, check_complex, is_number
from .host import JaxHandle, common_dtype, evaluate


@jax.tree_util.register_static
class CvxpyLayer(Interface):
    """The solution of a parametrized CVXPY problem as a function of its parameters; hashable, static under jit.

    Example:
        >>> import cvxpy as cp, jax.numpy as jnp
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
        >>> layer(jnp.array([1.0, -1.0]))[0].round(6)
        Array([1., 0.], dtype=float32)
    """

    _handle_type = JaxHandle

    def __call__(self, *values, solver_args=None, on_error=None, return_info=False, warm_start=None):
        """Solve for these parameter values.

        values: one array for each parameter, of its shape or with leading batch dimensions, which broadcast as in NumPy.
        Returns a tuple, one array (batch..., *shape) for each variable, in the dtype of the values. solver_args, on_error:
        options for this call. return_info: return (outputs, info), see `cvxlayers.Info`. warm_start: the info of another
        call, from whose solution to start. Raises ShapeError, ProblemError for values that break a declared attribute,
        SolverError for infeasible, unbounded or failed items, naming them; in compiled code all of them are a
        `jax.errors.JaxRuntimeError` with the same text.
        """
        start = tuple(map(jax.lax.stop_gradient, self._start(warm_start))) if values else ()
        handle = self._handle.variant(solver_args, on_error, bool(return_info or start), bool(start))
        layer = handle.map
        arrays = _as_arrays((*values, *start), layer.parameters)
        leads = leading_dims([a.shape for a in arrays], layer.parameters)
        theta = [_shaped(_real(a, p), (*lead, p.size)) for a, p, lead in zip(arrays, layer.parameters, leads, strict=True)]
        results = evaluate(handle, theta) if theta else [jnp.asarray(r, float) for r in layer.forward()[0]]
        return self._returned([_output(r, o) for r, o in zip(results, layer.outputs, strict=True)], return_info, _cast)

    def __eq__(self, other):
        return type(other) is type(self) and self._handle == other._handle

    def __hash__(self):
        return hash(self._handle)


def _as_arrays(values, parameters):
    """Arrays; Python numbers in the dtype of the arrays beside them."""
    arrays = [None if is_number(v) else _as_array(v, i, parameters) for i, v in enumerate(values)]
    dtype = common_dtype([a for a in arrays if a is not None])
    return [_as_array(v, i, parameters, dtype) if a is None else a for i, (v, a) in enumerate(zip(values, arrays, strict=True))]


def _as_array(value, position, parameters, dtype=None):
    if isinstance(value, jax.Array):
        kind = value.dtype
        if (not jnp.issubdtype(kind, jnp.number) and kind != np.bool_) or (
            jnp.issubdtype(kind, jnp.inexact) and kind.itemsize < 2
        ):
            raise ShapeError(
                f"{argument(position, parameters)} is an array of dtype {kind}; expected numbers of at least 16 bits"
            )
        return value
    try:
        array = jnp.asarray(value)
        return jnp.asarray(value, dtype) if dtype and jnp.issubdtype(array.dtype, jnp.floating) else array
    except (TypeError, ValueError, OverflowError) as error:
        found = type(value).__name__
        raise ShapeError(f"{argument(position, parameters)} is a {found}; expected an array: {error}") from error


def _real(value, info):
    check_complex(info, jnp.iscomplexobj(value))
    return jnp.stack([value.real, value.imag], -1) if info.complex else value


def _shaped(array, shape):
    return array if array.shape == shape else array.reshape(shape)  # eager autodiff pays for every operation


def _cast(array, kind):
    array = jax.lax.stop_gradient(array)
    return array if kind is float else array.astype({int: jnp.int32, bool: jnp.bool_}[kind])


def _output(result, info):
    lead = result.shape[:-1]
    if info.complex:
        pairs = result.reshape(*lead, *info.shape, 2)
        return jax.lax.complex(pairs[..., 0], pairs[..., 1])
    return _shaped(result, (*lead, *info.shape))
