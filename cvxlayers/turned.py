"""U'A on a pattern of its own: A in the eigenvectors of D, which mix the rows of each curved cone.

Every row of a cone gets all columns in which one of the cone's rows has an entry; the rows of polyhedral cones stay as
they are. The pattern depends on the structure alone, so that batches of K have one plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_NOISE = 4e-15  # entries of U'A that are smaller, relative to A, are what cancellation leaves of a zero
_NOISE_ROW = 1e-11  # so are whole rows of it; eigenvectors and solutions have errors, too


class _Block(NamedTuple):
    """Equal neighbouring cones: gather (count, dim, width), where their entries are in A (nnz: nowhere); kept, of the same
    shape, which of them are in the pattern."""

    gather: np.ndarray
    kept: np.ndarray


class Turned:
    """rows, cols: the pattern of U'A, sorted by rows and columns. A: a Pattern; cones: (rows, count) of the curved ones."""

    def __init__(self, A, cones):
        self.flat = A.indptr[cones[0][0].start] if cones else A.nnz  # entries of the polyhedral rows, which come first
        self.blocks = []
        rows, cols = [A.rows[: self.flat]], [A.cols[: self.flat]]
        for where, count in cones:
            dim = (where.stop - where.start) // count
            entries = [np.arange(A.indptr[where.start + k * dim], A.indptr[where.start + (k + 1) * dim]) for k in range(count)]
            columns = [np.unique(A.cols[e]) for e in entries]
            width = max(c.size for c in columns)
            gather = np.full((count, dim, width), A.nnz)
            kept = np.zeros((count, dim, width), bool)
            names = np.zeros((count, dim, width), np.int64)
            for k, (e, c) in enumerate(zip(entries, columns, strict=True)):
                gather[k, A.rows[e] - where.start - k * dim, np.searchsorted(c, A.cols[e])] = e
                kept[k, :, : c.size], names[k, :, : c.size] = True, c
            lines = np.broadcast_to(where.start + np.arange(count * dim).reshape(count, dim, 1), names.shape)
            rows.append(lines[kept])
            cols.append(names[kept])
            self.blocks.append(_Block(gather, kept))
        self.rows, self.cols = np.concatenate(rows), np.concatenate(cols)

    def values(self, spectrum, root, A):
        """diag(root) U'A: root (..., m), A (..., nnz) -> (..., entries of the pattern)."""
        parts = getattr(spectrum, "parts", ())
        padded = np.concatenate([A, np.zeros((*A.shape[:-1], 1))], -1)
        out = [A[..., : self.flat]]
        for block, (_, _, turn) in zip(self.blocks, parts, strict=True):
            M = padded[..., block.gather]
            size = np.abs(M).max((-1, -2), initial=0)[..., None, None]
            M = turn.to(M)
            entries = np.abs(M)
            noise = np.where(entries.max(-1, initial=0, keepdims=True) > _NOISE_ROW * size, _NOISE, _NOISE_ROW) * size
            out.append(np.where(entries > noise, M, 0)[..., block.kept])
        lead = np.broadcast_shapes(*(a.shape[:-1] for a in out))
        return root[..., self.rows] * np.concatenate([np.broadcast_to(a, lead + a.shape[-1:]) for a in out], -1)
