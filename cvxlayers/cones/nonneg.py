"""K = K* = R+: inequality rows. proj_K*(v) = max(v, 0), D = diag(1[v > 0])."""

import numpy as np

from .base import Cone, Diagonal


class NonNeg(Cone):
    """`dim` inequality rows."""

    def __init__(self, dim):
        self.dim, self.center = dim, np.ones(dim)

    def project(self, v):
        return np.maximum(v, 0)

    def spectrum(self, v):
        return Diagonal((v > 0).astype(np.float64))
