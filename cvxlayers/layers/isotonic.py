"""Isotonic regression with arrays: argmin |u - t|^2 subject to u_1 <= ... <= u_n averages t over blocks of neighbours.

The regression of two neighbouring halves is known from that of each: what violates the order at the seam gets one value v,

    u_left = min(left, v), u_right = max(right, v)      sum max(left - v, 0) = sum max(v - right, 0)

so that log2(n) levels, each for all pairs of halves at once, do it for any t. v is the root of a decreasing piecewise linear
function: Newton's method between bounds. (Best, Chakravarti 1990, on active sets of isotonic regression.)
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from ..loops import iterate


def regression(t):
    """u: (..., n) -> (..., n), finite. Entries of one block are equal to the last bit."""
    xp = array_namespace(t)
    lead, n = t.shape[:-1], t.shape[-1]
    if n < 2:
        return t
    size = 1 << (n - 1).bit_length()
    top = xp.broadcast_to(xp.max(t, axis=-1, keepdims=True), (*lead, size - n))  # which the others never reach
    u, half = xp.concat([t, top], axis=-1), 1
    while half < size:
        pairs = xp.reshape(u, (*lead, size // (2 * half), 2, half))
        left, right = pairs[..., 0, :], pairs[..., 1, :]
        v = _seam(xp, left, right)
        u = xp.reshape(xp.stack([xp.minimum(left, v), xp.maximum(right, v)], axis=-2), (*lead, size))
        half *= 2
    return u[..., :n]


def _seam(xp, left, right):
    """v: (..., h), (..., h) -> (..., 1), for nondecreasing left and right; anything between them if there is no violation."""

    def step(going, v, low, high):
        excess = xp.sum(xp.clip(left - v, min=0) - xp.clip(v - right, min=0), axis=-1, keepdims=True)
        count = xp.sum(xp.astype(left > v, v.dtype) + xp.astype(right < v, v.dtype), axis=-1, keepdims=True)
        low, high = xp.where(excess > 0, v, low), xp.where(excess < 0, v, high)
        newton = v + excess / xp.clip(count, min=1)
        moved = xp.where((low < newton) & (newton < high), newton, low / 2 + high / 2)
        going = going & (newton != v) & (low < moved) & (moved < high)
        return going, xp.where(going, moved, v), low, high

    low, high = right[..., :1], left[..., -1:]
    if left.shape[-1] == 1:
        return low / 2 + high / 2
    most = 2 * left.shape[-1] + 64  # two steps of Newton's method without a kink between them are the last ones
    return iterate(step, (high > low, low / 2 + high / 2, low, high), most)[1]


def blocks(u):
    """(first, last): where the run of equal entries, in which an entry of a nondecreasing u is, begins and ends, as numbers
    of the dtype of u."""
    xp = array_namespace(u)
    n, place = u.shape[-1], places(u)
    rises = u[..., 1:] > u[..., :-1]
    none = xp.zeros_like(u[..., :1])
    begins = xp.concat([none, xp.where(rises, place[1:], none)], axis=-1)
    ends = xp.concat([xp.where(rises, n - 1 - place[:-1], none), none], axis=-1)
    marks = xp.stack([begins, xp.flip(ends, axis=-1)], axis=-2)
    found = _accumulated(xp.maximum, marks, places(u) + xp.zeros_like(marks))
    return found[..., 0, :], n - 1 - xp.flip(found[..., 1, :], axis=-1)


def block_means(c, first, last):
    """The means of c over blocks. No differences of long sums: those of float32 would have few digits left."""
    xp = array_namespace(c)
    c, first, last = xp.broadcast_arrays(c, first, last)
    return taken(_accumulated(xp.add, c, places(c) - first), last) / (last - first + 1)


def _accumulated(combine, a, before):
    """Each entry of a combined with as many before it as `before` says, by spans of double length."""
    xp = array_namespace(a)
    place, n = places(a), a.shape[-1]

    def step(going, span, a):
        other = taken(a, xp.clip(place - span, min=0))
        return going & (2 * span < n), 2 * span, xp.where(before >= span, combine(a, other), a)

    span = xp.ones_like(a[..., :1])
    return iterate(step, (span < n, span, a), n.bit_length())[2]


def places(a):
    """0, 1, ..., n - 1 in the dtype, and on the device, of a."""
    xp = array_namespace(a)
    return xp.arange(a.shape[-1], dtype=a.dtype, device=device(a))


def taken(a, order):
    """Entries at places that are numbers of the dtype of a."""
    xp = array_namespace(a)
    index = xp.__array_namespace_info__().default_dtypes()["indexing"]
    return xp.take_along_axis(*xp.broadcast_arrays(a, xp.astype(order, index)), axis=-1)


def put(a, order):
    """Entries put back to where `taken` took them from."""
    xp = array_namespace(a)
    return xp.take_along_axis(*xp.broadcast_arrays(a, xp.argsort(order, axis=-1)), axis=-1)
