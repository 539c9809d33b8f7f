"""PyTorch: `CvxpyLayer`, a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batching import leading_dims
from ..errors import ShapeError
from ..interface import Interface, argument, check_complex, check_mask, is_number
from .host import TRACED, TorchHandle, common_dtype, evaluate, find


def _evaluate_layer(handle, values):
    """CvxpyLayer's call: check shapes and devices, flatten, evaluate, restore shapes."""
    layer = handle.map
    values = _as_tensors(values, layer.parameters)
    leads = leading_dims([v.shape for v in values], layer.parameters)
    if len({v.device for v in values}) > 1:
        raise ShapeError(f"the values are on different devices: {', '.join(str(v.device) for v in values)}; move them to one")
    theta = [_flat(v, (*lead, k), p) for v, p, lead, k in zip(values, layer.parameters, leads, layer.in_sizes, strict=True)]
    if theta:
        results = evaluate(handle, theta)
    else:
        results = [torch.from_numpy(r).to(torch.get_default_dtype()) for r in layer.forward()[0]]
    return tuple(_shaped(r, o) for r, o in zip(results, layer.outputs, strict=True))


@torch.compiler.allow_in_graph
def _evaluate_layer_in_graph(key, options, more, *values):
    handle = find(key).variant(dict(options), *more)
    return _evaluate_layer(TRACED.setdefault(handle.key, handle), values)


class CvxpyLayer(Interface, nn.Module):
    """The solution of a parametrized CVXPY problem as a function of its parameters; a module.

    Example:
        >>> import cvxpy as cp, torch
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
        >>> layer(torch.tensor([1.0, -1.0], dtype=torch.float64))[0].round(decimals=6)
        tensor([1., 0.], dtype=torch.float64)
    """

    _handle_type = TorchHandle
    __repr__ = nn.Module.__repr__

    def forward(self, *values, solver_args=None, on_error=None, return_info=False, warm_start=None):
        """Solve for these parameter values.

        values: one tensor for each parameter, of its shape or with leading batch dimensions, which broadcast as in NumPy.
        Returns a tuple, one tensor (batch..., *shape) for each variable, in the dtype and on the device of the values.
        solver_args, on_error: options for this call. return_info: return (outputs, info), see `cvxlayers.Info`. warm_start:
        the info of another call, from whose solution to start. Raises ShapeError, ProblemError for values that break a
        declared attribute, SolverError for infeasible, unbounded or failed items, naming them.
        """
        start = tuple(a.detach() for a in self._start(warm_start)) if values else ()
        more = on_error, bool(return_info or start), bool(start)
        if torch.compiler.is_compiling():
            results = _evaluate_layer_in_graph(self._handle.key, tuple((solver_args or {}).items()), more, *values, *start)
        else:
            results = _evaluate_layer(self._handle.variant(solver_args, *more), (*values, *start))
        return self._returned(results, return_info, _cast)

    def extra_repr(self):
        return self._summary()


def _as_tensors(values, parameters):
    """Tensors; Python numbers in the dtype and on the device of the tensors beside them."""
    tensors = [None if is_number(v) else _as_tensor(v, i, parameters) for i, v in enumerate(values)]
    beside = [t for t in tensors if t is not None]
    if len(beside) == len(tensors):
        return tensors
    like = torch.empty((), dtype=common_dtype(beside), device=beside[0].device) if beside else None
    return [_as_tensor(values[i], i, parameters, like) if t is None else t for i, t in enumerate(tensors)]


def _as_tensor(value, position, parameters, like=None):
    if not isinstance(value, Tensor):
        check_mask(value, position, parameters)
        try:
            tensor = torch.as_tensor(value)
            if like is not None:
                dtype = like.dtype.to_complex() if tensor.is_complex() else like.dtype
                tensor = torch.as_tensor(value, dtype=dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            found = type(value).__name__
            raise ShapeError(f"{argument(position, parameters)} is a {found}; expected a tensor: {error}") from error
        return tensor
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else "sparse"
        raise ShapeError(f"{argument(position, parameters)} is a {kind} tensor; expected a dense one (.to_dense())")
    if value.is_meta or value.is_quantized or (value.is_floating_point() and value.itemsize < 2):
        found = f"a tensor of {value.dtype} on {value.device}"
        raise ShapeError(f"{argument(position, parameters)} is {found}; expected one with data, of 16 bits or more")
    return value


def _flat(value, shape, info):
    value = _real(value, info)
    return value if value.shape == shape else value.reshape(shape)  # a view costs as much as a matrix product here


def _real(value, info):
    check_complex(info, value.is_complex())
    return torch.view_as_real(value.resolve_conj()) if info.complex else value


def _cast(tensor, kind):
    return tensor.detach().to({int: torch.int32, bool: torch.bool}.get(kind, tensor.dtype))


def _shaped(result, info):
    if info.complex:
        return torch.view_as_complex(result.reshape((*result.shape[:-1], *info.shape, 2)))
    return result if len(info.shape) == 1 else result.reshape((*result.shape[:-1], *info.shape))
