"""PETSc matrices from the blocks of one k-point: one triangle of dense blocks, one of scalars, or all scalars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deeph_mpi.assembly.pattern import BlockPattern
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc

__all__ = ["AllScalars", "Layout", "UpperBlocks", "UpperScalars", "Values", "require_indexable"]

Values = Iterable[tuple[np.ndarray, np.ndarray]]
"""Per shape of blocks: numbers of pattern blocks (m,), and their values (m, rows, columns)."""


class Layout(Protocol):
    """How the blocks of this rank's rows are held in a PETSc matrix."""

    def create(self, world: World, local: int, whole: int) -> Any:
        """An empty matrix of `local` of the `whole` rows. Collective; the caller destroys it."""

    def fill(self, matrix: Any, values: Values) -> None:
        """Replace all entries. Collective."""


@dataclass
class UpperBlocks:
    """Symmetric matrix of equal square blocks, each block (i ≤ j) held whole (SBAIJ): 8 bytes an element.

    Attributes:
        size: rows of a block.
        indptr: (local atoms + 1,) int64.
        columns: (blocks,) int64, place of each block's column atom, ascending within a row.
    """

    size: int
    indptr: np.ndarray
    columns: np.ndarray

    def create(self, world: World, local: int, whole: int) -> Any:
        """See `Layout`."""
        matrix = _new(world, local, whole, self.size, "sbaij")
        matrix.setPreallocationCSR(self._csr())
        library, _ = petsc.load()
        matrix.setOption(library.Mat.Option.ROW_ORIENTED, False)  # blocks come by columns: copied as they are
        return matrix

    def fill(self, matrix: Any, values: Values) -> None:
        """See `Layout`."""
        library, _ = petsc.load()
        data: np.ndarray | None = None
        for blocks, part in values:
            by_columns = part.transpose(0, 2, 1)
            if len(blocks) == len(self.columns):
                data = by_columns
                break
            if data is None:
                data = np.zeros((len(self.columns), self.size, self.size), dtype=library.ScalarType)
            data[blocks] = by_columns
        flat = np.zeros(0, dtype=library.ScalarType) if data is None else np.ascontiguousarray(data).reshape(-1)
        matrix.setValuesBlockedCSR(*self._csr(), flat)
        matrix.assemble()

    def _csr(self) -> tuple[np.ndarray, np.ndarray]:
        library, _ = petsc.load()
        return self.indptr.astype(library.IntType), self.columns.astype(library.IntType)


@dataclass
class _Scalars:
    """Elements laid out by a pattern of blocks.

    Attributes:
        pattern: of the blocks that are given.
        kept: positions of the pattern that are stored; None: all.
        indptr: (local rows + 1,) of what is stored.
    """

    pattern: BlockPattern
    kept: np.ndarray | None
    indptr: np.ndarray

    def fill(self, matrix: Any, values: Values) -> None:
        """See `Layout`."""
        library, _ = petsc.load()
        data = np.zeros(len(self.pattern.indices), dtype=library.ScalarType)
        for blocks, part in values:
            self.pattern.scatter(data, blocks, part)
        matrix.setValuesCSR(*self._csr(), data if self.kept is None else data[self.kept])
        matrix.assemble()

    def _csr(self) -> tuple[np.ndarray, np.ndarray]:
        library, _ = petsc.load()
        indices = self.pattern.indices if self.kept is None else self.pattern.indices[self.kept]
        return self.indptr.astype(library.IntType), indices.astype(library.IntType)


class UpperScalars(_Scalars):
    """Symmetric matrix of blocks of several sizes: the elements on and above the diagonal (SBAIJ with blocks of one)."""

    @classmethod
    def of(cls, pattern: BlockPattern, first_row: int) -> UpperScalars:
        """From the pattern of blocks (i ≤ j) of rows that begin with `first_row`."""
        row = first_row + np.repeat(np.arange(len(pattern.indptr) - 1), np.diff(pattern.indptr))
        kept = pattern.indices >= row
        counts = np.bincount(row[kept] - first_row, minlength=len(pattern.indptr) - 1)
        return cls(pattern, np.flatnonzero(kept), np.concatenate([[0], np.cumsum(counts)]))

    def create(self, world: World, local: int, whole: int) -> Any:
        """See `Layout`."""
        matrix = _new(world, local, whole, 1, "sbaij")
        matrix.setPreallocationCSR(self._csr())
        return matrix


class AllScalars(_Scalars):
    """Every element (AIJ), for factorizations that need both triangles."""

    @classmethod
    def of(cls, pattern: BlockPattern) -> AllScalars:
        """From the pattern of all blocks."""
        return cls(pattern, None, pattern.indptr)

    def create(self, world: World, local: int, whole: int) -> Any:
        """See `Layout`."""
        library, _ = petsc.load()
        matrix = _new(world, local, whole, 1, "aij")
        matrix.setPreallocationCSR(self._csr())
        option = library.Mat.Option
        matrix.setOption(option.HERMITIAN if petsc.is_complex() else option.SYMMETRIC, True)
        return matrix


def require_indexable(dimension: int, local: int, rank: int) -> None:
    """Check that PETSc's integers hold the dimension of a matrix and its `local` elements on a rank.

    Raises:
        SolverError: they do not.
    """
    limit = petsc.index_limit()
    if dimension > limit or local > limit:
        raise SolverError(
            f"a matrix of dimension {dimension} with {local} non-zeros on rank {rank} exceeds PETSc's "
            f"{limit.bit_length() + 1}-bit integers: use more ranks, or a PETSc built with --with-64-bit-indices"
        )


def _new(world: World, local: int, whole: int, size: int, kind: str) -> Any:
    library, _ = petsc.load()
    matrix = library.Mat().create(comm=world.comm)
    matrix.setSizes(((local, whole), (local, whole)), bsize=size)
    matrix.setType(kind)
    return matrix
