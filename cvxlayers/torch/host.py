"""`lift` turns any DiffMap into a function with all of torch's transformations.

The mechanism is one `autograd.Function`, `_Host`, with the rules of every transformation (backward, jvp, vmap), and
`_Recorded`, its shorter form for plain tensors of which a graph is recorded. Its computation is an opaque custom op with a
rule for fake tensors, so that torch.compile and torch.export can trace it; plain eager tensors skip the op. Compiled code
enters through `allow_in_graph`: Dynamo must see neither the op alone (a custom op has no forward mode, and jvp through it is
silently zero) nor the inside of `_Host`.
"""

from __future__ import annotations

import inspect
import weakref

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..calls import (
    call,
    call_on_host,
    check_inputs,
    check_order,
    differentiable,
    differential,
    gradient,
    joined,
    result_sizes,
    shapes,
    split,
    transposed,
)
from ..diffmap import DiffMap
from ..errors import ProblemError
from ..factors import FACTORS
from ..handles import Handle
from ..memory import private

_REGISTRY: dict[str, weakref.WeakSet[TorchHandle]] = {}
TRACED: dict[str, TorchHandle] = {}  # what a graph refers to stays


def _cholesky(M):
    L, info = torch.linalg.cholesky_ex(M)
    return L, info[..., None] == 0


FACTORS["array_api_compat.torch"] = (_cholesky, lambda L, r: torch.cholesky_solve(r, L))


class TorchHandle(Handle):
    """A map that graphs find by its key."""

    def __init__(self, diffmap):
        super().__init__(diffmap)
        for key in [key for key, handles in _REGISTRY.items() if not handles]:
            del _REGISTRY[key]  # of layers that are gone
        _REGISTRY.setdefault(self.key, weakref.WeakSet()).add(self)


def find(key):
    """A handle for a key that stands in a graph."""
    handle = next(iter(_REGISTRY.get(key, ())), None)
    if handle is None:
        raise ProblemError(
            "this graph contains a layer that does not exist in this process: build the same layer (the same "
            "problem, parameters, variables and options) before the graph runs, and keep it"
        )
    return handle


def _broadcast(leads):
    """Leading dimensions of a call. Sizes may be symbolic, so 1 is recognized only where it is a plain int."""
    out = list(leads[0]) if leads else []
    for lead in leads[1:]:
        for d, size in enumerate(out):
            if isinstance(size, int) and size == 1:
                out[d] = lead[d]
    return tuple(out)


def _shapes(diffmap, kind, args):
    return shapes(diffmap, kind, [a.shape[:-1] for a in args], _broadcast)


def _run(diffmap, kind, args, plain):
    """The computation itself, for arguments that are plain or not. theta only carries derivatives: other kinds read `saved`."""
    use = args if kind == "forward" else args[len(diffmap.in_sizes) :]
    if diffmap.native:
        return _run_natively(diffmap, kind, args, use, valued=plain and kind == "forward")
    want = shapes(diffmap, kind, [a.shape[:-1] for a in args])
    results, saved = call_on_host(diffmap, kind, [_array(a) for a in use], want)
    fresh = diffmap.fresh and kind != "forward"
    results = [_tensor(a, fresh) for a in results]
    if not _of_host(args[0]):
        results = [t.to(args[0].device, args[0].dtype) for t in results]
    return results + [_tensor(a, True) for a in saved]


def _run_natively(diffmap, kind, args, use, valued):
    like, lead = args[0], args[0].shape[:-1]
    # A map that loops gets tensors with data. Where all have the same leading dimensions, so have its results.
    alike = diffmap.fresh and diffmap.loops and 0 not in lead and all(a.shape[:-1] == lead for a in args)
    want = None if alike else _shapes(diffmap, kind, args)
    if want and any(isinstance(size, int) and size == 0 for shape in want[0] for size in shape[:-1]):
        return [like.new_zeros(shape) for shape in (*want[0], *want[1])]
    if valued:
        diffmap.check(*use)
    results, saved = call(diffmap, kind, use)
    if valued:
        diffmap.verify(results, saved)
    own, seen = [r if r.dtype == like.dtype else r.to(like.dtype) for r in results] + list(saved), set()
    for k, a in enumerate(own):
        shape = (*lead, a.shape[-1]) if want is None else (*want[0], *want[1])[k]
        shared = not diffmap.fresh or id(a) in seen or a.shape != shape
        seen.add(id(a))
        own[k] = a.expand(shape).clone(memory_format=torch.contiguous_format) if shared else a.contiguous()
    return own


def _array(tensor):
    return (tensor if _of_host(tensor) else tensor.detach().to("cpu", torch.float64)).numpy(force=True)


def _of_host(tensor):
    return tensor.dtype == torch.float64 and tensor.is_cpu


def _tensor(array, keep=False):
    """A tensor of its own: no memory shared with others. keep: what the array owns is the tensor's from now on."""
    if not array.size:  # NumPy's strides of an empty array are zero: no view_as_complex
        return torch.empty(array.shape, dtype=torch.float64)
    return torch.from_numpy(private(array) if keep else np.array(array, order="C"))


@torch.library.custom_op("cvxlayers::host", mutates_args=())
def _op(key: str, kind: str, args: list[Tensor]) -> list[Tensor]:
    return _run(find(key).map, kind, args, _plain(args))


@_op.register_fake
def _(key, kind, args):
    diffmap, like = find(key).map, args[0]
    shapes, saved = _shapes(diffmap, kind, args)
    kept = {} if diffmap.native else {"dtype": torch.float64, "device": "cpu"}
    return [like.new_empty(s) for s in shapes] + [like.new_empty(s, **kept) for s in saved]


def _plain(args):
    """Whether the computation may run at once: nothing traces it, and no tensor stands for something else."""
    if torch.jit.is_tracing():
        raise NotImplementedError("cvxlayers: torch.jit.trace would freeze the solution; use torch.compile or torch.export")
    if any(map(is_legacy_batchedtensor, args)):
        raise NotImplementedError(
            "cvxlayers: is_grads_batched=True and functional.jacobian(vectorize=True) use torch's old "
            "vmap, for which a layer has no rule; use torch.func.jacrev or torch.func.vmap"
        )
    return all(type(a) in (Tensor, nn.Parameter) for a in args) and _get_current_dispatch_mode() is None


def _apply(handle, kind, *args):
    """`_Host` with its derivatives, `_Recorded` where only a graph is to be made, and the bare computation without one."""
    if not differentiable(handle.map, kind):
        i = len(handle.map.in_sizes)
        args = (*(_Door.apply(handle, kind, a) if a.requires_grad else a for a in args[:i]), *args[i:])
    if forward_ad._current_level >= 0 or _are_functorch_transforms_active() or not _plain(args):
        return _Host.apply(handle, kind, *args)
    if torch.is_grad_enabled() and any(a.requires_grad for a in args):
        return _Recorded.apply(handle, kind, *args)
    return tuple(_run(handle.map, kind, args, True))


class _Door(torch.autograd.Function):
    """theta itself, in calls without a derivative in theta: raises when a gradient wants to pass.

    A backward is asked for the gradients of all its arguments at once, also for those that nobody wants.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(handle, kind, theta):
        return theta.view_as(theta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.handle, ctx.kind, _ = inputs

    @staticmethod
    def backward(ctx, g):
        check_order(ctx.handle.map, ctx.kind)

    @staticmethod
    def jvp(ctx, *tangents):
        check_order(ctx.handle.map, ctx.kind)


class _Recorded(torch.autograd.Function):
    """(handle, kind, *args) -> results, for the kinds and arguments of `calls`: its backward consists of such calls again."""

    @staticmethod
    def forward(ctx, handle, kind, *args):
        results = tuple(_run(handle.map, kind, args, True))
        _remember(ctx, handle, kind, args, results)
        return results

    @staticmethod
    def backward(ctx, *cotangents):
        handle, kind = ctx.handle, ctx.kind
        theta, saved, groups = split(handle.map, kind, ctx.saved_tensors)
        needs = ctx.needs_input_grad[2:]
        grads: list = [None] * len(needs)
        if all(c is None for c in cotangents):
            return (None, None, *grads)
        c = _filled(cotangents, result_sizes(handle.map, kind), theta[0])

        def fill(start, like, call):
            if any(needs[start : start + len(like)]):
                kind, rest = call()
                for j, g in enumerate(_apply(handle, kind, *theta, *saved, *joined(rest)), start):
                    if needs[j]:
                        grads[j] = _unbroadcast(g, like[j - start])

        if differentiable(handle.map, kind):
            fill(0, theta, lambda: gradient(handle.map, kind, groups, c))
        else:
            for j, a in enumerate(theta):  # `_Door` refuses them
                grads[j] = torch.zeros_like(a) if needs[j] else None
        start = len(theta) + len(saved)
        for k, group in enumerate(groups):
            fill(start, group, lambda k=k: transposed(kind, groups, c)[k])
            start += len(group)
        return (None, None, *grads)


def _remember(ctx, handle, kind, args, results):
    ctx.handle, ctx.kind = handle, kind
    ctx.set_materialize_grads(False)
    saved = results[len(handle.map.out_sizes) :] if kind == "forward" else ()
    ctx.mark_non_differentiable(*saved)
    ctx.save_for_backward(*args, *saved)
    return saved


class _Host(torch.autograd.Function):
    """`_Recorded` for everything: torch calls the rules of every transformation, which takes longer."""

    @staticmethod
    def forward(handle, kind, *args):
        plain = _plain(args)
        if plain or (handle.map.native and not handle.map.loops):
            return tuple(_run(handle.map, kind, args, plain))
        return tuple(_op(handle.key, kind, list(args)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        handle, kind, *args = inputs
        saved = _remember(ctx, handle, kind, args, output)
        if forward_ad._current_level >= 0 or _are_functorch_transforms_active():
            ctx.save_for_forward(*args, *saved)

    backward = _Recorded.backward

    @staticmethod
    def jvp(ctx, *tangents):
        handle, kind = ctx.handle, ctx.kind
        theta, saved, groups = split(handle.map, kind, ctx.saved_tensors)
        dtheta, _, dgroups = split(handle.map, kind, tangents[2:])
        dtheta, *dgroups = (
            None if all(t is None for t in own) else _filled(own, [a.shape[-1] for a in like], theta[0])
            for own, like in zip((dtheta, *dgroups), (theta, *groups), strict=True)
        )
        calls = differential(handle.map, kind, groups, dtheta, dgroups)
        out = [_apply(handle, kind, *theta, *saved, *joined(rest)) for kind, rest in calls]
        total = [sum(terms[1:], terms[0]) for terms in zip(*out, strict=True)]
        return (*total, *(None for _ in saved)) if kind == "forward" else tuple(total)

    @staticmethod
    def vmap(info, in_dims, handle, kind, *args):
        moved = [a.unsqueeze(0) if d is None else a.movedim(d, 0) for a, d in zip(args, in_dims[2:], strict=True)]
        out = _apply(handle, kind, *moved)
        batched = [o.shape[0] == info.batch_size for o in out]  # saved data that the batch does not touch have a 1
        results = tuple(o if b else o.squeeze(0) for o, b in zip(out, batched, strict=True))
        return results, tuple(0 if b else None for b in batched)


# torch inspects the signature of forward on every call, which takes longer than the call; this is the answer at hand.
_Host.forward.__signature__ = inspect.signature(_Host.forward)  # type: ignore[attr-defined]


def _filled(tensors, sizes, like):
    """Tangents or cotangents with zeros, of leading dimensions 1, in place of None."""
    return [
        like.new_zeros((1,) * (like.dim() - 1) + (size,)) if t is None else t for t, size in zip(tensors, sizes, strict=False)
    ]


def _unbroadcast(g, like):
    dims = [d for d in range(g.dim() - 1) if isinstance(like.shape[d], int) and like.shape[d] == 1]
    dims = [d for d in dims if not (isinstance(g.shape[d], int) and g.shape[d] == 1)]
    return g.sum(dims, keepdim=True) if dims else g


def common_dtype(tensors):
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        dtype = dtype if t.dtype == dtype else torch.promote_types(dtype, t.dtype)
    if dtype in (torch.float32, torch.float64):
        return dtype
    dtype = dtype.to_real()
    if not dtype.is_floating_point:
        return torch.get_default_dtype()
    return torch.float32 if dtype.itemsize < 4 else dtype  # half precision cannot hold what a solver returns


def evaluate(handle, tensors):
    """Outputs for theta of common depth, in their common dtype."""
    dtype = common_dtype(tensors[: handle.map.typed])
    theta = [t if t.dtype == dtype else t.to(dtype) for t in tensors]
    return _apply(handle, "forward", *theta)[: len(handle.map.out_sizes)]


@torch.compiler.allow_in_graph
def _evaluate_in_graph(key, *tensors):
    TRACED[key] = find(key)
    return evaluate(TRACED[key], tensors)


def lift(diffmap: DiffMap):
    """A DiffMap as a torch function with backward, forward mode, vmap and compile.

    The function takes tensors (lead..., in_sizes[i]), all with the same number of leading dimensions, each 1 or the
    batch's size, and returns a tuple of tensors (lead..., out_sizes[k]) in their dtype and on their device.
    Raises ShapeError for other shapes; lift itself raises ProblemError for what is no DiffMap.
    """
    handle = TorchHandle(diffmap)

    def function(*tensors):
        check_inputs(diffmap, tensors)
        return _evaluate_in_graph(handle.key, *tensors) if torch.compiler.is_compiling() else evaluate(handle, tensors)

    return function
