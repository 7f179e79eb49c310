"""Moving many small blocks of several shapes between flat arrays, without a loop over blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["copy_blocks", "get_blocks", "put_blocks", "transpose_blocks"]

CHUNK = 1 << 18  # elements in flight


def transpose_blocks(
    source: np.ndarray,
    source_offsets: np.ndarray,
    target: np.ndarray,
    target_offsets: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Write the conjugate transposes of n row-major blocks of `source` into `target`.

    Args:
        source: flat array.
        source_offsets: (n,) where each block (rows, columns) starts.
        target: flat array; may be `source` when no block is both read and written.
        target_offsets: (n,) where each block (columns, rows) starts.
        rows: (n,) rows of the blocks in `source`.
        columns: (n,) their columns.
    """
    for shape, blocks in _groups(rows, columns):
        size = shape[0] * shape[1]
        values = get_blocks(source, source_offsets[blocks], size).reshape(-1, *shape)
        flipped = values.swapaxes(1, 2).conj().reshape(-1, size)
        put_blocks(target, target_offsets[blocks], flipped)


def copy_blocks(
    source: np.ndarray, source_offsets: np.ndarray, target: np.ndarray, target_offsets: np.ndarray, sizes: np.ndarray
) -> None:
    """Copy n blocks of `sizes` (n,) elements from offsets (n,) of one flat array to offsets (n,) of another."""
    for (size, _), blocks in _groups(sizes, np.ones_like(sizes)):
        values = get_blocks(source, source_offsets[blocks], size)
        put_blocks(target, target_offsets[blocks], values)


def get_blocks(source: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    """Blocks (n, size) from `offsets` (n,) of a flat array: whole rows at a time, much faster than by indices of elements."""
    return sliding_window_view(source, size)[offsets] if len(offsets) else np.empty((0, size), dtype=source.dtype)


def put_blocks(target: np.ndarray, offsets: np.ndarray, blocks: np.ndarray) -> None:
    """Write blocks (n, size) of equal size to `offsets` (n,) of a flat array; see `get_blocks`."""
    if len(offsets):
        sliding_window_view(target, blocks.shape[1], writeable=True)[offsets] = blocks


def _groups(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    # Blocks of equal shape, a bounded number of elements at a time.
    if len(rows) == 0:
        return
    key = rows.astype(np.int64) * (columns.max() + 1) + columns
    order = np.argsort(key, kind="stable")
    for alike in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        shape = int(rows[alike[0]]), int(columns[alike[0]])
        step = max(1, CHUNK // (shape[0] * shape[1]))
        for first in range(0, len(alike), step):
            yield shape, alike[first : first + step]
