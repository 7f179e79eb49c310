"""Products of a symmetric matrix of which PETSc holds one triangle, spread over ranks, with several vectors at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch

from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.partition import Partition
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc

__all__ = ["TriangleProduct"]


class TriangleProduct:
    """A copy of the rows on and above the diagonal (12 bytes an element) that reads each element twice for all vectors.

    PETSc multiplies such a matrix with one vector at a time. Here rows of the vectors come from the ranks that follow, and
    what their rows get from this rank's elements goes back to them.

    Attributes:
        state: of the PETSc matrix when it was copied; it counts changes.
    """

    def __init__(self, world: World, matrix: Any) -> None:
        """Copy the triangle. Collective.

        Args:
            world: the ranks of `matrix`.
            matrix: petsc4py Mat, MPISBAIJ with blocks of one, assembled.
        """
        library, _ = petsc.load()
        matrix.setOption(library.Mat.Option.GETROW_UPPERTRIANGULAR, True)
        indptr, columns, values = matrix.getValuesCSR()
        ranges = matrix.getOwnershipRanges()
        first, last = ranges[world.rank], ranges[world.rank + 1]
        ghosts = np.unique(columns[columns >= last])
        place = np.where(columns < last, columns - first, (last - first) + np.searchsorted(ghosts, columns))
        shape = last - first, last - first + len(ghosts)
        self._rows = scipy.sparse.csr_matrix((values, place.astype(columns.dtype), indptr), shape=shape)
        self._diagonal = self._rows.diagonal()
        owner = np.repeat(np.arange(world.size, dtype=np.int32), np.diff(ranges))
        self._halo = HaloExchange(world, Partition(owner, world.size), ghosts)
        self.state = int(matrix.stateGet())

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """The product with x (local rows, m). Collective."""
        below = self._rows.T @ x
        below[: len(x)] -= self._diagonal[:, None] * x
        total = self._halo.reverse(torch.from_numpy(below)).numpy()
        total += self._rows @ self._halo.exchange_array(x)
        return total
