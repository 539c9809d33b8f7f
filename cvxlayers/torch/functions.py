"""The ready-made layers as torch functions."""

from __future__ import annotations

import functools

import torch
from torch._C import _are_functorch_transforms_active
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .. import sets
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
    def floating(x):
        """Never of half precision."""
        return x.to(common_dtype([x]))

    @staticmethod
    def gumbel(shape, like, generator=None):
        """From torch's global generator, or from one that is given."""
        if generator is not None and torch.compiler.is_compiling():
            raise NotImplementedError(
                "cvxlayers: torch.compile has no generators; draw the samples outside, or set torch.manual_seed and pass none"
            )
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        return -torch.log(-torch.log(torch.clamp(uniform, min=torch.finfo(like.dtype).tiny)))

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
gumbel_sinkhorn = public("gumbel_sinkhorn")
lml = public("lml")
optimal_transport = public("optimal_transport")
qp = public("qp")
ridge_head = public("ridge_head")
sinkhorn = public("sinkhorn")
soft_rank = public("soft_rank")
soft_sort = public("soft_sort")
sparse_topk = public("sparse_topk")
sparsemax = public("sparsemax")
svm_binary = public("svm_binary")
svm_crammer_singer = public("svm_crammer_singer")


@torch.compiler.allow_in_graph
def _project_in_graph(x, kind, values, axis, dim):
    return functions.project(x, sets.SETS[kind](*values), axis, dim=dim)


@functools.wraps(functions.project)
def project(x, set, axis=-1, *, dim=None):
    """As in `Functions`; a graph gets what the set is made of."""
    if torch.compiler.is_compiling() and isinstance(set, sets.Set):
        return _project_in_graph(x, type(set).__name__, set.values(), axis, dim)
    return functions.project(x, set, axis, dim=dim)


project.__module__ = "cvxlayers.torch"


def _register(kind):
    """A set's parameters are leaves to torch.func."""

    def flatten(set):
        return [getattr(set, name) for name in kind.parameters()], [getattr(set, name) for name in kind.options()]

    pytree.register_pytree_node(
        kind,
        flatten,
        lambda parameters, options: kind(*parameters, *options),
        serialized_type_name=f"cvxlayers.sets.{kind.__name__}",
    )


for _kind in sets.SETS.values():
    _register(_kind)
