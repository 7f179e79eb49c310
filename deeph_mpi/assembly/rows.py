"""Which rank owns which rows of the distributed matrices, and how rows map back to atoms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deeph_mpi.domain.partition import Partition

__all__ = ["RowMap"]


@dataclass(frozen=True)
class RowMap:
    """Matrix rows in the distributed order: atoms sorted by (owner, global index), so each rank's rows are contiguous.

    Attributes:
        partition: owner of every atom.
        sizes: (N,) int64, matrix rows of every atom (its orbitals; twice that for spinors).
    """

    partition: Partition
    sizes: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """(N,) int64: atoms in the order of their rows."""
        return np.argsort(self.partition.owner, kind="stable").astype(np.int64)

    @cached_property
    def place(self) -> np.ndarray:
        """(N,) int64: place of every atom in `order`."""
        place = np.empty(len(self.order), dtype=np.int64)
        place[self.order] = np.arange(len(self.order))
        return place

    @cached_property
    def first(self) -> np.ndarray:
        """(N,) int64: first matrix row of every atom."""
        first = np.empty(len(self.order), dtype=np.int64)
        sizes = self.sizes[self.order]
        first[self.order] = np.cumsum(sizes) - sizes
        return first

    @cached_property
    def starts(self) -> np.ndarray:
        """(size + 1,) int64: first row of every rank; the last entry is the dimension."""
        rows = np.bincount(self.partition.owner, weights=self.sizes, minlength=self.partition.size)
        return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    @property
    def dimension(self) -> int:
        """Rows of the whole matrix."""
        return int(self.starts[-1])

    def rows(self, rank: int) -> tuple[int, int]:
        """Half-open range of the rows of `rank`."""
        return int(self.starts[rank]), int(self.starts[rank + 1])

    def atom_order(self, rank: int) -> np.ndarray:
        """(rows of rank,) int64: for each row of `rank`, its index when all orbitals are counted in atom order."""
        atoms = self.partition.atoms(rank)
        sizes = self.sizes[atoms]
        first = (np.cumsum(self.sizes) - self.sizes)[atoms]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return (np.repeat(first, sizes) + within).astype(np.int64)
