"""One matrix in a real gauge: its blocks at any k from those of leading atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from deeph_mpi.assembly.folded_blocks import FoldedBlocks
from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.data.ragged import distinct_rows

__all__ = ["FoldedSum"]


@dataclass
class _Links:
    """Which entries of blocks of one shape go, times scale · cos(π (k·twice + quarter / 2)), to which blocks of the matrix.

    Attributes:
        blocks: the entries.
        target: (links,) int64 key of the block of the matrix; ascending once it is `numbered`.
        entry, quarter: (links,) int64.
        scale: (links,) float64.
        images: (m, 3) int64, the different `twice`.
        image: (links,) index of each link's.
        numbers: (t,) int64, the blocks of the matrix that occur, ascending.
        onsite: (t,) bool, those on the diagonal.
        indptr: (t + 1,) where their links begin.
    """

    blocks: FoldedBlocks
    target: np.ndarray
    entry: np.ndarray
    quarter: np.ndarray
    scale: np.ndarray
    images: np.ndarray
    image: np.ndarray
    numbers: np.ndarray
    onsite: np.ndarray
    indptr: np.ndarray


class FoldedSum:
    """Phased sums over the images of one matrix's folded blocks.

    A block of functions stands for up to four of the matrix, χ± with χ±. Of ⟨χ|A|χ'⟩, which is real, the real part is taken
    (with a = ⟨f|A|f'⟩ and b = ⟨f|A|Θ f'⟩: ++ Re(a + b), +− Im(b − a), −+ Im(a + b), −− Re(a − b)), and what is always zero,
    as most bonds have no phase, is left out.
    """

    def __init__(self, parts: list[FoldedBlocks], gauge: RealGauge, first: np.ndarray, whole: int) -> None:
        """Prepare.

        Args:
            parts: of this rank's rows.
            gauge: the functions.
            first: (N,) int64, number of the first part (χ₊, or that of a single atom) of every leading atom.
            whole: how many parts there are.
        """
        self.whole = whole
        self._links = [_link(blocks, gauge, first, whole) for blocks in parts]

    @property
    def targets(self) -> np.ndarray:
        """Blocks of the matrix that are not always zero, on and above the diagonal: v * whole + w for rows v, columns w."""
        found = [np.unique(links.target) for links in self._links]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def number(self, pattern: np.ndarray) -> None:
        """Number the blocks by their place in `pattern`, ascending, which has all `targets`."""
        for links in self._links:
            order = np.argsort(links.target, kind="stable")
            links.target, links.entry, links.quarter = links.target[order], links.entry[order], links.quarter[order]
            links.scale, links.image = links.scale[order], links.image[order]
            found, begin = np.unique(links.target, return_index=True)
            links.numbers = np.searchsorted(pattern, found.astype(np.int64, copy=False))
            links.onsite = np.equal(found // self.whole, found % self.whole)
            links.indptr = np.append(begin, len(links.target))

    def at(self, k: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Blocks at k (3,): (numbers (m,), values (m, rows, columns) float64) of each shape, every shape once."""
        sums: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        for links in self._links:
            angle = np.pi * (links.images @ k)
            cos, sin = np.cos(angle), np.sin(angle)
            factors = np.stack([cos, -sin, -cos, sin])  # of quarter turns
            weights = csr_matrix(
                (links.scale * factors[links.quarter, links.image], links.entry, links.indptr),
                shape=(len(links.numbers), len(links.blocks.entries)),
            )
            shape = links.blocks.rows, links.blocks.columns
            values = np.asarray(weights @ links.blocks.entries).reshape(len(links.numbers), shape[1], shape[0])
            if links.onsite.any():  # the sum over R and −R is symmetric but for rounding
                own = values[links.onsite]
                values[links.onsite] = (own + own.transpose(0, 2, 1)) / 2
            sums.setdefault(shape, []).append((links.numbers, values.transpose(0, 2, 1)))
        return [_joined(parts) for parts in sums.values()]

    def release(self) -> None:
        """Let go of the blocks."""
        self._links = []


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums with the same numbers are added."""
    if len(parts) == 1:
        return parts[0]
    numbers = np.unique(np.concatenate([numbers for numbers, _ in parts]))
    total = np.zeros((len(numbers), *parts[0][1].transpose(0, 2, 1).shape[1:]))
    for of, values in parts:
        total[np.searchsorted(numbers, of)] += values.transpose(0, 2, 1)
    return numbers, total.transpose(0, 2, 1)


def _link(blocks: FoldedBlocks, gauge: RealGauge, first: np.ndarray, whole: int) -> _Links:
    i, q = blocks.row, blocks.column
    real = (blocks.twice[:, gauge.complex_along] == 0).all(axis=1)
    real &= (blocks.twice[:, ~gauge.complex_along] % 2 == 0).all(axis=1)
    scale = np.sqrt(2.0) ** (gauge.parts[i] - gauge.parts[q])
    found = []
    for minus_row in (0, 1):  # ⟨χ₋| takes the imaginary part, a quarter turn back
        for minus_column in (0, 1):
            quarter = blocks.quarter + 3 * minus_row + minus_column * np.where(blocks.follows, 3, 1)
            v, w = first[i] + minus_row, first[q] + minus_column
            there = (minus_row < gauge.parts[i]) & (minus_column < gauge.parts[q]) & (v <= w)
            n = np.flatnonzero(there & ~(real & (quarter % 2 == 1)))
            found.append((v[n] * whole + w[n], n, quarter[n] % 4, scale[n]))
    target, entry, quarter, scale = (np.concatenate(part) for part in zip(*found, strict=True))
    images, image = distinct_rows(blocks.twice)
    none = np.empty(0, dtype=np.int64)
    return _Links(blocks, target, entry, quarter, scale, images, image[entry], none, none, none)
