"""What is known about each parameter, and the check of its values that precedes every solve."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import ProblemError, listed
from .threads import blas_for, each_slice

SIGNS = {"pos": 1, "nonneg": 1, "boolean": 1, "neg": -1, "nonpos": -1}  # those that CVXPY's rules of convexity use
DECLARED = (*SIGNS, "PSD", "NSD")


@dataclass(frozen=True)
class ParameterInfo:
    """name, position among the arguments (None if the layer computes it from others) and shape of a parameter; whether it
    is complex (stored as pairs of real numbers in the last axis); the declared attributes that its values must obey, of
    `DECLARED`; whether its logarithm is taken (base parameters of geometric programs)."""

    name: str
    position: int | None
    shape: tuple[int, ...]
    complex: bool = False
    declared: tuple[str, ...] = ()
    log: bool = False

    @cached_property
    def size(self) -> int:
        """Real numbers in one value."""
        return math.prod(self.shape) * (2 if self.complex else 1)

    def check(self, value, bad=None):
        """value (..., size), with entries of the wrong sign that rounding explains set to zero.

        Raises ProblemError if it is not finite or breaks a declared attribute, which is what makes the problem convex; the
        message names the items of the batch. With a mask `bad` (...) such items are marked in it instead, and hold a
        harmless value.
        """
        finite = np.isfinite(value)
        if not finite.all():
            value = self._reject(value, ~finite.all(-1), "has a value that is NaN or infinite" + self._domain(), bad)
        if self.log and not (value > 0).all():
            what = "has a value that is not positive; geometric programs take its logarithm"
            value = self._reject(value, ~(value > 0).all(-1), what, bad)
        for attribute in self.declared:
            value = (self._check_sign if attribute in SIGNS else self._check_definite)(attribute, value, bad)
        return value

    def _check_sign(self, attribute, value, bad):
        wrong = -SIGNS[attribute] * value
        if (wrong > 0).any():
            far = wrong.max(-1, initial=0) > 1e-12 + _rounding(value) * np.abs(value).max(-1, initial=0)
            if far.any():
                word = "nonnegative" if SIGNS[attribute] > 0 else "nonpositive"
                what = f"{self._declared(attribute)} and has a value that is not {word}; the problem would not be convex"
                value = self._reject(value, far, what, bad)
            value = np.where(wrong > 0, 0.0, value)  # -1e-18 is enough to make a problem unbounded
        return value

    def _check_definite(self, attribute, value, bad):
        if self.complex:
            pairs = value.reshape(*value.shape[:-1], *self.shape, 2)
            matrix = pairs[..., 0] + 1j * pairs[..., 1]
        else:
            matrix = value.reshape(*value.shape[:-1], *self.shape)
        worst = definite_violation(matrix if attribute == "PSD" else -matrix)
        if not (worst > 0).any():
            return value
        word = "positive" if attribute == "PSD" else "negative"
        what = (
            f"{self._declared(attribute)} and has a value that is not {word} semidefinite (an eigenvalue of the wrong "
            f"sign, {worst.max():.3g} in magnitude); the problem would not be convex"
        )
        return self._reject(value, (worst > 0).reshape(*value.shape[:-1], -1).any(-1), what, bad)

    def _declared(self, attribute):
        return f"is declared {attribute}=True" if self.position is not None else f"counts as {attribute}"

    def _domain(self):
        return "" if self.position is not None else ", since its parameters are outside of its domain"

    def _reject(self, value, items, what, bad):
        """Raise, or mark the items in `bad` and give them a value that obeys every attribute."""
        if bad is None:
            where = "" if items.size == 1 else f" in batch items {listed(np.flatnonzero(items).tolist())}"
            place = f"parameter {self.name!r} (position {self.position})"
            raise ProblemError(f"{place if self.position is not None else f'the expression {self.name}'} {what}{where}")
        bad |= items
        return np.where(items[..., None], 1.0 if self.log else 0.0, value)


def definite_violation(matrix, symmetric=False):
    """By how much the symmetric part of each matrix (..., k, k) has negative eigenvalues; 0 where rounding explains them.

    symmetric: the matrices are known to be symmetric.
    """
    if not symmetric:
        matrix = (matrix + np.conj(np.swapaxes(matrix, -1, -2))) / 2
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    try:  # ten times as fast as eigenvalues
        if flat.size > 4096:
            each_slice(lambda some: np.linalg.cholesky(flat[some]), len(flat))
        else:
            np.linalg.cholesky(flat)
        return np.zeros(matrix.shape[:-2])
    except np.linalg.LinAlgError:
        with blas_for(matrix.shape[-1]) if flat.size > 4096 else nullcontext():
            l = np.linalg.eigvalsh(matrix)
    lowest = l.min(-1, initial=0)
    return np.where(lowest < -_rounding(matrix) * np.abs(l).max(-1, initial=0), -lowest, 0.0)


def _rounding(value):
    """The relative error that a value may have: of float32 if all its entries are float32 numbers, else of float64."""
    single = np.complex64 if np.iscomplexobj(value) else np.float32
    with np.errstate(over="ignore"):
        return 1e-6 if (value == value.astype(single)).all() else 1e-10
