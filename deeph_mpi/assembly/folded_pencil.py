"""The pencil of a crystal in its real gauge: real matrices of the dimension of H(k), at any k that the operation keeps."""

from __future__ import annotations

import numpy as np

from deeph_mpi.assembly.folded_blocks import FoldedBlocks, fold_blocks
from deeph_mpi.assembly.folded_sum import FoldedSum
from deeph_mpi.assembly.gauge_vectors import GaugeVectors
from deeph_mpi.assembly.matrices import Layout, UpperBlocks, UpperScalars, require_indexable
from deeph_mpi.assembly.pattern import BlockPattern
from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.handover import spread
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["FoldedPencil"]


class FoldedPencil:
    """H and S between the functions of a real gauge, one triangle. A rank has the rows of its own leading atoms.

    The functions χ₊ of the orbitals of a leading atom are one part of its rows, χ₋ another: away from the sides of the cell in
    which the homes lie, bonds have no phases and do not couple χ₊ with χ₋. The graph is then that of two sheets of half the
    cell, and the factor as large as that of H(Γ).

    Attributes:
        broken_h, broken_s: largest element of H (eV) and S by which a block differs from the average with its image.
    """

    def __init__(self, world: World, rows: RowMap, gauge: RealGauge, h: BlockSet, s: BlockSet) -> None:
        """Fold the blocks. Collective.

        Args:
            world: the ranks.
            rows: distribution of the orbitals.
            gauge: the functions.
            h, s: all blocks of the owned atoms, real.

        Raises:
            DataError: double blocks.
        """
        self.world, self.gauge = world, gauge
        self.rows = RowMap(rows.partition, rows.sizes * gauge.parts)
        self._vectors = GaugeVectors(world, rows, gauge)
        parts = gauge.parts[self.rows.order]
        first = np.empty_like(parts)
        first[self.rows.order] = np.cumsum(parts) - parts
        atom = np.repeat(self.rows.order, parts)  # of every part
        self._sizes = rows.sizes[atom]
        self._begin = self.rows.first[atom] + (np.arange(len(atom)) - first[atom]) * self._sizes
        owner = self.rows.partition.owner[atom]
        self._low, self._high = (int(np.searchsorted(owner, world.rank, side=side)) for side in ("left", "right"))
        self._atoms = np.repeat(atom[self._low : self._high], self._sizes[self._low : self._high])
        sums = []
        for blocks in (h, s):
            folded, broken = self._folded(blocks)
            sums.append((FoldedSum(folded, gauge, first, len(atom)), broken))
        (self._h, self.broken_h), (self._s, self.broken_s) = sums
        self._made: Layout | None = None

    def pencil(self, k: np.ndarray, former: Pencil | None) -> Pencil:
        """See `PencilAssembler.pencil`.

        Raises:
            SolverError: when dimension or non-zeros exceed PETSc's integers.
        """
        if self._made is None:
            with self.world.together():
                self._made = self._layout()
        if former is not None and isinstance(former.gauge, GaugeVectors):
            pencil = former
        else:
            local = int(self._sizes[self._low : self._high].sum())
            h, s = (self._made.create(self.world, local, self.rows.dimension) for _ in range(2))
            pencil = Pencil(self.world, h, s, block=self._block(), atoms=self._atoms)
        pencil.gauge = self._vectors.at(k)
        for matrix, folded in ((pencil.h, self._h), (pencil.s, self._s)):
            self._made.fill(matrix, folded.at(k))
        return pencil

    def release(self) -> None:
        """Free the blocks. Local."""
        self._h.release()
        self._s.release()

    def _folded(self, blocks: BlockSet) -> tuple[list[FoldedBlocks], float]:
        if self.world.size > 1:  # the partners' rows come to the leading atoms'
            to = self.rows.partition.owner[self.gauge.lead]
            blocks = spread(self.world, blocks, to[None], self.gauge.sizes)
        with self.world.together():
            folded, broken = fold_blocks(blocks, self.gauge, self.rows.place)
        return folded, self.world.max(broken)

    def _block(self) -> int:
        return int(self._sizes[0]) if (self._sizes == self._sizes[0]).all() else 1

    def _layout(self) -> Layout:
        """Number the blocks of the common pattern, the union of H, S and the diagonal, and lay them out."""
        whole = len(self._sizes)
        mine = np.arange(self._low, self._high)
        pattern = np.unique(np.concatenate([self._h.targets, self._s.targets, mine * (whole + 1)]))
        for folded in (self._h, self._s):
            folded.number(pattern)
        row, column = pattern // whole - self._low, pattern % whole
        heights, widths = self._sizes[mine], self._sizes[column]
        require_indexable(self.rows.dimension, int((heights[row] * widths).sum()), self.world.rank)
        if self._block() > 1 and self.world.size == 1:
            counts = np.bincount(row, minlength=len(mine))
            return UpperBlocks(self._block(), np.concatenate([[0], np.cumsum(counts)]), column)
        return UpperScalars.of(
            BlockPattern.build(row, heights, self._begin[column], widths), self.rows.rows(self.world.rank)[0]
        )
