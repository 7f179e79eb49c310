"""Products of a symmetric matrix of which PETSc holds one triangle, spread over ranks, with several vectors at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from deeph_mpi.domain.messages import Segment, cut, post_messages, segments, wait_all
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc

__all__ = ["TriangleProduct"]

_TAG = 7401


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
        away = columns >= last
        ghosts, place = np.unique(columns[away], return_inverse=True)
        columns -= first
        columns[away] = (last - first) + place
        shape = last - first, last - first + len(ghosts)
        self._rows = scipy.sparse.csr_matrix((values, columns, indptr), shape=shape)
        self._diagonal = self._rows.diagonal()
        self._exchange = _Exchange(world, ranges, ghosts.astype(np.int64))
        self.state = int(matrix.stateGet())

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """The product with x (local rows, m), float64. Collective."""
        x = np.ascontiguousarray(x)
        product = self._rows @ np.concatenate([x, self._exchange.fetch(x)])
        below = self._rows.T @ x
        product += below[: len(x)]
        product -= self._diagonal[:, None] * x
        self._exchange.give(below[len(x) :], product)
        return product


class _Exchange:
    """Rows of vectors (rows, m) float64 of other ranks, one message per neighbour.

    What `HaloExchange` does for features, without torch, which the solvers do not load.
    """

    def __init__(self, world: World, ranges: np.ndarray, ghosts: np.ndarray) -> None:
        """Tell their owners which rows are needed: `ghosts`, ascending. Collective."""
        self._comm = world.comm
        needed = np.diff(np.searchsorted(ghosts, ranges))
        wanted = np.empty_like(needed)
        world.comm.Alltoall(needed, wanted)
        self._needed, self._wanted = segments(needed), segments(wanted)
        asked = np.empty(int(wanted.sum()), dtype=np.int64)
        self._swap(ghosts, self._needed, asked, self._wanted)
        self._asked, self._ghosts = asked - ranges[world.rank], len(ghosts)

    def fetch(self, x: np.ndarray) -> np.ndarray:
        """Rows of the ghosts. Collective among neighbours."""
        ghosts = np.empty((self._ghosts, x.shape[1]))
        self._swap(x[self._asked], self._wanted, ghosts, self._needed)
        return ghosts

    def give(self, ghosts: np.ndarray, x: np.ndarray) -> None:
        """Add rows of the ghosts to those of their owners, `x`, always in the same order. Collective among neighbours."""
        back = np.empty((len(self._asked), x.shape[1]))
        self._swap(ghosts, self._needed, back, self._wanted)
        for (_, rows), (_, got) in zip(cut(self._asked, self._wanted), cut(back, self._wanted), strict=True):
            x[rows] += got  # none twice from one rank

    def _swap(self, sent: np.ndarray, to: list[Segment], received: np.ndarray, source: list[Segment]) -> None:
        wait_all(post_messages(self._comm, cut(sent, to), cut(received, source), _TAG))
