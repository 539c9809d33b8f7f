"""What is known about each parameter, and the check of its values that precedes every solve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import ProblemError, listed

_SIGNS = {"pos": 1, "nonneg": 1, "neg": -1, "nonpos": -1}
DECLARED = (*_SIGNS, "PSD", "NSD")


@dataclass(frozen=True)
class ParameterInfo:
    """name, position among the arguments and shape of a parameter; whether it is complex (stored as pairs of real numbers
    in the last axis); the declared attributes that its values must obey, of `DECLARED`; whether its logarithm is taken
    (base parameters of geometric programs)."""

    name: str
    position: int
    shape: tuple[int, ...]
    complex: bool = False
    declared: tuple[str, ...] = ()
    log: bool = False

    @property
    def size(self) -> int:
        """Real numbers in one value."""
        return math.prod(self.shape) * (2 if self.complex else 1)

    def check(self, value):
        """value (..., size), with entries of the wrong sign that rounding explains set to zero.

        Raises ProblemError if it is not finite or breaks a declared attribute, which is what makes the problem convex; the
        message names the items of the batch.
        """
        finite = np.isfinite(value)
        if not finite.all():
            self._fail(~finite.all(-1), "has a value that is NaN or infinite")
        if self.log and not (value > 0).all():
            self._fail(~(value > 0).all(-1), "has a value that is not positive; geometric programs take its logarithm")
        for attribute in self.declared:
            if attribute in _SIGNS:
                value = self._check_sign(attribute, value)
            else:
                self._check_definite(attribute, value)
        return value

    def _check_sign(self, attribute, value):
        wrong = -_SIGNS[attribute] * value
        if (wrong > 0).any():
            bad = wrong.max(-1, initial=0) > 1e-12 + _rounding(value) * np.abs(value).max(-1, initial=0)
            if bad.any():
                word = "nonnegative" if _SIGNS[attribute] > 0 else "nonpositive"
                self._fail(
                    bad, f"is declared {attribute}=True and has a value that is not {word}; the problem would not be convex"
                )
            value = np.where(wrong > 0, 0.0, value)  # -1e-18 is enough to make a problem unbounded
        return value

    def _check_definite(self, attribute, value):
        if self.complex:
            pairs = value.reshape(*value.shape[:-1], *self.shape, 2)
            matrix = pairs[..., 0] + 1j * pairs[..., 1]
        else:
            matrix = value.reshape(*value.shape[:-1], *self.shape)
        worst = definite_violation(matrix if attribute == "PSD" else -matrix)
        bad = worst > 0
        if bad.any():
            word = "positive" if attribute == "PSD" else "negative"
            what = f"an eigenvalue of the wrong sign, {worst.max():.3g} in magnitude"
            self._fail(
                bad.reshape(*value.shape[:-1], -1).any(-1),
                f"is declared {attribute}=True and has a value that is not {word} semidefinite ({what}); "
                f"the problem would not be convex",
            )

    def _fail(self, bad, what):
        items = "" if bad.size == 1 else f" in batch items {listed(np.flatnonzero(bad).tolist())}"
        raise ProblemError(f"parameter {self.name!r} (position {self.position}) {what}{items}")


def definite_violation(matrix):
    """By how much the symmetric part of each matrix (..., k, k) has negative eigenvalues; 0 where rounding explains them."""
    l = np.linalg.eigvalsh((matrix + np.conj(np.swapaxes(matrix, -1, -2))) / 2)
    lowest = l.min(-1, initial=0)
    return np.where(lowest < -_rounding(matrix) * np.abs(l).max(-1, initial=0), -lowest, 0.0)


def _rounding(value):
    """The relative error that a value may have: of float32 if all its entries are float32 numbers, else of float64."""
    single = np.complex64 if np.iscomplexobj(value) else np.float32
    with np.errstate(over="ignore"):
        return 1e-6 if (value == value.astype(single)).all() else 1e-10
