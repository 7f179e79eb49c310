"""The rank-local compressed-row pattern of a matrix made of atom blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.data.ragged import distinct_rows

__all__ = ["BlockPattern"]


@dataclass(frozen=True)
class BlockPattern:
    """Sorted, unique blocks (i, j) of the rows that this rank owns, and where their elements lie in compressed rows.

    All rows of an atom share their columns, so an element's position follows from three numbers per block; no index per
    element is stored.

    Attributes:
        indptr: (local rows + 1,) int64.
        indices: (local non-zeros,) int64, global columns, ascending within each row.
        base: (blocks,) int64, position in `indices` of each block's first element.
        stride: (blocks,) int64, non-zeros of one row of the block's atom.
    """

    indptr: np.ndarray
    indices: np.ndarray
    base: np.ndarray
    stride: np.ndarray

    @classmethod
    def build(
        cls, row_atom: np.ndarray, atom_rows: np.ndarray, columns: np.ndarray, widths: np.ndarray
    ) -> BlockPattern:
        """Lay out blocks sorted by (row_atom, columns).

        Args:
            row_atom: (blocks,) local index of the block's row atom, ascending; every local atom occurs.
            atom_rows: (local atoms,) rows of each local atom.
            columns: (blocks,) first global column of each block, ascending within a row atom.
            widths: (blocks,) columns of each block.
        """
        lengths = np.bincount(row_atom, weights=widths, minlength=len(atom_rows)).astype(np.int64)
        sizes = lengths * atom_rows
        starts = np.cumsum(sizes) - sizes
        indptr = np.concatenate([[0], np.cumsum(np.repeat(lengths, atom_rows))]).astype(np.int64)
        within_row = np.cumsum(widths) - widths
        first_of_atom = np.cumsum(lengths) - lengths
        base = starts[row_atom] + within_row - first_of_atom[row_atom]
        pattern = cls(indptr, np.empty(indptr[-1], dtype=np.int64), base.astype(np.int64), lengths[row_atom])
        for height, width in distinct_rows(np.stack([atom_rows[row_atom], widths], axis=1))[0]:
            blocks = np.flatnonzero((atom_rows[row_atom] == height) & (widths == width))
            values = np.broadcast_to(
                columns[blocks, None, None] + np.arange(width), (len(blocks), int(height), int(width))
            )
            pattern.scatter(pattern.indices, blocks, values)
        return pattern

    def scatter(self, data: np.ndarray, blocks: np.ndarray, values: np.ndarray) -> None:
        """Write `values` (n, rows, columns) of the blocks numbered `blocks` (n,) to their places in `data`."""
        rows, columns = np.arange(values.shape[1]), np.arange(values.shape[2])
        step = max(1, 2**21 // max(1, values.shape[1] * values.shape[2]))  # bounds the temporary index array to 16 MB
        for begin in range(0, len(blocks), step):
            part = blocks[begin : begin + step]
            row_start = self.base[part, None] + rows * self.stride[part, None]
            data[row_start[:, :, None] + columns] = values[begin : begin + step]
