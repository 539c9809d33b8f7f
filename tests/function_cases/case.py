"""One case of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """function: its name. items: several tuples of arguments, NumPy arrays without leading dimensions, at which it is
    differentiable; they make the batch. options: keywords. fixed: positions of arguments without derivatives (labels).
    axis: whether the function takes axis= and its first argument is a vector. tolerance: of gradients against differences.
    single: of float32 results against float64 ones. second: whether second derivatives exist (else they raise). call: what
    to call instead, with the framework's module before the arguments (to make an object of them). along: positions of the
    arguments whose vectors are along axis=, if not all."""

    function: str
    items: tuple
    options: dict = {}
    fixed: tuple = ()
    axis: bool = False
    tolerance: float = 1e-6
    single: float = 1e-4
    second: bool = False
    call: Callable | None = None
    along: tuple | None = None

    def varying(self):
        """Positions of the arguments with derivatives."""
        return [i for i in range(len(self.items[0])) if i not in self.fixed]

    def batch(self, shared=()):
        """All items as one batch; arguments at the positions `shared` are those of the first item, without a batch."""
        return [
            self.items[0][i] if i in shared else np.stack([item[i] for item in self.items]) for i in range(len(self.items[0]))
        ]
