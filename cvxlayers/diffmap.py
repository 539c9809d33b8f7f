"""The waist of the library: a differentiable map between arrays, and all that an adapter knows about it.

    forward(*inputs) -> outputs, saved         saved: a tuple of arrays, nothing else, so that jit, vmap and pickle work
    jvp(saved, *tangents) -> output tangents   vjp(saved, *cotangents) -> input cotangents
    laws: both are linear; <c, jvp(t)> = <vjp(c), t>; no hidden state; the same result from any thread

and optionally, for second derivatives:

    jvp2(saved, s, t) -> the second derivative of the outputs along s and t
    vjp2(saved, t, c) -> the gradient of <c, jvp(t)> with respect to the inputs, t and c fixed
    laws: both are linear in either argument; jvp2(s, t) = jvp2(t, s); <c, jvp2(s, t)> = <vjp2(t, c), s>

Arrays are (lead..., k) as described in `batching`. vjp and vjp2 may return the broadcast leading dimensions of the call;
the adapter sums those of inputs that were broadcast.

A *host* map takes and returns float64 NumPy arrays. A *native* map is written against the array API standard (the
namespace is `array_api_compat.array_namespace(*inputs)`), and gets the arrays of the framework, on their device, in their
dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple


class Saved(NamedTuple):
    """A saved array: its size k, and which inputs its leading dimensions come from."""

    size: int
    inputs: tuple[int, ...]


class DiffMap(ABC):
    """inputs (..., in_sizes[i]) -> outputs (..., out_sizes[k])."""

    in_sizes: tuple[int, ...]
    out_sizes: tuple[int, ...]
    saved: tuple[Saved, ...]
    native = False  # whether it takes arrays of any namespace
    loops = False  # whether a native map iterates until it has converged: for torch.compile it is one operation
    second_order = False  # whether it has jvp2 and vjp2
    typed: int | None = None  # how many of the inputs decide on the dtype; None: all
    fresh = False  # whether derivatives, and all results of a native map, are held by nobody else, so that none is copied

    def check(self, *inputs):  # noqa: B027 - most maps have an answer for all inputs
        """Raise SolverError, naming the items, for inputs of a native map without a solution.

        It is called where the inputs have values. In compiled code the outputs of such items are NaN.
        """

    def verify(self, outputs, saved):  # noqa: B027 - most maps know before, from their inputs
        """Raise SolverError, naming the items, for results of a native map that are no solutions; called like `check`."""

    @abstractmethod
    def forward(self, *inputs):
        """Outputs, and what the derivatives need."""

    @abstractmethod
    def jvp(self, saved, *tangents):
        """Tangents of the outputs."""

    @abstractmethod
    def vjp(self, saved, *cotangents):
        """Cotangents of the inputs."""

    def jvp2(self, saved, s, t):
        """Second derivatives of the outputs along s and t, two tuples of tangents."""
        raise NotImplementedError(f"{type(self).__name__} has no second derivatives")

    def vjp2(self, saved, t, c):
        """The gradient of <c, jvp(t)> in the inputs, for a tuple of tangents t and a tuple of cotangents c."""
        raise NotImplementedError(f"{type(self).__name__} has no second derivatives")

    def fingerprint(self) -> str | None:
        """A digest of everything that the results depend on, the same in every process; None if there is no such thing.

        Graphs that outlive the process (torch.export, compiler caches) know a map by its fingerprint.
        """
        return None
