"""Shapes: any number of leading batch dimensions, broadcast as NumPy does.

Every array that crosses a `DiffMap` is (lead..., k), and all arrays of one call have the same number of leading
dimensions, each 1 or the batch's size. What does not vary over a batch keeps a 1 there and is never copied.
"""

from __future__ import annotations

import math

import numpy as np

from .errors import ShapeError


def leading_dims(shapes, parameters) -> list[tuple[int, ...]]:
    """The leading dimensions of each value, given the shapes of the values and the layer's parameters.

    All results have the same length; missing ones are 1. parameters: objects with `name`, `position` and `shape`.
    Raises ShapeError if a value does not end in its parameter's shape, or if the leading dimensions do not broadcast.
    """
    if len(shapes) != len(parameters):
        names = ", ".join(repr(p.name) for p in parameters)
        raise ShapeError(f"the layer got {len(shapes)} values; expected {len(parameters)}, one for each parameter: {names}")
    leads = []
    for shape, p in zip(shapes, parameters, strict=True):
        shape, k = tuple(shape), len(p.shape)
        if len(shape) < k or shape[len(shape) - k :] != p.shape:
            batch = ", ".join(["...", *map(str, p.shape)])
            raise ShapeError(
                f"parameter {p.name!r} (position {p.position}) has shape {shape}; expected {p.shape}, or ({batch}) for a batch"
            )
        leads.append(shape[: len(shape) - k])
    depth = max([0, *map(len, leads)])
    leads = [(1,) * (depth - len(lead)) + lead for lead in leads]
    for d in range(depth):
        size = 1
        for lead in leads:
            if lead[d] is None:  # TensorFlow will know it when the graph runs
                continue
            if lead[d] != 1 and size not in (1, lead[d]):
                found = ", ".join([f"{p.name!r}: {tuple(s)}" for p, s in zip(parameters, shapes, strict=True)])
                raise ShapeError(f"the batch dimensions of the parameters do not broadcast; found {found}")
            size = lead[d] if lead[d] != 1 else size
    return leads


def common(leads):
    """The leading dimensions to which these broadcast: at once where all are the same. Raises ValueError."""
    return leads[0] if leads and leads.count(leads[0]) == len(leads) else np.broadcast_shapes(*leads)


def flatten(arrays):
    """(lead, arrays as (1, k) or (B, k)), B the product of the broadcast leading dimensions.

    An array stays at 1 if all of its leading dimensions are 1; else it is expanded to the whole batch.
    """
    lead = common([a.shape[:-1] for a in arrays])
    flat: list[np.ndarray] = []
    for a in arrays:
        if a.size == a.shape[-1] and math.prod(a.shape[:-1]) == 1:
            flat.append(a.reshape(1, a.shape[-1]))
        else:
            flat.append(np.broadcast_to(a, lead + a.shape[-1:]).reshape(math.prod(lead), a.shape[-1]))
    return lead, flat
