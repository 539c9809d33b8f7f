"""The ready-made layers as torch functions."""

from __future__ import annotations

import functools

import torch
from torch._C import _are_functorch_transforms_active
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..errors import ShapeError
from ..functions import Functions
from .host import TorchHandle, common_dtype, evaluate

_handle = functools.lru_cache(maxsize=1024)(TorchHandle)  # equal maps are one


class _Arrays:
    """Torch's own operations."""

    reshape = staticmethod(torch.reshape)
    moveaxis = staticmethod(torch.movedim)
    broadcast_to = staticmethod(torch.broadcast_to)

    @staticmethod
    def asarray(value, like=None):
        """A dense tensor with data."""
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_nested or value.device.type == "meta" or value.is_complex():
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

    matmul = staticmethod(torch.matmul)
    inverse = staticmethod(torch.linalg.inv)

    @staticmethod
    def cast(x, like):
        """The dtype of integers is theirs."""
        return torch.as_tensor(x, dtype=like.dtype, device=like.device)

    @staticmethod
    def values(x):
        """Where nothing traces and no transformation is at work."""
        held = torch.compiler.is_compiling() or _are_functorch_transforms_active() or _get_current_dispatch_mode() is not None
        return None if held else x.detach().cpu().numpy()

    @staticmethod
    def on_host(x):
        """By its device."""
        return x.device.type == "cpu"

    @staticmethod
    def apply(diffmap, *arrays):
        """The outputs of the map."""
        if len({a.device for a in arrays}) > 1:
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


sparsemax = public("sparsemax")
qp = public("qp")
ridge_head = public("ridge_head")
svm_binary = public("svm_binary")
svm_crammer_singer = public("svm_crammer_singer")
