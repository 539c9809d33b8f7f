"""`lift` turns any DiffMap into a function with all of JAX's transformations.

The mechanism is one primitive with the parameters (handle, kind) and with the rules of every transformation. Its
computation is plain NumPy when eager, so that exceptions arrive as they are, and a callback in compiled code; that of a
native map is the map itself, traced. What a host map has saved is float64 also where JAX has no float64: it travels
as its bits, in unsigned integers, which nobody can differentiate by accident.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..calls import call, call_on_host, check_inputs, differential, joined, result_sizes, shapes, split, transposed
from ..diffmap import DiffMap
from ..factors import FACTORS
from ..handles import Handle
from ..loops import LOOPS

try:  # where among several devices a callback runs: JAX does not publish its rule
    from jax._src.callback import _callback_op_sharding as op_sharding
except ImportError:
    op_sharding = None  # type: ignore[assignment]

_BITS = np.dtype(np.uint32)


class JaxHandle(Handle):
    """Equal maps are one to the compiler: a copied or unpickled layer finds what was compiled for the original."""

    def __init__(self, diffmap):
        super().__init__(diffmap)
        self.names = tuple(p.name for p in getattr(diffmap, "parameters", ()))  # which stand in errors

    def __eq__(self, other):
        return type(other) is JaxHandle and (self.key, self.names) == (other.key, other.names)

    def __hash__(self):
        return hash(self.key)


_host = Primitive("cvxlayers_host")
_host.multiple_results = True


def _axes(array):
    """The axes of a shard_map over which an array varies (JAX 0.6: .vma, 0.10: .mat.varying)."""
    kind = jax.typeof(array)
    return frozenset(getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", None) or ())


def _bind(handle, kind, *args):
    """The call `kind` of the map, with operands that all vary over the same axes of a shard_map.

    If they did not, the results would be taken for replicated, and the gradient of a replicated parameter would be
    silently wrong: that is what happens with a bare pure_callback.
    """
    axes = frozenset().union(*map(_axes, args))
    return _host.bind(*(_vary(a, axes - _axes(a)) for a in args), handle=handle, kind=kind)


def _vary(array, axes):
    if not axes:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, tuple(axes), to="varying")
    return jax.lax.pvary(array, tuple(axes))  # type: ignore[attr-defined]


def _results(diffmap, kind, args):
    """(shape, dtype) of each result, for arrays or abstract values."""
    dtype = args[0].dtype
    want, saved = shapes(diffmap, kind, [a.shape[:-1] for a in args])
    if not saved:
        return tuple((s, dtype) for s in want)
    if diffmap.native:
        _, found = jax.eval_shape(lambda *a: call(diffmap, kind, a), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args))
        return (*((s, dtype) for s in want), *((s, f.dtype) for s, f in zip(saved, found, strict=True)))
    return (*((s, dtype) for s in want), *(((*lead, 2 * k), _BITS) for *lead, k in saved))


def _use(diffmap, kind, args):
    return args if kind == "forward" else args[len(diffmap.in_sizes) :]


class _OnHost(NamedTuple):
    """The computation in NumPy. What a host map has saved is bits, and with `bits` everything else of float64 is, too."""

    handle: JaxHandle
    kind: str
    dtype: np.dtype
    want: tuple
    bits: bool = False

    def __call__(self, *args):
        arrays = [np.ascontiguousarray(a).view(np.float64) if a.dtype == _BITS else a for a in map(np.asarray, args)]
        count = len(result_sizes(self.handle.map, self.kind))
        float64 = [s for s, _ in self.want[:count]], [(*lead, k // 2) for (*lead, k), _ in self.want[count:]]
        results, saved = call_on_host(self.handle.map, self.kind, arrays, float64)
        results = [_bits(a) if self.bits else a.astype(self.dtype, copy=False) for a in results]
        return [*results, *map(_bits, saved)]


def _bits(array):
    return np.ascontiguousarray(array, np.float64).view(_BITS)


def _native(*args, handle, kind):
    want = _results(handle.map, kind, args)
    results, saved = call(handle.map, kind, _use(handle.map, kind, args))
    pairs = zip((*results, *saved), want, strict=True)
    return [jnp.broadcast_to(jnp.asarray(a, dtype), shape) for a, (shape, dtype) in pairs]


_native_compiled = jax.jit(_native, static_argnames=("handle", "kind"))  # one by one its operations take far longer


def _loop(step, state, most):
    def body(carry):
        return carry[0] + 1, tuple(step(*carry[1]))

    return jax.lax.while_loop(lambda carry: (carry[0] < most) & jnp.any(carry[1][0]), body, (0, state))[1]


def _cholesky(M):
    L = jnp.linalg.cholesky(M)
    return L, jnp.isfinite(L[..., -1:, -1])


def _cholesky_solve(L, r):
    lead = jnp.broadcast_shapes(L.shape[:-2], r.shape[:-2])
    L, r = (jnp.broadcast_to(a, lead + a.shape[-2:]) for a in (L, r))
    return jax.scipy.linalg.cho_solve((L, True), r)


LOOPS[jnp.__name__] = _loop
FACTORS[jnp.__name__] = (_cholesky, _cholesky_solve)


@_host.def_impl
def _eager(*args, handle, kind):
    if handle.map.native:
        if kind == "forward":
            handle.map.check(*args)
        out = _native_compiled(*args, handle=handle, kind=kind)
        if kind == "forward":
            count = len(handle.map.out_sizes)
            handle.map.verify(out[:count], out[count:])
        return out
    want = _results(handle.map, kind, args)
    use = _use(handle.map, kind, args)
    results = _OnHost(handle, kind, args[0].dtype, want)(*use)
    device = next((a.device for a in args if getattr(a, "committed", False) and len(a.devices()) == 1), None)
    return jax.device_put([np.array(r) for r in results], device)  # copied: an argument may be among the results


def _compiled(*args, handle, kind):
    if handle.map.native:
        return _native(*args, handle=handle, kind=kind)
    want = _results(handle.map, kind, args)
    use, dtype = _use(handle.map, kind, args), args[0].dtype
    if dtype != np.float64:
        return _callback.bind(*use, function=_OnHost(handle, kind, dtype, want), results=want)
    # All of it crosses as bits: under `with jax.enable_x64(True)` a callback runs in a thread where x64 is off, and JAX
    # would round float64 to float32 on both sides of it.
    bits = tuple((s if d == _BITS else (*s[:-1], 2 * s[-1]), _BITS) for s, d in want)
    found = _callback.bind(*map(_to_bits, use), function=_OnHost(handle, kind, dtype, want, bits=True), results=bits)
    return [a if d == _BITS else _from_bits(a, s) for a, (s, d) in zip(found, want, strict=True)]


def _to_bits(a):
    if a.dtype == _BITS:
        return a
    return jax.lax.bitcast_convert_type(a, _BITS).reshape(*a.shape[:-1], 2 * a.shape[-1])


def _from_bits(a, shape):
    return jax.lax.bitcast_convert_type(a.reshape(*shape, 2), jnp.float64)


mlir.register_lowering(_host, mlir.lower_fun(_compiled, multiple_results=True))

_callback = Primitive("cvxlayers_callback")
_callback.multiple_results = True


@_callback.def_abstract_eval
def _callback_results(*args, function, results):
    return _abstract_values(args[0], results)


def _pure_callback(*args, function, results):
    return jax.pure_callback(function, [jax.ShapeDtypeStruct(s, d) for s, d in results], *args)


_lower_pure_callback = mlir.lower_fun(_pure_callback, multiple_results=True)


def _lower_callback(ctx, *operands, function, results):
    """On the CPU the function itself, which gets NumPy arrays. `jax.pure_callback` puts them on a device before, which
    takes time, and with several devices it waits for threads that are all in callbacks. It is the way elsewhere."""
    if op_sharding is None or tuple(ctx.module_context.platforms) != ("cpu",):
        return _lower_pure_callback(ctx, *operands, function=function, results=results)
    sharding = op_sharding(ctx.module_context.axis_context, None, ctx.avals_out)
    out, _, _ = mlir.emit_python_callback(
        ctx, function, None, operands, ctx.avals_in, ctx.avals_out, has_side_effect=False, sharding=sharding
    )
    return out


mlir.register_lowering(_callback, _lower_callback)


@_host.def_abstract_eval
def _abstract(*args, handle, kind):
    return _abstract_values(args[0], _results(handle.map, kind, args))


def _abstract_values(like, results):
    # `update` keeps what else an abstract value knows, such as the axes over which it varies.
    return [like.update(shape=s, dtype=np.dtype(d), weak_type=False) for s, d in results]


def _batch(args, dims, *, handle, kind):
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    moved = [jnp.expand_dims(a, 0) if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)]
    out = _bind(handle, kind, *moved)
    batched = [o.shape[0] == size for o in out]  # saved data that the batch does not touch have a 1
    return [o if b else o[0] for o, b in zip(out, batched, strict=True)], [0 if b else None for b in batched]


batching.primitive_batchers[_host] = _batch


def _moves(tangent):
    return type(tangent) is not ad.Zero and tangent.dtype != float0


def _filled(arrays, sizes, like):
    """Tangents or cotangents with zeros, of leading dimensions 1, in place of symbolic ones."""
    lead = (1,) * (like.ndim - 1)
    return [a if _moves(a) else jnp.zeros((*lead, k), like.dtype) for a, k in zip(arrays, sizes, strict=True)]


def _jvp(args, tangents, *, handle, kind):
    theta, saved, groups = split(handle.map, kind, args)
    dtheta, _, dgroups = split(handle.map, kind, tangents)
    out = _bind(handle, kind, *args)
    if kind == "forward":
        saved = out[len(handle.map.out_sizes) :]
    dtheta, *dgroups = (
        _filled(own, [a.shape[-1] for a in like], theta[0]) if any(map(_moves, own)) else None
        for own, like in zip((dtheta, *dgroups), (theta, *groups), strict=True)
    )
    calls = differential(handle.map, kind, groups, dtheta, dgroups)
    found = [_bind(handle, kind, *theta, *saved, *joined(rest)) for kind, rest in calls]
    total = [sum(terms[1:], terms[0]) for terms in zip(*found, strict=True)]
    total = [t if t.shape == o.shape else jnp.broadcast_to(t, o.shape) for t, o in zip(total, out, strict=False)]
    return out, total + [ad.Zero(jax.typeof(o).to_tangent_aval()) for o in out[len(total) :]]


ad.primitive_jvps[_host] = _jvp


def _transpose(cotangents, *args, handle, kind):
    theta, saved, groups = split(handle.map, kind, args)
    out: list = [None] * len(args)
    live = next((c for c in cotangents if type(c) is not ad.Zero), None)
    if live is None:
        return out
    c = _filled(cotangents, result_sizes(handle.map, kind), live)
    k = next(k for k, group in enumerate(groups) if any(map(ad.is_undefined_primal, group)))
    kind, rest = transposed(kind, groups, c)[k]
    start = len(theta) + len(saved) + sum(map(len, groups[:k]))
    for j, g in enumerate(_bind(handle, kind, *theta, *saved, *joined(rest))):
        like = args[start + j]
        if ad.is_undefined_primal(like):
            out[start + j] = _unbroadcast(g, like.aval.shape)
    return out


ad.primitive_transposes[_host] = _transpose


def _unbroadcast(g, shape):
    axes = tuple(d for d in range(g.ndim) if g.shape[d] != shape[d])
    return jnp.sum(g, axes, keepdims=True) if axes else g


def evaluate(handle, arrays):
    """Outputs for theta of common depth, in their common dtype."""
    dtype = common_dtype(arrays[: handle.map.typed])
    theta = [a if a.dtype == dtype and not a.weak_type else jax.lax.convert_element_type(a, dtype) for a in arrays]
    return tuple(_bind(handle, "forward", *theta)[: len(handle.map.out_sizes)])


def common_dtype(arrays):
    strong = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact) and not a.weak_type]
    dtype = jnp.result_type(*strong) if strong else jnp.result_type(float)
    dtype = jnp.finfo(dtype).dtype  # the real one of a complex one
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)  # half precision cannot hold what a solver returns


def lift(diffmap: DiffMap):
    """A DiffMap as a JAX function, under every transformation.

    The function takes arrays (lead..., in_sizes[i]), all with the same number of leading dimensions, each 1 or the
    batch's size, and returns a tuple of arrays (lead..., out_sizes[k]) in their dtype.
    Raises ShapeError for other shapes; lift itself raises ProblemError for what is no DiffMap.
    """
    handle = JaxHandle(diffmap)

    def function(*arrays):
        converted = [jnp.asarray(a) for a in arrays]
        check_inputs(diffmap, converted)
        return evaluate(handle, converted)

    return function
