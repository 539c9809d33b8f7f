"""What is known about each parameter, and the check of its values that precedes every solve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import ProblemError

_ROUNDING = 1e-6  # relative: float32 inputs and finite differences pass, a wrong matrix does not
_SIGNS = {
    "pos": (lambda a: a >= 0, "nonnegative"),
    "nonneg": (lambda a: a >= 0, "nonnegative"),
    "neg": (lambda a: a <= 0, "nonpositive"),
    "nonpos": (lambda a: a <= 0, "nonpositive"),
}


@dataclass(frozen=True)
class ParameterInfo:
    """name, position among the arguments and shape of a parameter; whether it is complex (stored as pairs of real numbers
    in the last axis); the declared attribute that its values must obey ("pos", "nonneg", "neg", "nonpos", "PSD", "NSD" or
    None); whether its logarithm is taken (base parameters of geometric programs)."""

    name: str
    position: int
    shape: tuple[int, ...]
    complex: bool = False
    declared: str | None = None
    log: bool = False

    @property
    def size(self) -> int:
        """Real numbers in one value."""
        return math.prod(self.shape) * (2 if self.complex else 1)

    def check(self, value) -> None:
        """Raise ProblemError if value (..., size) is not finite or breaks the declared attribute, which is what makes the
        problem convex; the message names the items of the batch."""
        finite = np.isfinite(value)
        if not finite.all():
            self._fail(~finite.all(-1), "has a value that is NaN or infinite")
        if self.log and not (value > 0).all():
            self._fail(~(value > 0).all(-1), "has a value that is not positive; geometric programs take its logarithm")
        if self.declared in _SIGNS:
            holds, word = _SIGNS[self.declared]
            good = holds(value)
            if not good.all():
                self._fail(
                    ~good.all(-1),
                    f"is declared {self.declared}=True and has a value that is not {word}; the problem would not be convex",
                )
        elif self.declared in ("PSD", "NSD"):
            self._check_definite(value)

    def _check_definite(self, value):
        if self.complex:
            pairs = value.reshape(*value.shape[:-1], *self.shape, 2)
            matrix = pairs[..., 0] + 1j * pairs[..., 1]
        else:
            matrix = value.reshape(*value.shape[:-1], *self.shape)
        l = np.linalg.eigvalsh((matrix + np.conj(np.swapaxes(matrix, -1, -2))) / 2)
        worst = l[..., 0] if self.declared == "PSD" else -l[..., -1]
        bad = worst < -_ROUNDING * np.abs(l).max(-1)
        if bad.any():
            word = "positive" if self.declared == "PSD" else "negative"
            bad = bad.reshape(value.shape[:-1] + (-1,)).any(-1)
            self._fail(
                bad,
                f"is declared {self.declared}=True and has a value that is not {word} semidefinite "
                f"(an eigenvalue of the wrong sign, {worst.min():.3g}); the problem would not be convex",
            )

    def _fail(self, bad, what):
        items = "" if bad.size == 1 else f" in batch items {_listed(np.flatnonzero(bad.ravel()))}"
        raise ProblemError(f"parameter {self.name!r} (position {self.position}) {what}{items}")


def _listed(items, most=10):
    text = ", ".join(map(str, items[:most]))
    return f"{text}, ... ({len(items)} in all)" if len(items) > most else text
