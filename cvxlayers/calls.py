"""The calls that an adapter makes to a DiffMap, and how differentiation turns them into each other.

    kind        arguments                       results                     linear in
    forward     theta                           outputs, saved
    jvp         theta, saved, t                 output tangents             t
    vjp         theta, saved, c                 input cotangents            c
    jvp2        theta, saved, s, t              output tangents             s and t
    vjp2        theta, saved, t, c              input cotangents            t and c

s and t are like the inputs theta, c is like the outputs. All kinds but forward read `saved`; they take theta for the sake of
their derivative with respect to it. The five are closed under transposition and, up to the second order, under
differentiation. These rules are all that an adapter needs for every transformation of its framework.
"""

from __future__ import annotations

import numpy as np

from .batching import common
from .errors import ShapeError

_GROUPS = {"forward": "", "jvp": "i", "vjp": "o", "jvp2": "ii", "vjp2": "io"}  # like the inputs or like the outputs


def split(diffmap, kind, args):
    """The arguments as (theta, saved, linear groups)."""
    i, o, k = len(diffmap.in_sizes), len(diffmap.out_sizes), len(diffmap.saved)
    theta, saved, rest = tuple(args[:i]), tuple(args[i : i + k]), tuple(args[i + k :])
    groups = []
    for like in _GROUPS[kind]:
        count = i if like == "i" else o
        groups.append(rest[:count])
        rest = rest[count:]
    return theta, saved, groups


def joined(groups):
    """The groups as one list of arguments."""
    return [a for group in groups for a in group]


def result_sizes(diffmap, kind):
    """Sizes of the results, without `saved`."""
    return diffmap.in_sizes if kind.startswith("vjp") else diffmap.out_sizes


def check_inputs(diffmap, inputs):
    """Raise ShapeError unless there is one array (lead..., k) for each input, all with the same number of dimensions."""
    found, name = [tuple(a.shape) for a in inputs], type(diffmap).__name__
    sizes = diffmap.in_sizes
    if len(found) != len(sizes):
        raise ShapeError(f"{name} got {len(found)} inputs; expected {len(sizes)}")
    if any(not shape or shape[-1] != k for shape, k in zip(found, sizes, strict=True)) or len({len(f) for f in found}) > 1:
        expected = ", ".join(f"(..., {k})" for k in sizes)
        raise ShapeError(f"{name} got inputs of the shapes {found}; expected {expected} with equally many dimensions")


def shapes(diffmap, kind, leads, broadcast=common):
    """(shapes of the results, shapes of `saved`) for arguments with these leading dimensions."""
    try:
        lead = broadcast(leads)
    except ValueError as error:
        raise ShapeError(f"the batch dimensions do not broadcast; found {[tuple(lead) for lead in leads]}") from error
    results = [(*lead, k) for k in result_sizes(diffmap, kind)]
    if kind != "forward":
        return results, []
    one = (1,) * len(lead)
    return results, [(*(broadcast([leads[i] for i in s.inputs]) if s.inputs else one), s.size) for s in diffmap.saved]


def call(diffmap, kind, args):
    """The computation itself, for arguments without theta where `saved` is there: (results, saved).

    Raises ShapeError if the map does not keep what it has declared.
    """
    if kind == "forward":
        results, state = diffmap.forward(*args)
        _check_sizes(diffmap, "what `forward` saves", state, [s.size for s in diffmap.saved])
    else:
        k, i, state = len(diffmap.saved), len(diffmap.in_sizes), ()
        saved, rest = tuple(args[:k]), tuple(args[k:])
        method = getattr(diffmap, kind)  # the first group of jvp2 and vjp2 is like the inputs
        results = method(saved, rest[:i], rest[i:]) if kind.endswith("2") else method(saved, *rest)
    _check_sizes(diffmap, f"what `{kind}` returns", results, result_sizes(diffmap, kind))
    return results, state


def _check_sizes(diffmap, what, arrays, sizes):
    found = [a.shape[-1] if a.ndim else None for a in arrays]
    if found != list(sizes):
        raise ShapeError(f"{type(diffmap).__name__}: {what} has the sizes {found} in its last axes; expected {list(sizes)}")


def call_on_host(diffmap, kind, args, want):
    """`call` with float64 NumPy arrays, results of the shapes `want`; an empty batch asks nothing of the map."""
    results_shapes, saved_shapes = want
    if any(0 in shape[:-1] for shape in results_shapes):
        return [np.zeros(shape) for shape in results_shapes], [np.zeros(shape) for shape in saved_shapes]
    args = [np.asarray(a, np.float64) for a in args]
    if kind == "forward":
        diffmap.check(*args)
    results, saved = call(diffmap, kind, args)
    if kind == "forward":
        diffmap.verify(results, saved)
    return _full(results, results_shapes), _full(saved, saved_shapes)


def _full(arrays, want):
    """Arrays of the shapes `want`; of one that occurs twice only the first may keep its memory, so the others are views."""
    seen: set[int] = set()
    full = []
    for a, shape in zip(arrays, want, strict=True):
        a = a if a.shape == shape else np.broadcast_to(a, shape)
        full.append(a[...] if id(a) in seen else a)
        seen.add(id(a))
    return full


def transposed(kind, groups, c):
    """For each linear group the call (kind, groups) that is the adjoint of this one in that group, applied to c.

    <c, jvp(t)> = <vjp(c), t>      <c, jvp2(s, t)> = <vjp2(t, c), s>      <c, vjp2(t, g)> = <vjp2(c, g), t> = <jvp2(t, c), g>
    """
    if kind in ("jvp", "vjp"):
        return [("vjp" if kind == "jvp" else "jvp", (c,))]
    first, second = groups
    if kind == "jvp2":
        return [("vjp2", (second, c)), ("vjp2", (first, c))]
    return [("vjp2", (c, second)), ("jvp2", (first, c))]


def differential(diffmap, kind, groups, dtheta, dgroups):
    """The calls (kind, groups) whose sum is the derivative of this one along dtheta and dgroups, None for what stays."""
    calls = []
    if dtheta is not None:
        check_order(diffmap, kind)
        calls.append(({"forward": "jvp", "jvp": "jvp2", "vjp": "vjp2"}[kind], (dtheta, *groups)))
    for k, dgroup in enumerate(dgroups):
        if dgroup is not None:
            calls.append((kind, (*groups[:k], dgroup, *groups[k + 1 :])))
    return calls


def gradient(diffmap, kind, groups, c):
    """The call that is the gradient, in theta, of the inner product of c with the results of this one."""
    check_order(diffmap, kind)
    if kind == "forward":
        return "vjp", (c,)
    return "vjp2", ((*groups, c) if kind == "jvp" else (c, *groups))


def differentiable(diffmap, kind):
    """Whether a call has a derivative in theta."""
    return kind == "forward" or (diffmap.second_order and not kind.endswith("2"))


def check_order(diffmap, kind):
    """Raise NotImplementedError, with the reason, if a call has no derivative in theta."""
    if kind.endswith("2"):
        raise NotImplementedError("cvxlayers: third derivatives of a layer are not available")
    if not differentiable(diffmap, kind):
        raise NotImplementedError(
            f"cvxlayers: this layer has no second derivatives, since its {type(diffmap).__name__} has no jvp2 and vjp2 "
            f"(a layer with derivative='implicit' has them)"
        )
