"""PETSc's binary format for sparse matrices, written by all ranks at once, each the rows of its atoms.

A matrix is four big-endian int32 (class, rows, columns, elements), the lengths of the rows, their columns, their values;
several follow one another (`MatLoad` from one viewer). The file does not say whether its numbers are real or complex: PETSc
reads those of its own build.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.mapped import pieces_of
from deeph_mpi.data.ragged import take_blocks
from deeph_mpi.data.supercell import coordinates
from deeph_mpi.errors import DataError
from deeph_mpi.parallel import World

__all__ = ["RankRows", "write_matrices"]

_CLASS = 1211216  # MAT_FILE_CLASSID of petscmat.h


@dataclass(frozen=True)
class RankRows:
    """This rank's rows of a matrix of blocks.

    Attributes:
        blocks: in the order (i, j, R).
        sizes: (N,) rows of every atom's blocks.
        atoms: of this rank, ascending without gaps.
        spins: 2 puts every block twice on the diagonal of spin: the overlap of spinors.
    """

    blocks: BlockSet
    sizes: np.ndarray
    atoms: np.ndarray
    spins: int = 1

    @property
    def size(self) -> int:
        """Rows of the whole matrix."""
        return int(self.spins * self.sizes.sum())

    def pieces(self, chosen: np.ndarray, phases: np.ndarray | None) -> Iterator[csr_matrix]:
        """Rows of a few atoms at a time, of all columns: the sum of chosen blocks times their phases, zeros kept."""
        first = np.concatenate([[0], np.cumsum(self.sizes)])
        starts = np.searchsorted(self.blocks.pairs[chosen, 3], np.append(self.atoms, len(self.sizes)))
        ends = np.concatenate([[0], np.cumsum(np.diff(self.blocks.offsets)[chosen])])
        for part in pieces_of(np.diff(ends[starts])):
            members = slice(starts[part.start], starts[part.stop])
            taken = take_blocks(self.blocks, chosen[members])
            self.blocks.release()
            pair, rows, columns = coordinates(taken, self.sizes)
            values = taken.entries if phases is None else taken.entries * phases[members][pair]
            low, high = (self.spins * int(first[atom]) for atom in (self.atoms[part][0], self.atoms[part][-1] + 1))
            if self.spins == 2:  # an atom's rows of ↑, then those of ↓
                values, ends_of = np.tile(values, 2), taken.pairs[pair, 3:].T
                ups = [index + first[atom] for index, atom in zip((rows, columns), ends_of, strict=True)]
                rows, columns = (np.append(up, up + self.sizes[atom]) for up, atom in zip(ups, ends_of, strict=True))
            matrix = csr_matrix((values, (rows - low, columns)), shape=(high - low, self.size))
            matrix.sort_indices()
            yield matrix

    def elements(self, chosen: np.ndarray) -> int:
        """Of the sum of chosen blocks."""
        pairs = self.blocks.pairs[chosen, 3:]
        new = np.ones(len(pairs), dtype=bool)
        new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        return int(self.spins * self.sizes[pairs[new]].prod(axis=1).sum())


def write_matrices(
    world: World, path: Path, rows: RankRows, parts: list[tuple[np.ndarray, np.ndarray | None]], kind: str
) -> None:
    """Write matrices one after the other. Collective; all ranks must be able to open the file.

    Args:
        world: the ranks that share the rows.
        path: of the file.
        rows: of this rank.
        parts: for every matrix the blocks that are added up, ascending, and their phases, or None.
        kind: of the numbers, ">f8" or ">c16".

    Raises:
        DataError: on all ranks: more rows or elements than 32-bit indices count.
    """
    width, size = np.dtype(kind).itemsize, rows.size
    counts = np.array(world.comm.allgather([rows.elements(chosen) for chosen, _ in parts])).reshape(world.size, -1)
    total, before = counts.sum(axis=0), counts[: world.rank].sum(axis=0)
    if max(size, int(total.max(initial=0))) >= 2**31:
        raise DataError(f"'{path}': {int(total.max())} elements are more than 32-bit indices count")
    start = np.concatenate([[0], np.cumsum(4 * 4 + 4 * size + (4 + width) * total)])
    row = int(rows.spins * rows.sizes[: rows.atoms[0]].sum()) if len(rows.atoms) else 0
    world.on_root(_reserve, path, int(start[-1]))
    with world.together(), path.open("r+b") as file:
        for number, (chosen, phases) in enumerate(parts):
            nonzero, at, done = int(total[number]), int(start[number]), int(before[number])
            if world.is_root:
                _put(file.fileno(), at, np.array([_CLASS, size, size, nonzero]), ">i4")
            lengths, indices = at + 4 * (4 + row), at + 4 * (4 + size)
            for matrix in rows.pieces(chosen, phases):
                _put(file.fileno(), lengths, np.diff(matrix.indptr), ">i4")
                _put(file.fileno(), indices + 4 * done, matrix.indices, ">i4")
                _put(file.fileno(), indices + 4 * nonzero + width * done, matrix.data, kind)
                lengths, done = lengths + 4 * matrix.shape[0], done + matrix.nnz


def _reserve(path: Path, length: int) -> None:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, length)


def _put(descriptor: int, place: int, values: np.ndarray, kind: str) -> None:
    """Write an array at a place of a file; the kernel takes at most 2 GB at a time."""
    data = memoryview(np.ascontiguousarray(values.astype(kind)).view(np.uint8))  # type: ignore[arg-type]
    while len(data):
        done = os.pwrite(descriptor, data, place)
        data, place = data[done:], place + done
