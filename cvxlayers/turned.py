"""U'A on a pattern of its own: A in the eigenvectors of D, which mix the rows of each curved cone.

Every row of a cone gets all columns in which one of the cone's rows has an entry; the rows of polyhedral cones stay as
they are. The pattern depends on the structure alone, so that batches of K have one plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .memory import empty
from .native import ops
from .threads import workers

_NOISE = 4e-15  # entries of U'A that are smaller, relative to A, are what cancellation leaves of a zero
_NOISE_ROW = 1e-11  # so are whole rows of it; eigenvectors and solutions have errors, too


class _Block(NamedTuple):
    """Equal neighbouring cones: gather (count, dim, width), where their entries are in A (-1: nowhere); kept, of the same
    shape, which of them are in the pattern; rows (size,), the rows of those."""

    gather: np.ndarray
    kept: np.ndarray
    rows: np.ndarray

    @property
    def size(self):
        """How many entries."""
        return self.rows.size


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
            gather = np.full((count, dim, width), -1)
            kept = np.zeros((count, dim, width), bool)
            names = np.zeros((count, dim, width), np.int64)
            for k, (e, c) in enumerate(zip(entries, columns, strict=True)):
                gather[k, A.rows[e] - where.start - k * dim, np.searchsorted(c, A.cols[e])] = e
                kept[k, :, : c.size], names[k, :, : c.size] = True, c
            lines = np.broadcast_to(where.start + np.arange(count * dim).reshape(count, dim, 1), names.shape)
            rows.append(lines[kept])
            cols.append(names[kept])
            self.blocks.append(_Block(gather, kept, lines[kept]))
        self.rows, self.cols = np.concatenate(rows), np.concatenate(cols)

    def values(self, spectrum, root, A):
        """diag(root) U'A: root (..., m), A (..., nnz) -> (..., entries of the pattern)."""
        parts = getattr(spectrum, "parts", ())
        out = empty((*np.broadcast_shapes(A.shape[:-1], root.shape[:-1]), self.rows.size))
        np.multiply(root[..., self.rows[: self.flat]], A[..., : self.flat], out=out[..., : self.flat])
        padded, start = None, self.flat
        for block, (rows, _, turn) in zip(self.blocks, parts, strict=True):
            mine = out[..., start : start + block.size]
            start += block.size
            if ops.turn(mine, turn.packed(), block, _NOISE, _NOISE_ROW, A, root[..., rows], workers()):
                continue
            padded = np.concatenate([A, np.zeros((*A.shape[:-1], 1))], -1) if padded is None else padded
            M = padded[..., block.gather]
            size = np.abs(M).max((-1, -2), initial=0)[..., None, None]
            M = turn.to(M)
            entries = np.abs(M)
            noise = np.where(entries.max(-1, initial=0, keepdims=True) > _NOISE_ROW * size, _NOISE, _NOISE_ROW) * size
            np.multiply(root[..., block.rows], np.where(entries > noise, M, 0)[..., block.kept], out=mine)
        return out
