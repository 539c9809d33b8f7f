"""The ready-made layers as torch functions."""

from __future__ import annotations

import functools

import torch

from ..errors import ShapeError
from ..functions import Functions
from .host import TorchHandle, common_dtype, evaluate

_handle = functools.lru_cache(maxsize=1024)(TorchHandle)  # equal maps are one


class _Arrays:
    """Torch's own operations."""

    reshape = staticmethod(torch.reshape)
    moveaxis = staticmethod(torch.moveaxis)
    broadcast_to = staticmethod(torch.broadcast_to)

    @staticmethod
    def asarray(value, like=None):
        """A dense tensor with data."""
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_nested or value.is_meta or value.is_complex():
                found = f"a tensor of {value.dtype}, {value.layout}, on {value.device}"
                raise ShapeError(f"found {found}; expected a real dense one with data")
            return value
        try:
            if like is None:
                return torch.as_tensor(value)
            return torch.as_tensor(value, dtype=common_dtype([like]), device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"found a {type(value).__name__}; expected a tensor: {error}") from error

    @staticmethod
    def shape(x):
        """Sizes."""
        return tuple(x.shape)

    @staticmethod
    def apply(diffmap, *arrays):
        """The outputs of the map."""
        if any(a.device != arrays[0].device for a in arrays[1:]):
            raise ShapeError(
                f"the tensors are on different devices: {', '.join(str(a.device) for a in arrays)}; move them to one"
            )
        return evaluate(_handle(diffmap), arrays)


functions = Functions(_Arrays())


@torch.compiler.allow_in_graph
def _in_graph(name, args, options):
    return getattr(functions, name)(*args, **options)


def public(name):
    """A function of `Functions`, which torch.compile takes as it is."""
    function = getattr(functions, name)

    @functools.wraps(function)
    def wrapper(*args, **options):
        return _in_graph(name, args, options) if torch.compiler.is_compiling() else function(*args, **options)

    wrapper.__module__ = "cvxlayers.torch"
    return wrapper


constrained_softmax = public("constrained_softmax")
constrained_sparsemax = public("constrained_sparsemax")
lml = public("lml")
sparse_topk = public("sparse_topk")
sparsemax = public("sparsemax")
