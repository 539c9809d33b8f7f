"""What a cone K must offer: the projection onto its dual cone, and the derivative of that projection.

With v = y - s (Moreau):  y = proj_K*(v),  s = proj_K(-v) = y - v,  y's = 0.
The derivative D of proj_K* at v is symmetric with eigenvalues in [0, 1]: D = U diag(d) U', U orthogonal.
In the basis U every cone looks like an orthant: d = 1 is an active row, d = 0 an inactive one, between them lies curvature.

All arrays are (..., dim): any number of leading dimensions, the last one holds the rows of one cone.
At a kink, where D does not exist, an element of the Clarke derivative is returned: the limit from the side d = 0.

Second derivatives need the derivative of D itself, T(v)[a, h] = d/de D(v + e a) h at e = 0. The projection is the gradient
of a function of v, so T is symmetric in a, h and a third vector. It is zero for polyhedral cones. Where D has a kink T
belongs to the same side as D, and on the faces of a cone, where D is an element of the Clarke derivative, T is zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

APEX = 2.0**-330  # T grows like 1/|v|; closer to the apex than this is at the apex, so that nothing overflows


class Spectrum(ABC):
    """D = U diag(d) U' at a point. d: (..., dim). Matrices M are (..., dim, c): c columns at once."""

    d: np.ndarray

    @abstractmethod
    def to(self, M):
        """U'M."""

    @abstractmethod
    def back(self, M):
        """U M."""

    def packed(self) -> tuple[int, np.ndarray] | None:
        """U in numbers, for `native.ops.turn`: (0, U) or (1, sign and h of a reflection); None: it is neither."""
        return None

    def apply(self, h):
        """D h, for h (..., dim)."""
        return self.back(self.d[..., None] * self.to(h[..., None]))[..., 0]

    @abstractmethod
    def third(self, a, h):
        """T(v)[a, h], for a and h (..., dim)."""


class Diagonal(Spectrum):
    """U = I: polyhedral cones."""

    def __init__(self, d):
        self.d = d

    def to(self, M):
        return M

    def back(self, M):
        return M

    def third(self, a, h):
        return np.zeros(np.broadcast_shapes(self.d.shape, a.shape, h.shape))


class Cone(ABC):
    """A cone of `dim` rows. center (dim,): a direction inside of K and of K*, as far as they have an inside."""

    dim: int
    center: np.ndarray

    @abstractmethod
    def project(self, v):
        """y = proj_K*(v), (..., dim) -> (..., dim)."""

    @abstractmethod
    def spectrum(self, v) -> Spectrum:
        """The spectral decomposition of D = d proj_K* / dv at v."""
