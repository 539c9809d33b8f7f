"""PyTorch: `CvxpyLayer`, and `lift`, which turns any DiffMap into a function with all of torch's transformations.

The mechanism is one `autograd.Function`, `_Host`, with the rules of every transformation (backward, jvp, vmap). Its
computation is an opaque custom op with a rule for fake tensors, so that torch.compile and torch.export can trace it;
plain eager tensors skip the op. Compiled code enters through `allow_in_graph`: Dynamo must see neither the op alone (a
custom op has no forward mode, and jvp through it is silently zero) nor the inside of `_Host`.
"""

from __future__ import annotations

import inspect
import uuid
import weakref

import numpy as np

from .batching import leading_dims
from .diffmap import DiffMap
from .errors import MissingDependencyError, ProblemError, ShapeError
from .layer import ConeLayer

try:
    import torch
    from torch import Tensor, nn
    from torch._C import _are_functorch_transforms_active
    from torch._C._functorch import is_legacy_batchedtensor
    from torch.autograd import forward_ad
    from torch.utils._python_dispatch import _get_current_dispatch_mode
except ImportError as error:
    raise MissingDependencyError("cvxlayers.torch needs PyTorch 2.13; pip install 'cvxlayers[torch]'") from error

__all__ = ["CvxpyLayer", "lift"]

_REGISTRY: dict[str, weakref.WeakSet[_Handle]] = {}
_TRACED: dict[str, _Handle] = {}  # what a graph refers to stays


class _Handle:
    """A map with the key that stands for it in graphs: equal maps have equal keys, in every process.

    variants: the same layer with other solver options, by the options of a call.
    """

    def __init__(self, diffmap):
        self.map, self.key = diffmap, diffmap.fingerprint() or uuid.uuid4().hex
        self.variants: dict[str, _Handle] = {}
        _REGISTRY.setdefault(self.key, weakref.WeakSet()).add(self)

    def __reduce__(self):
        return _Handle, (self.map,)

    def variant(self, solver_args):
        """The handle for a call with these options on top."""
        if not solver_args:
            return self
        if not isinstance(solver_args, dict):
            raise ProblemError(f"solver_args is a {type(solver_args).__name__}; expected a dictionary of options")
        name = repr(sorted(solver_args.items(), key=str))
        if name not in self.variants:
            self.variants[name] = _Handle(self.map.with_solver_args(solver_args))
        return self.variants[name]


def _find(key):
    """A handle for a key that stands in a graph."""
    handle = next(iter(_REGISTRY.get(key, ())), None)
    if handle is None:
        raise ProblemError(
            "this graph contains a layer that does not exist in this process: build the same layer (the same "
            "problem, parameters, variables and options) before the graph runs, and keep it"
        )
    return handle


def _broadcast(args):
    """Leading dimensions of a call. Sizes may be symbolic, so 1 is recognized only where it is a plain int."""
    lead = list(args[0].shape[:-1]) if args else []
    for a in args[1:]:
        for d, size in enumerate(lead):
            if isinstance(size, int) and size == 1:
                lead[d] = a.shape[d]
    return tuple(lead)


def _shapes(diffmap, kind, args):
    """(shapes of the results in the caller's dtype, shapes of the saved arrays in float64)."""
    lead = _broadcast(args)
    if kind != "forward":
        return [(*lead, k) for k in (diffmap.out_sizes if kind == "jvp" else diffmap.in_sizes)], []
    saved = [(*(_broadcast([args[i] for i in s.inputs]) or (1,) * len(lead)), s.size) for s in diffmap.saved]
    return [(*lead, k) for k in diffmap.out_sizes], saved


def _run(diffmap, kind, args):
    """The computation itself, on plain tensors. theta only carries derivatives: jvp and vjp read `saved`."""
    shapes, saved_shapes = _shapes(diffmap, kind, args)
    dtype, device = args[0].dtype, args[0].device
    if any(0 in shape[:-1] for shape in shapes):
        return [torch.zeros(s, dtype=dtype, device=device) for s in shapes] + [
            torch.zeros(s, dtype=torch.float64) for s in saved_shapes
        ]
    if kind == "forward":
        results, saved = diffmap.forward(*map(_array, args))
    else:
        arrays = [_array(a) for a in args[len(diffmap.in_sizes) :]]
        k = len(diffmap.saved)
        results, saved = getattr(diffmap, kind)(tuple(arrays[:k]), *arrays[k:]), ()
    out = [_tensor(a, shape).to(device, dtype) for a, shape in zip(results, shapes, strict=True)]
    return out + [_tensor(a, shape) for a, shape in zip(saved, saved_shapes, strict=True)]


def _array(tensor):
    tensor = tensor.detach()
    if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
        tensor = tensor.to("cpu", torch.float64)
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


def _tensor(array, shape):
    """A tensor of its own: no memory shared with other results or with the arguments."""
    return torch.from_numpy(np.array(array if array.shape == shape else np.broadcast_to(array, shape), order="C"))


@torch.library.custom_op("cvxlayers::host", mutates_args=())
def _op(key: str, kind: str, args: list[Tensor]) -> list[Tensor]:
    return _run(_find(key).map, kind, args)


@_op.register_fake
def _(key, kind, args):
    shapes, saved = _shapes(_find(key).map, kind, args)
    return [args[0].new_empty(s) for s in shapes] + [torch.empty(s, dtype=torch.float64) for s in saved]


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
    """`_Host` with its derivatives, or the bare computation where nothing is there to record them."""
    recording = torch.is_grad_enabled() or forward_ad._current_level >= 0 or _are_functorch_transforms_active()
    if recording or not _plain(args):
        return _Host.apply(handle, kind, *args)
    return tuple(_run(handle.map, kind, args))


class _Host(torch.autograd.Function):
    """(handle, kind, *args) -> results. kind and args: "forward" theta; "jvp" theta, saved, tangents; "vjp" theta, saved,
    cotangents. The two linear kinds are each other's transposes, so backward and jvp of all three are calls of `_Host`."""

    @staticmethod
    def forward(handle, kind, *args):
        results = _run(handle.map, kind, args) if _plain(args) else _op(handle.key, kind, list(args))
        return tuple(results)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.handle, ctx.kind, *args = inputs
        ctx.set_materialize_grads(False)
        saved = output[len(ctx.handle.map.out_sizes) :] if ctx.kind == "forward" else ()
        ctx.mark_non_differentiable(*saved)
        ctx.save_for_backward(*args, *saved)
        ctx.save_for_forward(*args, *saved)

    @staticmethod
    def backward(ctx, *cotangents):
        handle, kind, args = ctx.handle, ctx.kind, ctx.saved_tensors
        i, k = len(handle.map.in_sizes), len(handle.map.saved)
        theta, saved = args[:i], args[i : i + k]
        needs = ctx.needs_input_grad[2:]
        grads = [None] * len(needs)
        linear = 0 if kind == "forward" else i + k
        if kind != "forward" and any(needs[:i]):
            raise _no_second_derivative()
        sizes = handle.map.in_sizes if kind == "vjp" else handle.map.out_sizes
        if any(needs[linear:]) and any(c is not None for c in cotangents):
            full = [_zeros(args[0], size) if c is None else c for c, size in zip(cotangents, sizes, strict=False)]
            transposed = _apply(handle, "jvp" if kind == "vjp" else "vjp", *theta, *saved, *full)
            for j, g in enumerate(transposed):
                if needs[linear + j]:
                    grads[linear + j] = _unbroadcast(g, args[linear + j])
        return (None, None, *grads)

    @staticmethod
    def jvp(ctx, *tangents):
        handle, kind, args = ctx.handle, ctx.kind, ctx.saved_tensors
        i, k = len(handle.map.in_sizes), len(handle.map.saved)
        tangents = tangents[2:]
        linear = 0 if kind == "forward" else i + k
        if kind != "forward" and any(t is not None for t in tangents[:i]):
            raise _no_second_derivative()
        full = [
            _zeros(a, a.shape[-1]) if t is None else t
            for t, a in zip(tangents[linear:], args[linear:] if linear else args[:i], strict=True)
        ]
        out = _apply(handle, "jvp" if kind == "forward" else kind, *args[: i + k], *full)
        return (*out, *(None for _ in handle.map.saved)) if kind == "forward" else out

    @staticmethod
    def vmap(info, in_dims, handle, kind, *args):
        moved = [a.unsqueeze(0) if d is None else a.movedim(d, 0) for a, d in zip(args, in_dims[2:], strict=True)]
        out = _apply(handle, kind, *moved)
        batched = [o.shape[0] == info.batch_size for o in out]  # saved data that the batch does not touch have a 1
        results = tuple(o if b else o.squeeze(0) for o, b in zip(out, batched, strict=True))
        return results, tuple(0 if b else None for b in batched)


# torch inspects the signature of forward on every call, which takes longer than the call; this is the answer at hand.
_Host.forward.__signature__ = inspect.signature(_Host.forward)  # type: ignore[attr-defined]


def _no_second_derivative():
    return NotImplementedError("cvxlayers: second derivatives of a layer are not available")


def _zeros(like, size):
    return like.new_zeros((1,) * (like.dim() - 1) + (size,))


def _unbroadcast(g, like):
    dims = [d for d in range(g.dim() - 1) if isinstance(like.shape[d], int) and like.shape[d] == 1]
    dims = [d for d in dims if not (isinstance(g.shape[d], int) and g.shape[d] == 1)]
    return (g.sum(dims, keepdim=True) if dims else g).to(like.dtype)


def _common_dtype(tensors):
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    if not dtype.is_floating_point:
        return torch.get_default_dtype()
    return torch.float32 if dtype.itemsize < 4 else dtype  # half precision cannot hold what a solver returns


def _evaluate(handle, tensors):
    """Outputs for theta of common depth, in their common dtype."""
    dtype = _common_dtype(tensors)
    return _apply(handle, "forward", *(t.to(dtype) for t in tensors))[: len(handle.map.out_sizes)]


@torch.compiler.allow_in_graph
def _evaluate_in_graph(key, *tensors):
    handle = _TRACED[key] = _find(key)
    return _evaluate(handle, tensors)


def lift(diffmap: DiffMap):
    """A DiffMap as a torch function with backward, forward mode, vmap and compile.

    The function takes tensors (lead..., in_sizes[i]), all with the same number of leading dimensions, each 1 or the
    batch's size, and returns a tuple of tensors (lead..., out_sizes[k]) in their dtype and on their device.
    """
    handle = _Handle(diffmap)

    def function(*tensors):
        return _evaluate_in_graph(handle.key, *tensors) if torch.compiler.is_compiling() else _evaluate(handle, tensors)

    return function


def _evaluate_layer(handle, values):
    """CvxpyLayer's call: check shapes and devices, flatten, evaluate, restore shapes."""
    layer = handle.map
    values = [_as_tensor(v, i, layer.parameters) for i, v in enumerate(values)]
    leads = leading_dims([v.shape for v in values], layer.parameters)
    if len({v.device for v in values}) > 1:
        raise ShapeError(f"the values are on different devices: {', '.join(str(v.device) for v in values)}; move them to one")
    theta = [_flat(v, (*lead, p.size), p) for v, p, lead in zip(values, layer.parameters, leads, strict=True)]
    if theta:
        results = _evaluate(handle, theta)
    else:
        results = [torch.from_numpy(r).to(torch.get_default_dtype()) for r in layer.forward()[0]]
    return tuple(_shaped(r, o) for r, o in zip(results, layer.outputs, strict=True))


@torch.compiler.allow_in_graph
def _evaluate_layer_in_graph(key, options, *values):
    handle = _find(key).variant(dict(options))
    _TRACED[handle.key] = handle
    return _evaluate_layer(handle, values)


class CvxpyLayer(nn.Module):
    """The solution of a parametrized CVXPY problem as a function of its parameters.

    problem: a DPP problem (a log-log convex one with gp=True). parameters: all of its cp.Parameter, in the order of the
    call. variables: what to return: cp.Variable, or dual variables of constraints (`constraint.dual_variables[0]`).
    solver: "moreau", "clarabel", "scs", "ecos", "diffcp", or None for the best that is installed. solver_args: its options.
    derivative: "implicit" (exact), or "diffcp" (the reference implementation, slow). The keywords params=, out= and
    out_vars= stand for parameters= and variables=.

    Example:
        >>> import cvxpy as cp, torch
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
        >>> layer(torch.tensor([1.0, -1.0], dtype=torch.float64))[0].round(decimals=6)
        tensor([1., 0.], dtype=torch.float64)

    Raises ProblemError if the problem has no layer, with the offending expression.
    """

    def __init__(
        self,
        problem,
        parameters=None,
        variables=None,
        solver=None,
        gp=False,
        solver_args=None,
        *,
        derivative="implicit",
        params=None,
        out=None,
        out_vars=None,
    ):
        super().__init__()
        if isinstance(solver, bool):  # cvxpylayers 0.1 has gp in this place
            solver, gp = None, solver
        parameters = _one_of("parameters", parameters=parameters, params=params)
        variables = _one_of("variables", variables=variables, out=out, out_vars=out_vars)
        self._handle = _Handle(
            ConeLayer(problem, parameters, variables, solver=solver, gp=gp, solver_args=solver_args, derivative=derivative)
        )

    def forward(self, *values, solver_args=None):
        """Solve for these parameter values.

        values: one tensor for each parameter, of its shape or with leading batch dimensions, which broadcast as in NumPy.
        Returns a tuple, one tensor (batch..., *shape) for each variable, in the dtype and on the device of the values.
        solver_args: options for this call. Raises ShapeError, ProblemError for values that break a declared attribute,
        SolverError for infeasible, unbounded or failed items, naming them.
        """
        if torch.compiler.is_compiling():
            return _evaluate_layer_in_graph(self._handle.key, tuple((solver_args or {}).items()), *values)
        return _evaluate_layer(self._handle.variant(solver_args), values)

    def extra_repr(self):
        m = self._handle.map
        inputs = ", ".join(f"{p.name}{list(p.shape)}" for p in m.parameters)
        outputs = ", ".join(f"{o.name}{list(o.shape)}" for o in m.outputs)
        return f"({inputs}) -> ({outputs}); n={m.structure.n}, cones: {m.structure.cones}, solver: {m.solvers[0].name}"


def _one_of(name, **spellings):
    given = [v for v in spellings.values() if v is not None]
    if len(given) != 1:
        raise ProblemError(f"pass {name}=[...] once; got it {len(given)} times (spellings: {', '.join(spellings)})")
    if not isinstance(given[0], (list, tuple)):
        raise ProblemError(f"{name} is a {type(given[0]).__name__}; expected a list")
    return list(given[0])


def _as_tensor(value, position, parameters):
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            found = type(value).__name__
            raise ShapeError(f"{_argument(position, parameters)} is a {found}; expected a tensor: {error}") from error
    if value.layout != torch.strided:
        raise ShapeError(f"{_argument(position, parameters)} is a sparse tensor; expected a dense one (.to_dense())")
    return value


def _argument(position, parameters):
    return (
        f"parameter {parameters[position].name!r} (position {position})" if position < len(parameters) else f"value {position}"
    )


def _flat(value, shape, info):
    value = _real(value, info)
    return value if value.shape == shape else value.reshape(shape)  # a view costs as much as a matrix product here


def _real(value, info):
    if value.is_complex() != info.complex:
        found, expected = ("complex", "real") if value.is_complex() else ("real", "complex")
        raise ShapeError(f"parameter {info.name!r} (position {info.position}) got a {found} tensor; expected a {expected} one")
    return torch.view_as_real(value.resolve_conj()) if info.complex else value


def _shaped(result, info):
    lead = result.shape[:-1]
    if info.complex:
        return torch.view_as_complex(result.reshape((*lead, *info.shape, 2)))
    return result if len(info.shape) == 1 else result.reshape((*lead, *info.shape))
