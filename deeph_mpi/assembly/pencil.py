"""From blocks to the distributed pencil (H(k), S(k)) of a k-point."""

from __future__ import annotations

import logging

import numpy as np

from deeph_mpi.assembly.folded_pencil import FoldedPencil
from deeph_mpi.assembly.hermiticity import require_hermitian
from deeph_mpi.assembly.lattice_sum import LatticeSum, is_time_reversal_invariant, real_form
from deeph_mpi.assembly.matrices import AllScalars, Layout, UpperBlocks, UpperScalars, require_indexable
from deeph_mpi.assembly.pattern import BlockPattern
from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.errors import DataError
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["PencilAssembler"]

log = logging.getLogger(__name__)


class PencilAssembler:
    """Blocks of this rank's rows, sorted once per structure; `pencil(k)` only applies the phases of k.

    Holds its own sorted copy of the blocks: the caller may free the originals. Where the factorization is that of a
    symmetric matrix, only blocks on and above the diagonal are held.

    Attributes:
        world: the ranks that share the matrices.
        rows: distribution of the rows.
        nonzeros: elements of the common pattern of H and S over all ranks, at Γ, both triangles counted.
    """

    def __init__(
        self,
        world: World,
        rows: RowMap,
        h: BlockSet,
        s: BlockSet,
        *,
        spinful: bool = False,
        backend: str = "auto",
        gauge: RealGauge | None = None,
    ) -> None:
        """Sort the blocks and number those of the common pattern, the union of H, S and the diagonal. Collective.

        Args:
            world: the ranks; `world.size` is that of the partition.
            rows: `rows.sizes` counts matrix rows per atom, 2n for spinors.
            h: all blocks (R, i, j) of the owned atoms i, in eV.
            s: the same of the overlap; its list of pairs may differ from that of `h`.
            spinful: H is made of (2n_i, 2n_j) complex spinor blocks, S of (n_i, n_j) blocks without spin.
            backend: package that will factor the matrices; it decides whether one triangle is enough.
            gauge: makes the matrices of all k-points that will be asked for real, where H and S have the symmetry that the
                structure has; None: there is none, or it is not wanted.

        Raises:
            DataError: blocks of foreign rows, unknown atoms, double blocks or wrong sizes.
            SolverError: H or S is not Hermitian.
        """
        self.world, self.rows = world, rows
        self._triangle = petsc.factors_triangle(backend)
        self._made: tuple[int, Layout] | None = None  # how matrices of dimension 1 or 2 times n are laid out
        with world.together():
            self._atoms = rows.partition.atoms(world.rank)
            numbers = self._number(h, s)
            wanted = numbers if gauge is None else [_onsite_only(x, n) for x, n in zip((h, s), numbers, strict=True)]
            self._h = self._sum(h, wanted[0], spin_diagonal=False)
            self._s = self._sum(s, wanted[1], spin_diagonal=spinful)
            self._check_onsite()
            self._row_atom, self._column_atom = self._blocks[:, 0], rows.order[self._blocks[:, 1]]
        require_hermitian(world, rows, h, rows.sizes, "Hamiltonian")
        require_hermitian(world, rows, s, rows.sizes // (2 if spinful else 1), "overlap")
        self._folded = None if gauge is None else self._fold(gauge, h, s)
        if gauge is not None and self._folded is None:
            with world.together():
                self._h, self._s = (self._sum(x, n, spin_diagonal=False) for x, n in zip((h, s), numbers, strict=True))
        elements = rows.sizes[self._atoms[self._row_atom]] * rows.sizes[self._column_atom]
        if self._triangle:
            elements = elements * np.where(self._atoms[self._row_atom] == self._column_atom, 1, 2)
        self.nonzeros = int(world.comm.allreduce(int(elements.sum())))

    def pencil(self, k: np.ndarray, former: Pencil | None = None) -> Pencil:
        """The pencil at k (3,) fractional. Collective; the caller destroys it.

        At time-reversal invariant k (2k a reciprocal lattice vector) without spinors the matrices are real, of
        dimension n, and at every k in a real gauge. Elsewhere they take the doubled real form of dimension 2n, or are complex
        in complex builds of PETSc.

        Args:
            k: fractional.
            former: a pencil of this assembler at another k; where its pattern is the same it is filled anew and
                returned, else it is left alone.

        Raises:
            SolverError: when dimension or non-zeros exceed PETSc's integers.
        """
        k = np.asarray(k, dtype=np.float64)
        if self._folded is not None:
            return self._folded.pencil(k, former)
        real = is_time_reversal_invariant(k) and not (self._h.is_complex or self._s.is_complex)
        factor = 1 if real or petsc.is_complex() else 2
        if self._made is None or self._made[0] != factor:
            with self.world.together():
                self._check_limits(factor)
                self._made = factor, self._layout(factor)
        layout = self._made[1]
        pencil = former if former is not None and former.multiplicity == factor else self._empty(layout, factor)
        for matrix, lattice_sum in ((pencil.h, self._h), (pencil.s, self._s)):
            sums = lattice_sum.real(k) if real else lattice_sum.complex(k)
            layout.fill(matrix, ((n, real_form(x)) for n, x in sums) if factor == 2 else sums)
            del sums
        return pencil

    def release(self) -> None:
        """Free the blocks: no other pencil will be asked for. Local."""
        self._h.release()
        self._s.release()
        if self._folded is not None:
            self._folded.release()

    def _fold(self, gauge: RealGauge, h: BlockSet, s: BlockSet) -> FoldedPencil | None:
        """The pencil in a real gauge; None where that is of no use, or H and S do not have the symmetry. Collective."""
        if not self._triangle or self._h.is_complex or self._s.is_complex:
            return None
        folded = FoldedPencil(self.world, self.rows, gauge, h, s)
        name = gauge.reversal.name
        if folded.broken_h > gauge.averaged[0] or folded.broken_s > gauge.averaged[1]:
            log.info(
                "H and S differ from their averages with their images under the %s of the structure by up to %.1e eV and %.1e "
                "(allowed are %.0e and %.0e): at general k their real form has twice the dimension",
                name, folded.broken_h, folded.broken_s, *gauge.averaged,
            )  # fmt: skip
            return None
        log.info(
            "real gauge: %s and time reversal make H and S real at all k-points asked for (averaged over %.1e eV and %.1e)",
            name, folded.broken_h, folded.broken_s,
        )  # fmt: skip
        return folded

    def _empty(self, layout: Layout, factor: int) -> Pencil:
        local, whole = int(self.rows.sizes[self._atoms].sum()) * factor, self.rows.dimension * factor
        h, s = (layout.create(self.world, local, whole) for _ in range(2))
        mine = self.rows.sizes[self._atoms]
        atoms = np.repeat(self._atoms, mine)
        if factor == 1:
            return Pencil(self.world, h, s, block=self._block(factor), atoms=atoms)
        within = np.arange(mine.sum())
        real_part = within + np.repeat(np.cumsum(mine) - mine, mine)
        return Pencil(self.world, h, s, real_part, real_part + np.repeat(mine, mine), self._block(factor), atoms)

    def _block(self, factor: int) -> int:
        """Rows of every atom where all have as many, else 1."""
        sizes = self.rows.sizes
        return int(sizes[0]) * factor if (sizes == sizes[0]).all() else 1

    def _layout(self, factor: int) -> Layout:
        sizes = self.rows.sizes * factor
        # MatAXPY of PETSc (3.18 to 3.26 at least) adds a fraction of the elements only to matrices of larger blocks that are
        # spread over ranks.
        if self._triangle and self._block(factor) > 1 and self.world.size == 1:
            counts = np.bincount(self._row_atom, minlength=len(self._atoms))
            return UpperBlocks(int(sizes[0]), np.concatenate([[0], np.cumsum(counts)]), self._blocks[:, 1])
        pattern = BlockPattern.build(
            self._row_atom, sizes[self._atoms], self.rows.first[self._column_atom] * factor, sizes[self._column_atom]
        )
        if self._triangle:
            return UpperScalars.of(pattern, self.rows.rows(self.world.rank)[0] * factor)
        return AllScalars.of(pattern)

    def onsite_levels(self) -> np.ndarray:
        """Eigenvalues (m,) of the owned atoms' blocks (R = 0, i, i), eV: the levels that hopping broadens into bands.

        Local, before `release`. A first guess of where the spectrum fills up, not a result.
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
        place = self.rows.place
        local = np.full(atoms, -1, dtype=np.int64)
        local[self._atoms] = np.arange(len(self._atoms))
        keys = [local[self._atoms] * atoms + place[self._atoms]]
        for name, blocks in (("Hamiltonian", h), ("overlap", s)):
            ij = blocks.pairs[:, 3:]
            if len(ij) and (ij.min() < 0 or ij.max() >= atoms):
                raise DataError(f"the {name} has blocks of atom {ij.max()}, but the structure has {atoms} atoms")
            if (local[ij[:, 0]] < 0).any():
                raise DataError(f"the {name} given to rank {self.world.rank} has blocks of rows that it does not own")
            key = local[ij[:, 0]] * atoms + place[ij[:, 1]]
            if self._triangle:
                key[place[ij[:, 0]] > place[ij[:, 1]]] = -1
            keys.append(key)
        unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        below = int(unique[0] < 0) if len(unique) else 0  # the number of what is left out, if anything is
        unique = unique[below:]
        self._blocks = np.stack([unique // atoms, unique % atoms], axis=1)
        return np.split(inverse.reshape(-1)[len(keys[0]) :] - below, [len(keys[1])])

    def _sum(self, blocks: BlockSet, number: np.ndarray, *, spin_diagonal: bool) -> LatticeSum:
        sizes = self.rows.sizes
        heights, widths = sizes[blocks.pairs[:, 3]], sizes[blocks.pairs[:, 4]]
        return LatticeSum(blocks, number, heights, widths, spin_diagonal=spin_diagonal)

    def _check_limits(self, factor: int) -> None:
        sizes = self.rows.sizes * factor
        local = int((sizes[self._atoms[self._row_atom]] * sizes[self._column_atom]).sum())
        require_indexable(self.rows.dimension * factor, local, self.world.rank)


def _onsite_only(blocks: BlockSet, number: np.ndarray) -> np.ndarray:
    """`number` (n,) of the blocks (R = 0, i, i), −1 of the others."""
    onsite = (blocks.pairs[:, 3] == blocks.pairs[:, 4]) & ~blocks.pairs[:, :3].any(axis=1)
    return np.where(onsite, number, -1)
