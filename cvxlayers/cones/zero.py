"""K = {0}, K* = R: equality rows. proj_K*(v) = v, D = I."""

import numpy as np

from .base import Cone, Diagonal


class Zero(Cone):
    """`dim` equality rows."""

    def __init__(self, dim):
        self.dim, self.center = dim, np.zeros(dim)

    def project(self, v):
        return v

    def spectrum(self, v):
        return Diagonal(np.ones_like(v))
