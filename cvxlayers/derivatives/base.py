"""The contract of a way to differentiate: derivatives of the solution (x, y) with respect to the data (P, q, A, b)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real
from typing import ClassVar

import numpy as np

from ..errors import ProblemError
from ..ladder import Solved
from ..program import ConeData, Structure


class Derivative(ABC):
    """One way to differentiate the programs of one structure. The arrays may have any leading dimensions that broadcast.

    Class attributes: `name`; `quadratic`, whether the program may have P; `second_order`, whether there are jvp2 and vjp2;
    `needs`, which blocks of the data are saved; `options`, its keywords with their default values, positive numbers.
    extra: the sizes of further saved arrays. saved = (the blocks of `needs`, x, v, y, the further arrays). All of it is in
    the units of the item (see `units`): data, solution, tangents and cotangents.
    solvers: the ladder, for derivatives that solve again.
    """

    name: ClassVar[str]
    quadratic: ClassVar[bool] = True
    second_order: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("P", "A")
    options: ClassVar[dict[str, float]] = {}
    extra: tuple[int, ...] = ()

    def __init__(self, structure: Structure, solvers=(), **options):
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            names = ", ".join(self.options) or "none"
            raise ProblemError(f"derivative={self.name!r} has no option {unknown[0]!r}; it has: {names}")
        self.structure, self.solvers = structure, solvers
        self.settings = {**self.options, **options}
        for key, value in self.settings.items():
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < np.inf:
                raise ProblemError(f"derivative={self.name!r}: {key} is {value!r}; expected a positive number")

    def extras(self, solved: Solved, data: ConeData, unit) -> tuple:
        """The further arrays to save of a flat batch, (B, extra[i]). unit (B|1, 2): (beta, gamma) of each item."""
        return ()

    @abstractmethod
    def jvp(self, saved, dP, dq, dA, db):
        """(dx, dy)."""

    @abstractmethod
    def vjp(self, saved, gx, gy):
        """(gP, gq, gA, gb); gy None is zero."""

    def jvp2(self, saved, s, t):
        """(x'', y'') along the tangents s and t of the data, where `second_order`."""
        raise NotImplementedError(f"derivative={self.name!r} has no second derivatives")

    def vjp2(self, saved, t, gx, gy):
        """(gP, gq, gA, gb) of <gx, dx> + <gy, dy>, (dx, dy) the tangents along t, where `second_order`."""
        raise NotImplementedError(f"derivative={self.name!r} has no second derivatives")

    def __str__(self):
        return ", ".join([self.name, *(f"{k} = {v:g}" for k, v in self.settings.items())])
