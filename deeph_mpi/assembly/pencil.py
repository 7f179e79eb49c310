"""From blocks to the distributed pencil (H(k), S(k)) of a k-point."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeph_mpi.assembly.lattice_sum import LatticeSum, is_time_reversal_invariant
from deeph_mpi.assembly.pattern import BlockPattern
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.errors import DataError, SolverError
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["PencilAssembler"]


class PencilAssembler:
    """Blocks of this rank's rows, sorted once per structure; `pencil(k)` only applies the phases of k.

    Holds its own sorted copy of the blocks: the caller may free the originals.

    Attributes:
        world: the ranks that share the matrices.
        rows: distribution of the rows.
        nonzeros: elements of the common pattern of H and S over all ranks, at Γ.
    """

    def __init__(self, world: World, rows: RowMap, h: BlockSet, s: BlockSet, *, spinful: bool = False) -> None:
        """Sort the blocks and number those of the common pattern, the union of H, S and the diagonal. Collective.

        Args:
            world: the ranks; `world.size` is that of the partition.
            rows: `rows.sizes` counts matrix rows per atom, 2n for spinors.
            h: all blocks (R, i, j) of the owned atoms i, in eV.
            s: the same of the overlap; its list of pairs may differ from that of `h`.
            spinful: H is made of (2n_i, 2n_j) complex spinor blocks, S of (n_i, n_j) blocks without spin.

        Raises:
            DataError: blocks of foreign rows, unknown atoms, double blocks or wrong sizes.
        """
        self.world, self.rows = world, rows
        with world.together():
            self._atoms = rows.partition.atoms(world.rank)
            numbers = self._number(h, s)
            self._h = self._sum(h, numbers[0], spin_diagonal=False)
            self._s = self._sum(s, numbers[1], spin_diagonal=spinful)
            self._check_onsite()
            self._row_atom, self._column_atom = self._blocks[:, 0], rows.order[self._blocks[:, 1]]
        local = int((rows.sizes[self._atoms[self._row_atom]] * rows.sizes[self._column_atom]).sum())
        self.nonzeros = int(world.comm.allreduce(local))

    def pencil(self, k: np.ndarray) -> Pencil:
        """The pencil at k (3,) fractional. Collective; the caller destroys it.

        At time-reversal invariant k (2k a reciprocal lattice vector) without spinors the matrices are real, of
        dimension n. Elsewhere they take the doubled real form of dimension 2n, or are complex in complex builds of PETSc.

        Raises:
            SolverError: when dimension or non-zeros exceed PETSc's integers.
        """
        k = np.asarray(k, dtype=np.float64)
        real = is_time_reversal_invariant(k) and not (self._h.is_complex or self._s.is_complex)
        doubled = not real and not petsc.is_complex()
        factor = 2 if doubled else 1
        with self.world.together():
            self._check_limits(factor)
        sizes = self.rows.sizes * factor
        pattern = BlockPattern.build(
            self._row_atom, sizes[self._atoms], self.rows.first[self._column_atom] * factor, sizes[self._column_atom]
        )
        h = self._matrix(self._h, pattern, k, real, factor)
        s = self._matrix(self._s, pattern, k, real, factor)
        if not doubled:
            return Pencil(self.world, h, s)
        mine = self.rows.sizes[self._atoms]
        within = np.arange(mine.sum())
        real_part = within + np.repeat(np.cumsum(mine) - mine, mine)
        return Pencil(self.world, h, s, real_part, real_part + np.repeat(mine, mine))

    def onsite_levels(self) -> np.ndarray:
        """Eigenvalues (m,) of the owned atoms' blocks (R = 0, i, i), eV: the levels that hopping broadens into bands.

        Local. A first guess of where the spectrum fills up, not a result.
        """
        overlaps = self._s.onsite()
        levels = []
        for size, (_, h) in self._h.onsite().items():
            metric, vectors = np.linalg.eigh(overlaps[size][1])
            scaled = vectors / np.sqrt(np.maximum(metric, 1e-6))[:, None, :]
            levels.append(np.linalg.eigvalsh(scaled.conj().transpose(0, 2, 1) @ h @ scaled).ravel())
        return np.concatenate(levels) if levels else np.empty(0)

    def _check_onsite(self) -> None:
        for name, blocks in (("Hamiltonian", self._h.onsite()), ("overlap", self._s.onsite())):
            found = sum(len(numbers) for numbers, _ in blocks.values())
            if found != len(self._atoms):
                raise DataError(f"the {name} lacks {len(self._atoms) - found} onsite blocks (R = 0, i, i)")

    def _number(self, h: BlockSet, s: BlockSet) -> list[np.ndarray]:
        """Number the blocks (i, j) of the union; sets `_blocks` (m, 2): local row atom, place of the column atom."""
        atoms = len(self.rows.sizes)
        local = np.full(atoms, -1, dtype=np.int64)
        local[self._atoms] = np.arange(len(self._atoms))
        keys = [local[self._atoms] * atoms + self.rows.place[self._atoms]]
        for name, blocks in (("Hamiltonian", h), ("overlap", s)):
            ij = blocks.pairs[:, 3:]
            if len(ij) and (ij.min() < 0 or ij.max() >= atoms):
                raise DataError(f"the {name} has blocks of atom {ij.max()}, but the structure has {atoms} atoms")
            if (local[ij[:, 0]] < 0).any():
                raise DataError(f"the {name} given to rank {self.world.rank} has blocks of rows that it does not own")
            keys.append(local[ij[:, 0]] * atoms + self.rows.place[ij[:, 1]])
        unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        self._blocks = np.stack([unique // atoms, unique % atoms], axis=1)
        return np.split(inverse.reshape(-1)[len(keys[0]) :], [len(keys[1])])

    def _sum(self, blocks: BlockSet, number: np.ndarray, *, spin_diagonal: bool) -> LatticeSum:
        sizes = self.rows.sizes
        heights, widths = sizes[blocks.pairs[:, 3]], sizes[blocks.pairs[:, 4]]
        return LatticeSum(blocks, number, heights, widths, spin_diagonal=spin_diagonal)

    def _check_limits(self, factor: int) -> None:
        limit = petsc.index_limit()
        sizes = self.rows.sizes * factor
        local = int((sizes[self._atoms[self._row_atom]] * sizes[self._column_atom]).sum())
        if self.rows.dimension * factor > limit or local > limit:
            raise SolverError(
                f"a matrix of dimension {self.rows.dimension * factor} with {local} non-zeros on rank "
                f"{self.world.rank} exceeds PETSc's {limit.bit_length() + 1}-bit integers: use more ranks, "
                "or a PETSc built with --with-64-bit-indices"
            )

    def _matrix(self, lattice_sum: LatticeSum, pattern: BlockPattern, k: np.ndarray, real: bool, factor: int) -> Any:
        library, _ = petsc.load()
        data = np.zeros(len(pattern.indices), dtype=library.ScalarType)
        for blocks, values in lattice_sum.real(k) if real else lattice_sum.complex(k):
            pattern.scatter(data, blocks, _doubled(values) if factor == 2 else values)
        begin, end = (row * factor for row in self.rows.rows(self.world.rank))
        shape = (end - begin, self.rows.dimension * factor)
        csr = (pattern.indptr.astype(library.IntType), pattern.indices.astype(library.IntType), data)
        matrix = library.Mat().createAIJ(size=(shape, shape), csr=csr, comm=self.world.comm)
        option = library.Mat.Option
        matrix.setOption(option.HERMITIAN if petsc.is_complex() else option.SYMMETRIC, True)
        return matrix


def _doubled(values: np.ndarray) -> np.ndarray:
    """Complex blocks (m, r, c) as real ones [[Re, −Im], [Im, Re]], (m, 2r, 2c)."""
    top = np.concatenate([values.real, -values.imag], axis=2)
    bottom = np.concatenate([values.imag, values.real], axis=2)
    return np.concatenate([top, bottom], axis=1)
