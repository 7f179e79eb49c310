"""Blocks between the functions of a real gauge: those of partners averaged, and what that changes measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deeph_mpi.assembly.lattice_sum import CHUNK, gather_blocks
from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import distinct_rows
from deeph_mpi.errors import DataError

__all__ = ["FoldedBlocks", "fold_blocks"]


@dataclass(frozen=True)
class FoldedBlocks:
    """Blocks of one shape; each adds e^{iπ (k·twice + quarter / 2)} times its entries to ⟨f|A|f'⟩ or ⟨f|A|Θ f'⟩.

    Single atoms come with the function that Θ leaves alone instead of f.

    Attributes:
        row, column: (n,) int64, leading atoms.
        follows: (n,) bool, whether the column is that of Θ f.
        twice: (n, 3) int64, twice the cell of the phase: half cells occur with single atoms.
        quarter: (n,) int64, 0 … 3, quarter turns.
        entries: (n, columns * rows) float64, one column after the other.
        rows, columns: of one block.
    """

    row: np.ndarray
    column: np.ndarray
    follows: np.ndarray
    twice: np.ndarray
    quarter: np.ndarray
    entries: np.ndarray
    rows: int
    columns: int


def fold_blocks(blocks: BlockSet, gauge: RealGauge, place: np.ndarray) -> tuple[list[FoldedBlocks], float]:
    """Blocks of the rows of leading atoms with columns of atoms that are not before them. Local.

    Args:
        blocks: all (R, i, j) of some leading atoms i and of their partners, real.
        gauge: the functions.
        place: (N,) int64, the order of atoms.

    Returns:
        The blocks by shape, and the largest element (in the unit of the blocks) by which a block differs from the average of
        itself and its image under the operation.

    Raises:
        DataError: a block given twice.
    """
    atoms, partner, lead = len(gauge.lead), gauge.reversal.partner, gauge.lead
    a, j = blocks.pairs[:, 3], blocks.pairs[:, 4]
    cells = blocks.pairs[:, :3] + gauge.home[a] - gauge.home[j]
    images = cells @ gauge.reversal.lattice + gauge.moved[j] - gauge.moved[a]
    sources = []  # (row, column, cell, block) of every block as it is, and of its image
    for row, column, cell in ((a, j, cells), (partner[a], partner[j], images)):
        kept = np.flatnonzero((lead[row] == row) & (place[row] <= place[lead[column]]))
        sources.append((row[kept], column[kept], cell[kept], kept))
    row, column, cell, _ = (np.concatenate(part) for part in zip(*sources, strict=True))
    if not len(row):
        return [], 0.0
    low = cell.min(axis=0)
    extent = cell.max(axis=0) - low + 1
    number = np.ravel_multi_index(tuple((cell - low).T), tuple(extent))
    _, first, inverse = np.unique(
        (row * atoms + column) * int(extent.prod()) + number, return_index=True, return_inverse=True
    )
    row, column, cell = row[first], column[first], cell[first]
    sides = np.full((2, len(first)), -1, dtype=np.int64)
    for side, at, source in zip(sides, np.split(inverse.reshape(-1), [len(sources[0][0])]), sources, strict=True):
        side[at] = source[3]
        if len(np.unique(at)) < len(at):
            raise DataError("a block [R1, R2, R3, i, j] is given twice")
    return _by_shape(blocks, gauge, row, column, cell, sides)


def _by_shape(
    blocks: BlockSet, gauge: RealGauge, row: np.ndarray, column: np.ndarray, cell: np.ndarray, sides: np.ndarray
) -> tuple[list[FoldedBlocks], float]:
    heights, widths = gauge.sizes[row], gauge.sizes[column]
    result: list[FoldedBlocks] = []
    worst = 0.0
    for height, width in distinct_rows(np.stack([heights, widths], axis=1))[0].tolist():
        of = np.flatnonzero((heights == height) & (widths == width))
        i, x, q = row[of], column[of], gauge.lead[column[of]]
        follows = q != x
        entries = np.empty((len(of), width * height))
        for begin in range(0, len(of), CHUNK):
            part = slice(begin, begin + CHUNK)
            left, right = gauge.signs_of(i[part], height), gauge.signs_of(x[part], width)
            signs = (right[:, :, None] * left[:, None, :]).reshape(len(left), -1)
            own, image = (_gathered(blocks, side[of[part]], height, width) for side in sides)
            image *= signs
            worst = max(worst, float(np.abs(own - image).max()) / 2)
            average = (own + image) / 2
            average[follows[part]] *= np.repeat(right[follows[part]], height, axis=1)  # f = s Θ f of the partner
            entries[part] = average
        twice = 2 * cell[of] + gauge.moved[i] - gauge.moved[q]
        whole = FoldedBlocks(i, q, follows, twice, np.zeros(len(of), dtype=np.int64), entries, int(height), int(width))
        result += _turned(whole, gauge)
    return result, worst


def _gathered(blocks: BlockSet, chosen: np.ndarray, height: int, width: int) -> np.ndarray:
    """Blocks by columns (n, width * height) float64; zero where `chosen` is −1."""
    found = np.flatnonzero(chosen >= 0)
    if len(found) == len(chosen):
        return gather_blocks(blocks, chosen, height, width).astype(np.float64, copy=False)
    result = np.zeros((len(chosen), width * height))
    result[found] = gather_blocks(blocks, chosen[found], height, width)
    return result


def _turned(whole: FoldedBlocks, gauge: RealGauge) -> Iterator[FoldedBlocks]:
    """The blocks; those of single atoms in parts, as the function of an odd orbital has a factor √−1."""
    single = gauge.single[whole.row] | gauge.single[whole.column]
    if not single.all():
        yield _taken(whole, np.flatnonzero(~single))
    chosen = np.flatnonzero(single)
    if not len(chosen):
        return
    odd = []
    for atoms, size in ((whole.row[chosen], whole.rows), (whole.column[chosen], whole.columns)):
        odd.append((gauge.signs_of(atoms, size) < 0) & gauge.single[atoms, None])
    for odd_row in (False, True):
        for odd_column in (False, True):
            mask = ((odd[1] == odd_column)[:, :, None] & (odd[0] == odd_row)[:, None, :]).reshape(len(chosen), -1)
            some = mask.any(axis=1)
            if some.any():
                turns = (int(odd_column) - int(odd_row)) % 4
                yield _taken(whole, chosen[some], mask[some], turns)


def _taken(whole: FoldedBlocks, chosen: np.ndarray, mask: np.ndarray | None = None, quarter: int = 0) -> FoldedBlocks:
    all_of_them = mask is None and len(chosen) == len(whole.row)
    entries = whole.entries if all_of_them else whole.entries[chosen]
    return FoldedBlocks(
        whole.row[chosen],
        whole.column[chosen],
        whole.follows[chosen],
        whole.twice[chosen],
        whole.quarter[chosen] + quarter,
        entries if mask is None else entries * mask,
        whole.rows,
        whole.columns,
    )
