"""The waist of the library: a differentiable map between arrays, and all that an adapter knows about it.

    forward(*inputs) -> outputs, saved         saved: a tuple of arrays, nothing else, so that jit, vmap and pickle work
    jvp(saved, *tangents) -> output tangents   vjp(saved, *cotangents) -> input cotangents
    laws: both are linear; <c, jvp(t)> = <vjp(c), t>; no hidden state; the same result from any thread

Arrays are float64 NumPy arrays (lead..., k) as described in `batching`. vjp returns cotangents with the broadcast leading
dimensions of the call; the adapter sums those of inputs that were broadcast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np


class Saved(NamedTuple):
    """A saved array: its size k, and which inputs its leading dimensions come from."""

    size: int
    inputs: tuple[int, ...]


class DiffMap(ABC):
    """inputs (..., in_sizes[i]) -> outputs (..., out_sizes[k])."""

    in_sizes: tuple[int, ...]
    out_sizes: tuple[int, ...]
    saved: tuple[Saved, ...]

    @abstractmethod
    def forward(self, *inputs: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Outputs, and what the derivatives need."""

    def fingerprint(self) -> str | None:
        """A digest of everything that the results depend on, the same in every process; None if there is no such thing.

        Graphs that outlive the process (torch.export, compiler caches) know a map by its fingerprint.
        """
        return None

    @abstractmethod
    def jvp(self, saved, *tangents: np.ndarray) -> tuple[np.ndarray, ...]:
        """Tangents of the outputs."""

    @abstractmethod
    def vjp(self, saved, *cotangents: np.ndarray) -> tuple[np.ndarray, ...]:
        """Cotangents of the inputs."""
