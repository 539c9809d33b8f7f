"""Between the arrays of a user and the waist: axes, leading dimensions and numbers, in one place for all functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import ShapeError


class Arrays(Protocol):
    """What a framework lends to the functions: its own operations, which it can differentiate. Shapes may have entries that
    only it understands, such as sizes that are known when a graph runs."""

    def asarray(self, value, like=None) -> Any:
        """An array; Python numbers in the floating dtype, and on the device, of the array `like`."""

    def shape(self, x) -> tuple:
        """The shape; what it has, `reshape` and `broadcast_to` take."""

    def floating(self, x) -> Any:
        """The array in the dtype that maps compute in, the one of their results."""

    def reshape(self, x, shape) -> Any:
        """In C order."""

    def moveaxis(self, x, source, destination) -> Any:
        """As in NumPy."""

    def broadcast_to(self, x, shape) -> Any:
        """As in NumPy."""

    @property
    def gumbel(self) -> Callable[..., Any]:
        """(shape, like, **randomness): independent standard Gumbel variables of the dtype, and on the device, of the array
        `like`; the framework says which keywords there are."""

    def matmul(self, a, b) -> Any:
        """As in NumPy, for matrices."""

    def inverse(self, a) -> Any:
        """Of matrices."""

    def cast(self, x, like) -> Any:
        """An array, or one of NumPy, in the dtype and on the device of another."""

    def values(self, x) -> Any:
        """As an array of NumPy; None where it has no values yet."""

    def on_host(self, x) -> bool:
        """Whether the array is in the memory of the CPU; one that is traced: whether it will be."""

    def apply(self, diffmap, *arrays) -> tuple:
        """The outputs of a DiffMap for arrays (lead..., k) of equally many dimensions."""


class Base:
    """The functions of one framework."""

    def __init__(self, arrays: Arrays):
        self._arrays = arrays

    def _all(self, *values):
        """Arrays; numbers take the dtype of the arrays beside them."""
        number = (bool, int, float, list, tuple)
        found = [None if isinstance(v, number) else self._arrays.asarray(v) for v in values]
        like = next((a for a in found if a is not None), None)
        return [self._arrays.asarray(v, like) if a is None else a for v, a in zip(values, found, strict=True)]

    def _apply(self, diffmap, *arrays):
        """`apply` for arrays whose leading dimensions broadcast as in NumPy."""
        if len(arrays) == 1:
            return self._arrays.apply(diffmap, *arrays)
        depths = [len(a.shape) for a in arrays]
        depth = max(depths)
        for d in range(2, min(depths) + 1):
            if len({a.shape[-d] for a in arrays if isinstance(a.shape[-d], int)} - {1}) > 1:
                shapes = ", ".join(str(tuple(a.shape[:-1])) for a in arrays)
                raise ShapeError(f"the leading dimensions do not broadcast; found {shapes}")
        return self._arrays.apply(diffmap, *(self._deepened(a, depth) for a in arrays))

    def _deepened(self, a, depth):
        missing = depth - len(a.shape)
        return self._arrays.reshape(a, (1,) * missing + self._arrays.shape(a)) if missing else a

    def _vectors(self, make, vectors, scalars, axis, dim, least=1):
        """The outputs of the map make(n) for vectors along an axis, and scalars: one for each vector, or one for all.

        axis, dim: two names of it, of which the user takes one; counted in the first vector. The first vector says what n is;
        others may be single numbers. The outputs have the vectors' axis where the first one has it. least: the smallest n that
        the map takes.
        """
        axis = axis_of(vectors[0], axis, dim)
        n = size_of(vectors[0], axis, least)
        own = [self._last(v, n, axis) for v in vectors]
        for v in own[1:]:
            if v.shape[-1] != n:
                raise ShapeError(
                    f"found vectors of the lengths {n} and {v.shape[-1]} along axis {axis}; expected equal ones, or a number"
                )
        depth = max(len(v.shape) for v in own)
        outputs = self._apply(make(n), *own, *(self._with_axis(s, depth) for s in scalars))
        return tuple(o if axis == -1 else self._arrays.moveaxis(o, -1, axis) for o in outputs)

    def _last(self, v, n, axis):
        if len(v.shape) == 0:
            return self._arrays.broadcast_to(v, (n,))
        if -axis > len(v.shape):
            raise ShapeError(f"an array of shape {tuple(v.shape)} has no axis {axis}")
        return v if axis == -1 else self._arrays.moveaxis(v, axis, -1)

    def _with_axis(self, s, depth=1):
        return self._arrays.reshape(s, (*self._arrays.shape(s), 1) if len(s.shape) else (1,) * depth)

    def _merged(self, x, count):
        """The last `count` axes as one."""
        shape = self._arrays.shape(x)
        size = math.prod(size_of(x, -d) for d in range(1, count + 1))
        return self._arrays.reshape(x, (*shape[: len(shape) - count], size))

    def _split(self, x, shape):
        """The last axis as several."""
        return self._arrays.reshape(x, (*self._arrays.shape(x)[:-1], *shape))


def size_of(x, axis, least=0):
    """The length of an axis that a map works on, a number. Raises ShapeError if it is not known, or less than `least`."""
    if x.shape[axis] is None:
        raise ShapeError(f"axis {axis} of an array of shape {tuple(x.shape)} has an unknown length; set its shape")
    size = int(x.shape[axis])  # a symbolic one of torch.compile becomes a number here, too
    if size < least:
        raise ShapeError(f"axis {axis} of an array of shape {tuple(x.shape)} has the length {size}; expected at least {least}")
    return size


def axis_of(x, axis, dim):
    """The axis, negative. Raises ShapeError if x does not have it."""
    if dim is not None:
        axis = dim
    rank = len(x.shape)
    if not -rank <= axis < rank:
        raise ShapeError(f"an array of shape {tuple(x.shape)} has no axis {axis}")
    return axis - rank if axis >= 0 else axis
