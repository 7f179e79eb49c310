"""The generalized eigenproblem H x = E S x, distributed by rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.linalg

from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.triangle import TriangleProduct

__all__ = ["Gauge", "Pencil"]


class Gauge(Protocol):
    """Combinations of orbitals that make a complex Hermitian pencil real at the same dimension."""

    def orbitals(self, x: np.ndarray) -> np.ndarray:
        """Complex coefficients of the orbitals (those of this rank, m) from vectors (local_dimension, m). Collective."""


@dataclass
class Pencil:
    """H(k) and S(k) as PETSc matrices with one common sparsity pattern.

    In real arithmetic a complex Hermitian pencil of dimension n is held in its real form [[Re, −Im], [Im, Re]] of
    dimension 2n, rows interleaved per atom; `real_part` and `imaginary_part` then say where Re x and Im x lie. Every
    eigenvalue of the 2n problem is doubled: (x, y) and (−y, x) are both x + iy.

    Attributes:
        world: the ranks that share the matrices.
        h, s: petsc4py Mat, eV and dimensionless, Hermitian: a factorization may read one triangle only. AIJ, or SBAIJ,
            which holds one triangle.
        real_part, imaginary_part: (local rows / 2,) int64 local rows of the real and imaginary parts, or both None.
        block: rows that share their columns, where the whole matrix is made of such blocks: only their graph is ordered.
        atoms: (local_dimension,) int64 atom of every row of the eigenvectors; None where rows have no atoms.
        removed: (local_dimension, m) orthonormal eigenvectors of S that are projected out of the eigenproblem; None: none.
        gauge: what rows stand for, where they are combinations of orbitals, orthonormal as those; None: orbitals.
    """

    world: World
    h: Any
    s: Any
    real_part: np.ndarray | None = None
    imaginary_part: np.ndarray | None = None
    block: int = 1
    atoms: np.ndarray | None = None
    removed: np.ndarray | None = None
    gauge: Gauge | None = None
    _overlap: TriangleProduct | None = field(default=None, init=False, repr=False)

    @property
    def multiplicity(self) -> int:
        """How often each eigenvalue occurs in the matrices: 2 in the doubled real form."""
        return 1 if self.real_part is None else 2

    @property
    def dimension(self) -> int:
        """Number of states: rows of the eigenvectors over all ranks, less those projected out."""
        rows = int(self.h.getSize()[0]) // self.multiplicity
        return rows if self.removed is None else rows - self.removed.shape[1]

    @property
    def local_dimension(self) -> int:
        """Rows of the eigenvectors on this rank."""
        return int(self.h.getLocalSize()[0]) // self.multiplicity

    @property
    def dtype(self) -> np.dtype:
        """Type of the eigenvectors: float64 for a real pencil, else complex128."""
        return np.dtype(np.float64 if self.multiplicity == 1 and not petsc.is_complex() else np.complex128)

    def pack(self, x: np.ndarray, vec: Any) -> None:
        """Write one local vector (local_dimension,) into a PETSc vector of the matrices."""
        array = vec.getArray()
        self.pack_array(x, array)
        del array  # the view holds the vector's write access

    def pack_array(self, x: np.ndarray, array: np.ndarray) -> None:
        """Write one local vector (local_dimension,) into local rows of the matrices."""
        if self.real_part is None:
            array[:] = x
        else:
            array[self.real_part] = x.real
            array[self.imaginary_part] = x.imag

    def unpack(self, vec: Any) -> np.ndarray:
        """The local part of a PETSc vector as an array (local_dimension,)."""
        return self.unpack_array(vec.getArray(readonly=True))

    def unpack_array(self, array: np.ndarray) -> np.ndarray:
        """Local rows of the matrices as a new array (local_dimension,)."""
        if self.real_part is None:
            return array.copy()
        return array[self.real_part] + 1j * array[self.imaginary_part]

    def orbitals(self, x: np.ndarray) -> np.ndarray:
        """Coefficients of the orbitals of this rank from vectors x (local_dimension, m). Collective.

        Complex ones are such coefficients already: the vectors of a gauge are real.
        """
        return x if self.gauge is None or np.iscomplexobj(x) else self.gauge.orbitals(x)

    def multiply(self, matrix: Any, x: np.ndarray) -> np.ndarray:
        """Product of `h` or `s` with the columns of x (local_dimension, m). Collective."""
        if self.world.size == 1 and x.shape[1] > 1 and not self._wrong_together(matrix):
            return self._multiply_together(matrix, x)
        if matrix is self.s and x.shape[1] > 1 and matrix.getType() == "mpisbaij" and matrix.getBlockSize() == 1:
            return self._multiply_overlap(x)
        source, target = matrix.createVecs()
        result = np.empty_like(x)
        for column in range(x.shape[1]):
            self.pack(x[:, column], source)
            matrix.mult(source, target)
            result[:, column] = self.unpack(target)
        source.destroy()
        target.destroy()
        return result

    def _multiply_overlap(self, x: np.ndarray) -> np.ndarray:
        """S is multiplied with a block in every step of the eigensolver, so that a copy for it is worth its memory."""
        if self._overlap is None or self._overlap.state != self.s.stateGet():
            self._overlap = None  # its memory first
            self._overlap = TriangleProduct(self.world, self.s)
        packed = np.empty((self.s.getLocalSize()[0], x.shape[1]))
        for column in range(x.shape[1]):
            self.pack_array(x[:, column], packed[:, column])
        product = self._overlap @ packed
        return np.stack([self.unpack_array(column) for column in product.T], axis=1)

    @staticmethod
    def _wrong_together(matrix: Any) -> bool:
        """Whether PETSc (3.18 to 3.26) multiplies this matrix with a dense one wrongly.

        MatMatMult_SeqSBAIJ_3_Private, and those for blocks of 4 and 5, take blocks above the diagonal for those below,
        untransposed.
        """
        return matrix.getType() == "seqsbaij" and 3 <= matrix.getBlockSize() <= 5

    def _multiply_together(self, matrix: Any, x: np.ndarray) -> np.ndarray:
        """On one rank the matrix is read once for all columns; PETSc cannot do that with a triangle spread over ranks."""
        library, _ = petsc.load()
        packed = np.empty((matrix.getLocalSize()[0], x.shape[1]), order="F", dtype=library.ScalarType)
        for column in range(x.shape[1]):
            self.pack_array(x[:, column], packed[:, column])
        source = library.Mat().createDense(packed.shape, array=packed, comm=self.world.comm)
        source.assemble()
        target = matrix.matMult(source)
        found = target.getDenseArray()
        result = np.empty_like(x)
        for column in range(x.shape[1]):
            result[:, column] = self.unpack_array(found[:, column])
        del found
        source.destroy()
        target.destroy()
        return result

    def total(self, local: np.ndarray) -> np.ndarray:
        """Sum of an array over the ranks. Collective."""
        local = np.ascontiguousarray(local)
        total = np.empty_like(local)
        self.world.comm.Allreduce(local, total)
        return total

    def eigh(self, *matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenpairs of a small dense Hermitian A, or of A and B, the same on all ranks. Collective.

        Rank 0 solves, so that all ranks go on with the same bits.
        """
        symmetric = [(matrix + matrix.conj().T) / 2 for matrix in matrices]
        return self.world.on_root(scipy.linalg.eigh, *symmetric)

    def without_removed(self, x: np.ndarray) -> np.ndarray:
        """Columns x (local_dimension, m) less their part among the `removed`. Collective."""
        if self.removed is None:
            return x
        return x - self.removed @ self.total(self.removed.conj().T @ x)

    def destroy(self) -> None:
        """Free the matrices. Collective."""
        self._overlap = None
        self.h.destroy()
        self.s.destroy()
