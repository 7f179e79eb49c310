"""Vectorised work on blocks of unlike shapes: keys, order, transposition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.errors import DataError

__all__ = [
    "block_order",
    "by_shape",
    "distinct_rows",
    "find",
    "gather_entries",
    "pair_keys",
    "reversed_pairs",
    "sort_blocks",
    "spread",
    "take_blocks",
]


def reversed_pairs(pairs: np.ndarray) -> np.ndarray:
    """(n, 5): (−R, j, i) for every (R, i, j)."""
    return np.concatenate([-pairs[:, :3], pairs[:, 4:5], pairs[:, 3:4]], axis=1)


def pair_keys(pairs: np.ndarray, atoms: int, reach: int, name: str = "") -> np.ndarray:
    """(n,) int64 keys that order pairs (n, 5) by (i, j, R1, R2, R3).

    Args:
        pairs: with atom indices below `atoms` and image indices within ±`reach`.
        atoms: number of atoms N.
        reach: largest |R| there is.
        name: of the file, for the message.

    Raises:
        DataError: when the keys would overflow int64.
    """
    width = 2 * reach + 1
    if atoms * atoms * width**3 >= 2**63:
        where = f"'{name}': " if name else ""
        raise DataError(f"{where}image indices up to {reach} are too large for {atoms} atoms")
    keys = pairs[:, 3] * atoms + pairs[:, 4]
    for axis in range(3):
        keys = keys * width + (pairs[:, axis] + reach)
    return keys


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(m,) int64: position of every wanted key in the ascending `keys` (n,); −1 where it is absent."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, position, -1)


def spread(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenated ranges start…start+size, int64: where the entries of chosen blocks lie in a flat array."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - ends + sizes, sizes)


def gather_entries(blocks: BlockSet, chosen: np.ndarray) -> np.ndarray:
    """Entries of the chosen blocks one after the other, in the order of `chosen`."""
    sizes = np.diff(blocks.offsets)[chosen]
    return blocks.entries[spread(blocks.offsets[chosen], sizes)]


def distinct_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows of an integer table (n, columns), in lexicographic order, and which of them each row is (n,).

    What `np.unique(table, axis=0)` gives, eight times as fast where a row fits in one number.
    """
    low, high = (found(axis=0, initial=0).astype(np.int64) for found in (table.min, table.max))
    widths = (high - low + 1).tolist()
    if np.prod(np.array(widths, dtype=np.float64)) > 2.0**62:
        rows, which = np.unique(table, axis=0, return_inverse=True)
        return rows, which.reshape(-1)
    key = np.zeros(len(table), dtype=np.int64)
    for column, (least, width) in enumerate(zip(low.tolist(), widths, strict=True)):
        key = key * width + (table[:, column].astype(np.int64) - least)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return table[first], which.reshape(-1)


def block_order(pairs: np.ndarray) -> np.ndarray:
    """(n,) int64: how to order pairs (n, 5) by (i, j, R1, R2, R3)."""
    r1, r2, r3, i, j = pairs.T
    return np.lexsort((r3, r2, r1, j, i))


def sort_blocks(blocks: BlockSet) -> BlockSet:
    """The same blocks ordered by (i, j, R1, R2, R3)."""
    order = block_order(blocks.pairs)
    return blocks if (order == np.arange(len(order))).all() else take_blocks(blocks, order)


def take_blocks(blocks: BlockSet, chosen: np.ndarray) -> BlockSet:
    """The chosen blocks, in the order of `chosen`."""
    sizes = np.diff(blocks.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return BlockSet(blocks.pairs[chosen], offsets, gather_entries(blocks, chosen))


def by_shape(pairs: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Group pairs (n, 5) by the shape of their blocks, given the rows of every atom (N,).

    Yields:
        ((rows, columns), indices of the pairs with that shape).
    """
    rows, columns = sizes[pairs[:, 3]], sizes[pairs[:, 4]]
    label = rows * (int(sizes.max(initial=0)) + 1) + columns
    for value in np.unique(label):
        members = np.flatnonzero(label == value)
        yield (int(rows[members[0]]), int(columns[members[0]])), members
