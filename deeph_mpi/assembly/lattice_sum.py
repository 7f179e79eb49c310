"""The sum over images, A_ij(k) = Σ_R e^{2πi k·R} A_ij(R), prepared once and evaluated for any k."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import distinct_rows
from deeph_mpi.domain.block_rows import get_blocks
from deeph_mpi.errors import DataError

__all__ = ["CHUNK", "LatticeSum", "gather_blocks", "is_time_reversal_invariant", "real_form"]

CHUNK = 2**11  # blocks gathered at a time: no more than the caches hold


def is_time_reversal_invariant(k: np.ndarray) -> bool:
    """Whether 2k is a reciprocal lattice vector (k fractional, (3,)), so that all phases are ±1."""
    twice = 2 * np.asarray(k, dtype=np.float64)
    return bool(np.all(np.abs(twice - np.round(twice)) < 1e-12))


@dataclass(frozen=True)
class _Shape:
    """Blocks of one shape, sorted by (block of the pattern, image).

    Attributes:
        blocks: (m,) pattern blocks that occur, ascending.
        onsite: (m,) bool, blocks with i = j.
        indptr: (m + 1,) where the images of each begin.
        image: (n,) index of each block's R among the images.
        entries: (n, columns * rows): one column of a block after the other, as PETSc's blocked formats hold them.
        rows, columns: of one block.
    """

    blocks: np.ndarray
    onsite: np.ndarray
    indptr: np.ndarray
    image: np.ndarray
    entries: np.ndarray
    rows: int
    columns: int


class LatticeSum:
    """Phased sums of one matrix's blocks on one rank. Holds its own sorted float64 or complex128 copy of the blocks."""

    def __init__(
        self, blockset: BlockSet, number: np.ndarray, heights: np.ndarray, widths: np.ndarray, *, spin_diagonal: bool
    ) -> None:
        """Sort the blocks.

        Args:
            blockset: all blocks of this rank's rows.
            number: (n,) the pattern block of every block of `blockset`; −1 leaves it out.
            heights, widths: (n,) rows and columns of each block in the matrix.
            spin_diagonal: whether blocks are stored without spin, (rows / 2, columns / 2), and stand twice on the
                diagonal: overlaps of a spinor Hamiltonian.

        Raises:
            DataError: a block given twice, or with a number of elements that does not fit.
        """
        pairs = blockset.pairs
        self.images, image = distinct_rows(pairs[:, :3])
        dtype = np.complex128 if np.iscomplexobj(blockset.entries) else np.float64
        self.is_complex = dtype == np.complex128
        # H_ij and H_ji must add the same terms in the same order to be bitwise conjugate, so images of (j, i)
        # are visited as the negatives of those of (i, j).
        upper = pairs[:, 3] <= pairs[:, 4]
        visit = np.where(upper[:, None], pairs[:, :3], -pairs[:, :3])
        order = np.lexsort((visit[:, 2], visit[:, 1], visit[:, 0], number))
        order = order[np.searchsorted(number, 0, sorter=order) :]
        same = (np.diff(number[order]) == 0) & (np.diff(image[order]) == 0)
        if same.any():
            twice = pairs[order[np.flatnonzero(same)[0]]]
            raise DataError(f"block [R1, R2, R3, i, j] = {twice.tolist()} is given twice")
        sizes = np.diff(blockset.offsets)
        expected = heights * widths // (4 if spin_diagonal else 1)
        wrong = np.flatnonzero(sizes != expected)
        if len(wrong):
            b = wrong[0]
            raise DataError(
                f"block [R1, R2, R3, i, j] = {pairs[b].tolist()} has {sizes[b]} elements instead of {expected[b]}: "
                "the orbital map does not fit"
            )
        self.shapes: list[_Shape] = []
        kinds, kind = distinct_rows(np.stack([heights, widths], axis=1))
        for index, (height, width) in enumerate(kinds):
            chosen = order[kind[order] == index]
            entries = gather_blocks(blockset, chosen, int(height), int(width), spin_diagonal).astype(dtype, copy=False)
            blocks, begin = np.unique(number[chosen], return_index=True)
            onsite = pairs[chosen[begin], 3] == pairs[chosen[begin], 4]
            indptr = np.append(begin, len(chosen)).astype(np.int64)
            self.shapes.append(_Shape(blocks, onsite, indptr, image[chosen], entries, int(height), int(width)))

    def phases(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of 2π k·R for every image: exactly even and odd in R; ±1 and 0 at time-reversal invariant k."""
        cos, sin = np.ones(len(self.images)), np.zeros(len(self.images))
        if is_time_reversal_invariant(k):
            twice = np.round(2 * np.asarray(k)).astype(np.int64)
            return np.where((self.images @ twice) % 2 == 0, 1.0, -1.0), sin
        for n, (r1, r2, r3) in enumerate(self.images.tolist()):
            sign = 1 if (r1, r2, r3) >= (0, 0, 0) else -1
            angle = 2 * math.pi * (k[0] * (sign * r1) + k[1] * (sign * r2) + k[2] * (sign * r3))
            cos[n], sin[n] = math.cos(angle), sign * math.sin(angle)
        return cos, sin

    def release(self) -> None:
        """Let go of the blocks: nothing can be summed any more."""
        del self.shapes

    def real(self, k: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Blocks at a time-reversal invariant k: (pattern blocks (m,), values (m, rows, columns) float64) per shape.

        Each block lies in memory one column after the other.
        """
        cos, _ = self.phases(k)
        return [(shape.blocks, _hermitian(shape, self._sum(shape, cos))) for shape in self.shapes]

    def complex(self, k: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Blocks at any k: (pattern blocks (m,), values (m, rows, columns) complex128) per shape."""
        cos, sin = self.phases(k)
        return [(shape.blocks, _hermitian(shape, self._phased(shape, cos, sin))) for shape in self.shapes]

    def onsite(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Blocks (R = 0, i, i) by their size: (pattern blocks (m,), values (m, size, size))."""
        home = np.flatnonzero(~self.images.any(axis=1))
        result = {}
        for shape in self.shapes:
            owner = np.repeat(np.arange(len(shape.blocks)), np.diff(shape.indptr))
            found = np.flatnonzero(np.isin(shape.image, home) & shape.onsite[owner])
            if len(found):
                result[shape.rows] = (shape.blocks[owner[found]], _by_columns(shape, shape.entries[found]))
        return result

    def _phased(self, shape: _Shape, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        if self.is_complex:
            return self._sum(shape, cos + 1j * sin)
        return self._sum(shape, cos) + 1j * self._sum(shape, sin)  # spares a complex copy of the entries

    @staticmethod
    def _sum(shape: _Shape, phase: np.ndarray) -> np.ndarray:
        count = len(shape.image)
        weights = csr_matrix((phase[shape.image], np.arange(count), shape.indptr), shape=(len(shape.blocks), count))
        return _by_columns(shape, np.asarray(weights @ shape.entries))


def _by_columns(shape: _Shape, entries: np.ndarray) -> np.ndarray:
    """Blocks (m, rows, columns) as a view of their columns (m, columns * rows)."""
    return entries.reshape(len(entries), shape.columns, shape.rows).transpose(0, 2, 1)


def gather_blocks(
    blockset: BlockSet, chosen: np.ndarray, height: int, width: int, spin_diagonal: bool = False
) -> np.ndarray:
    """Blocks `chosen` by columns, as rows of an array (n, width * height)."""
    h, w = (height // 2, width // 2) if spin_diagonal else (height, width)
    by_columns = np.empty((len(chosen), w, h), dtype=blockset.entries.dtype)
    for begin in range(0, len(chosen), CHUNK):
        part = slice(begin, begin + CHUNK)
        blocks = get_blocks(blockset.entries, blockset.offsets[chosen[part]], h * w)
        by_columns[part] = blocks.reshape(-1, h, w).transpose(0, 2, 1)
    scalar = by_columns.reshape(len(chosen), h * w)
    if not spin_diagonal:
        return scalar
    values = np.zeros((len(chosen), 2, w, 2, h), dtype=scalar.dtype)
    values[:, 0, :, 0, :] = values[:, 1, :, 1, :] = scalar.reshape(len(chosen), w, h)
    return values.reshape(len(chosen), width * height)


def _hermitian(shape: _Shape, values: np.ndarray) -> np.ndarray:
    # Blocks (i, i) add R and −R in one sum, whose two triangles differ by rounding: average them.
    onsite = values[shape.onsite]
    if len(onsite):
        values[shape.onsite] = (onsite + onsite.conj().transpose(0, 2, 1)) / 2
    return values


def real_form(values: np.ndarray) -> np.ndarray:
    """Complex blocks (m, r, c) as real ones [[Re, −Im], [Im, Re]], (m, 2r, 2c), each by columns."""
    m, r, c = values.shape
    result = np.empty((m, 2, c, 2, r))
    by_columns = values.transpose(0, 2, 1)
    result[:, 0, :, 0] = result[:, 1, :, 1] = by_columns.real
    result[:, 0, :, 1] = by_columns.imag
    np.negative(by_columns.imag, out=result[:, 1, :, 0])
    return result.reshape(m, 2 * c, 2 * r).transpose(0, 2, 1)
