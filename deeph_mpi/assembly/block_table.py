"""Both triangles of a Bloch matrix by atom blocks, from which dense pieces are cut; needs no PETSc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeph_mpi.assembly.lattice_sum import LatticeSum, is_time_reversal_invariant, real_form
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.parallel.traffic import count_sent
from deeph_mpi.parallel.world import World

__all__ = ["BlockTable", "has_real_matrices"]


def has_real_matrices(h: BlockSet, s: BlockSet, k: np.ndarray) -> bool:
    """Whether H(k) and S(k) are real: real blocks and 2k a reciprocal lattice vector. The same on all ranks."""
    return is_time_reversal_invariant(k) and not (np.iscomplexobj(h.entries) or np.iscomplexobj(s.entries))


@dataclass(frozen=True)
class BlockTable:
    """Blocks (i, j) of some row atoms i, found by binary search.

    Attributes:
        sizes: (N,) int64 matrix rows of every atom.
        keys: (blocks,) int64 ascending, i * N + j.
        kind: (blocks,) int64, which array of `values` holds a block.
        place: (blocks,) int64, where in it.
        values: arrays (m, rows, columns), one for every shape of block.
    """

    sizes: np.ndarray
    keys: np.ndarray
    kind: np.ndarray
    place: np.ndarray
    values: list[np.ndarray]

    @classmethod
    def at(
        cls, rows: RowMap, blocks: BlockSet, k: np.ndarray, dtype: type, *, real: bool, spin_diagonal: bool = False
    ) -> BlockTable:
        """Σ_R e^{2πi k·R} A(R) of the blocks given. Local.

        Args:
            rows: sizes without doubling (2n for spinors).
            blocks: of this rank's rows, all images.
            k: (3,) fractional.
            dtype: real type of the values.
            real: the matrix is real at k; else the table holds its real form [[Re, −Im], [Im, Re]] per block.
            spin_diagonal: blocks come without spin and stand twice on the diagonal.
        """
        sizes, atoms = rows.sizes, len(rows.sizes)
        keys, number = np.unique(blocks.pairs[:, 3] * atoms + blocks.pairs[:, 4], return_inverse=True)
        heights, widths = sizes[blocks.pairs[:, 3]], sizes[blocks.pairs[:, 4]]
        lattice_sum = LatticeSum(blocks, number.reshape(-1), heights, widths, spin_diagonal=spin_diagonal)
        parts = lattice_sum.real(k) if real else lattice_sum.complex(k)
        lattice_sum.release()
        kind, place = np.zeros((2, len(keys)), dtype=np.int64)
        values: list[np.ndarray] = []
        for n, (chosen, block) in enumerate(parts):
            kind[chosen], place[chosen] = n, np.arange(len(chosen))
            values.append(np.ascontiguousarray(block if real else real_form(block), dtype=dtype))
        return cls(sizes if real else 2 * sizes, keys, kind, place, values)

    @property
    def atoms(self) -> int:
        """Atoms of the structure."""
        return len(self.sizes)

    def columns(self, row_atoms: np.ndarray) -> np.ndarray:
        """Atoms j of all blocks (i, j) with i among `row_atoms`, ascending."""
        begin, end = (np.searchsorted(self.keys, (row_atoms + n) * self.atoms) for n in (0, 1))
        found = [self.keys[a:b] % self.atoms for a, b in zip(begin, end, strict=True)]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def dense(self, row_atoms: np.ndarray, column_atoms: np.ndarray) -> np.ndarray:
        """The piece of the matrix in these rows and columns, absent blocks zero."""
        heights, widths = self.sizes[row_atoms], self.sizes[column_atoms]
        row_start, column_start = np.cumsum(heights) - heights, np.cumsum(widths) - widths
        dtype = self.values[0].dtype if self.values else np.float64
        result = np.zeros((heights.sum(), widths.sum()), dtype=dtype)
        wanted = (row_atoms[:, None] * self.atoms + column_atoms).ravel()
        block = np.minimum(np.searchsorted(self.keys, wanted), max(len(self.keys) - 1, 0))
        hit = np.flatnonzero(self.keys[block] == wanted) if len(self.keys) else np.empty(0, dtype=np.int64)
        block, (i, j) = block[hit], np.divmod(hit, len(column_atoms))
        for n, values in enumerate(self.values):
            own = np.flatnonzero(self.kind[block] == n)
            r, c = (np.arange(size) for size in values.shape[1:])
            at_row = row_start[i[own], None] + r
            at_column = column_start[j[own], None] + c
            result[at_row[:, :, None], at_column[:, None, :]] = values[self.place[block[own]]]
        return result

    def with_rows_of_others(self, world: World, rows: RowMap, wanted: np.ndarray, columns: np.ndarray) -> BlockTable:
        """This table together with blocks (i, j) from the ranks that own the atoms i. Collective.

        Args:
            world: the ranks.
            rows: who owns what.
            wanted: atoms i of other ranks.
            columns: the atoms j needed.
        """
        owners = rows.partition.owner[wanted]
        wishes = [wanted[owners == rank] for rank in range(world.size)]
        asked = world.comm.alltoall([(rows_of, columns if len(rows_of) else columns[:0]) for rows_of in wishes])
        answers = [self._restricted(*request) for request in asked]
        others = [answer for rank, answer in enumerate(answers) if rank != world.rank]
        count_sent(sum(array.nbytes for one in others for array in (one.keys, one.kind, one.place, *one.values)))
        received = world.comm.alltoall(answers)
        return self._merged([part for part in received if len(part.keys)])

    def _restricted(self, row_atoms: np.ndarray, columns: np.ndarray) -> BlockTable:
        i, j = np.divmod(self.keys, self.atoms)
        chosen = np.flatnonzero(np.isin(i, row_atoms) & np.isin(j, columns)) if len(row_atoms) else np.empty(0, int)
        place = np.empty(len(chosen), dtype=np.int64)
        values = []
        for n, block in enumerate(self.values):
            own = np.flatnonzero(self.kind[chosen] == n)
            place[own] = np.arange(len(own))
            values.append(block[self.place[chosen[own]]])
        return BlockTable(self.sizes[:0], self.keys[chosen], self.kind[chosen], place, values)

    def _merged(self, others: Sequence[BlockTable]) -> BlockTable:
        if not others:
            return self
        keys, kind, place, values = [self.keys], [self.kind], [self.place], list(self.values)
        for other in others:
            keys.append(other.keys)
            kind.append(other.kind + len(values))
            place.append(other.place)
            values += other.values
        together = np.concatenate(keys)
        order = np.argsort(together, kind="stable")
        return BlockTable(
            self.sizes, together[order], np.concatenate(kind)[order], np.concatenate(place)[order], values
        )
