"""Loops until convergence, for native maps: one spelling for arrays that have values and for arrays that are traced."""

from __future__ import annotations

from collections.abc import Callable

from array_api_compat import array_namespace

LOOPS: dict[str, Callable] = {}  # by the name of an array namespace; an adapter enters its own here if it has one


def iterate(step, state, most):
    """The state after `state = step(*state)` while any entry of its first array is true, at most `most` times.

    state: a tuple of arrays, the first of them boolean; a step returns arrays of the same shapes and dtypes.
    """
    return LOOPS.get(array_namespace(state[0]).__name__, _while)(step, tuple(state), most)


def _while(step, state, most):
    for _ in range(most):
        if not state[0].any():
            break
        state = step(*state)
    return state
