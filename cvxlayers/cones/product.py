"""The product cone: equal neighbours of one kind are one array operation."""

from itertools import groupby

import numpy as np

from .base import Cone, Diagonal, Spectrum
from .exp import Exp
from .nonneg import NonNeg
from .power import Power
from .psd import PSD
from .soc import SOC
from .zero import Zero


class _Blocks(Spectrum):
    """Block-diagonal U. Polyhedral rows, which come first, are left as they are."""

    def __init__(self, d, parts):
        self.d, self.parts = d, parts

    def _each(self, M, name):
        if not self.parts:
            return M
        out = [M[..., : self.parts[0][0].start, :]]
        for rows, count, spec in self.parts:
            block = M[..., rows, :]
            block = block.reshape(*block.shape[:-2], count, block.shape[-2] // count, block.shape[-1])
            block = getattr(spec, name)(block)
            out.append(block.reshape(*block.shape[:-3], block.shape[-3] * block.shape[-2], block.shape[-1]))
        lead = np.broadcast_shapes(*(b.shape[:-2] for b in out))
        return np.concatenate([np.broadcast_to(b, lead + b.shape[-2:]) for b in out], -2)

    def to(self, M):
        return self._each(M, "to")

    def back(self, M):
        return self._each(M, "back")

    def third(self, a, h):
        out = np.zeros(np.broadcast_shapes(self.d.shape, a.shape, h.shape))
        for rows, count, spec in self.parts:
            a_rows, h_rows = (x[..., rows].reshape(*x.shape[:-1], count, -1) for x in (a, h))
            out[..., rows] = spec.third(a_rows, h_rows).reshape(*out.shape[:-1], -1)
        return out


class ProductCone(Cone):
    """K of a `ConeDims`: zero, nonneg, soc, psd, exp, power.

    blocks: list of (cone, rows, count): `count` equal cones on the rows of a slice.
    """

    def __init__(self, dims):
        runs: list[tuple[Cone, int]] = [(Zero(dims.zero), 1)] * bool(dims.zero) + [(NonNeg(dims.nonneg), 1)] * bool(dims.nonneg)
        runs += [(SOC(k), len(list(run))) for k, run in groupby(dims.soc)]
        runs += [(PSD(k), len(list(run))) for k, run in groupby(dims.psd)]
        runs += [(Exp(), dims.exp)] * bool(dims.exp)
        runs += [(Power(alpha), len(list(run))) for alpha, run in groupby(dims.power)]
        self.blocks, start = [], 0
        for cone, count in runs:
            self.blocks.append((cone, slice(start, start + cone.dim * count), count))
            start += cone.dim * count
        self.dim = start
        self.center = np.concatenate([np.tile(cone.center, count) for cone, _, count in self.blocks] or [np.zeros(0)])
        self.curved = [block for block in self.blocks if not isinstance(block[0], (Zero, NonNeg))]
        self.polyhedral = not self.curved

    @staticmethod
    def _split(v, cone, rows, count):
        return v[..., rows].reshape(*v.shape[:-1], count, cone.dim)

    def project(self, v):
        y = np.empty(v.shape)
        for cone, rows, count in self.blocks:
            y[..., rows] = cone.project(self._split(v, cone, rows, count)).reshape(*v.shape[:-1], cone.dim * count)
        return y

    def products(self, s, y):
        """The sum of |s| |y| over the curved cones (...), whose inner product is zero."""
        total = np.zeros(s.shape[:-1])
        for cone, rows, count in self.curved:
            s_norms, y_norms = (np.linalg.norm(self._split(a, cone, rows, count), axis=-1) for a in (s, y))
            total += (s_norms * y_norms).sum(-1)
        return total

    def at_kink(self, v, distance):
        """Whether D jumps within `distance` (...) of v (..., m): there it is one of several derivatives. A step along a
        direction inside of K and K* crosses every boundary between the pieces of the projection."""
        jump = np.zeros(v.shape[:-1])
        for cone, rows, count in self.blocks:
            step = distance[..., None, None] * cone.center
            part = self._split(v, cone, rows, count)
            before, after = (np.sort(cone.spectrum(part + sign * step).d, -1) for sign in (-1, 1))
            jump = np.maximum(jump, np.abs(after - before).max((-1, -2), initial=0))
        return jump > 0.1

    def spectrum(self, v):
        d, parts = np.empty(v.shape), []
        for cone, rows, count in self.blocks:
            spec = cone.spectrum(self._split(v, cone, rows, count))
            d[..., rows] = spec.d.reshape(*v.shape[:-1], cone.dim * count)
            if not isinstance(spec, Diagonal):
                parts.append((rows, count, spec))
        return _Blocks(d, parts) if parts else Diagonal(d)
