"""A factor without the smallest blocks, and eigenpairs of the whole matrices from it.

Without blocks of H − σS that add up to Δ the factor is that of the pencil (H + Δ, S), whose eigenpairs block Lanczos finds.
What Δ does to them follows from perturbation theory with the whole H: Rayleigh-Ritz takes it into account to first order; to
second order the rest of an energy is −r†(H − σS)⁻¹r with the residual r, and the factor gives that as well as the direction
in which the vectors are to be corrected, so that energies are then exact to third order (the wave function to first:
Wigner's 2n + 1; one step of Davidson's method, J. Comput. Phys. 17, 87 (1975)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deeph_mpi.parallel.memory import return_freed_memory
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["SmallerMatrix", "corrected_vectors"]

_CHUNK = 1 << 22  # elements looked at at a time
_INDEPENDENT = 1e-8  # of a unit vector, squared
_ROUNDING = 1e-6  # of a correction: what is left of one that lies in the space already


class SmallerMatrix:
    """A matrix of the pencil's pattern less the blocks between two atoms whose Frobenius norm is below a tolerance.

    Attributes:
        share: of the elements of the pattern that was kept the last time.
    """

    def __init__(self, pencil: Pencil, tolerance: float) -> None:
        """For matrices of this pencil; nothing is made yet. Collective.

        Args:
            pencil: says which rows belong to which atom; without atoms every row is one.
            tolerance: eV.
        """
        self._pencil, self._tolerance = pencil, tolerance
        self._matrix: Any = None
        self._kept = np.empty(0, dtype=bool)
        self.share = 1.0
        rows = pencil.h.getLocalSize()[0]
        labels = np.arange(rows) if pencil.atoms is None else pencil.atoms
        if pencil.atoms is not None and pencil.real_part is not None:
            labels = np.empty(rows, dtype=np.int64)
            labels[pencil.real_part] = labels[pencil.imaginary_part] = pencil.atoms
        first = np.flatnonzero(np.diff(labels, prepend=-1) != 0)
        own = np.diff(np.append(first, rows))
        self._row = np.repeat(np.arange(len(own)), own)  # number of the atom among the own ones
        counts = np.concatenate(pencil.world.comm.allgather(own))  # rows of every atom, in the order of the rows
        self._starts = np.cumsum(counts) - counts
        self._size = int(counts[0]) if len(counts) and (counts == counts[0]).all() else 0

    def of(self, matrix: Any) -> Any:
        """The smaller matrix; it is this object's, and the same one as long as the same blocks stay. Collective."""
        library, _ = petsc.load()
        if matrix.getType().endswith("sbaij"):
            matrix.setOption(library.Mat.Option.GETROW_UPPERTRIANGULAR, True)
        indptr, columns, values = matrix.getValuesCSR()
        kept = self._large(indptr, columns, values)
        stay = np.concatenate([[0], np.cumsum(kept, dtype=indptr.dtype)])[indptr]
        csr = stay.astype(indptr.dtype), columns[kept], values[kept]
        del columns, values  # as large as the matrix
        same = self._matrix is not None and np.array_equal(kept, self._kept)
        comm = self._pencil.world.comm
        if not all(comm.allgather(bool(same))):
            self.destroy()
            self._matrix, self._kept = library.Mat().create(comm=comm), kept
            self._matrix.setSizes((matrix.getSizes()[0],) * 2, bsize=1)
            self._matrix.setType("sbaij" if matrix.getType().endswith("sbaij") else "aij")
            self._matrix.setPreallocationCSR(csr[:2])
            if not matrix.getType().endswith("sbaij"):
                option = library.Mat.Option
                self._matrix.setOption(option.HERMITIAN if petsc.is_complex() else option.SYMMETRIC, True)
        self._matrix.setValuesCSR(*csr)
        self._matrix.assemble()
        del csr
        return_freed_memory()
        part = np.array([kept.sum(), len(kept)], dtype=np.float64)
        few, whole = self._pencil.total(part)
        self.share = float(few / max(whole, 1.0))
        return self._matrix

    def destroy(self) -> None:
        """Free the matrix. Collective."""
        if self._matrix is not None:
            self._matrix.destroy()
        self._matrix = None

    def _atom_of(self, columns: np.ndarray) -> np.ndarray:
        """Number of the atom, among all, of every column."""
        if self._size:
            return columns // self._size
        return np.searchsorted(self._starts, columns, side="right") - 1

    def _large(self, indptr: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(elements,) bool: those of blocks that stay. In a row the columns of an atom follow each other."""
        keys, squares, lengths = [], [], []
        atoms = np.int64(len(self._starts) + 1)
        step = max(1, _CHUNK * max(len(indptr) - 1, 1) // max(len(values), 1))
        for first in range(0, len(indptr) - 1, step):
            ends = indptr[first : first + step + 1]
            part = slice(ends[0], ends[-1])
            row = np.repeat(self._row[first : first + len(ends) - 1], np.diff(ends))
            key = row * atoms + self._atom_of(columns[part])
            start = np.flatnonzero(np.diff(key, prepend=-1) != 0)
            start = np.union1d(start, ends[:-1][np.diff(ends) > 0] - ends[0])
            keys.append(key[start])
            lengths.append(np.diff(np.append(start, len(key))))
            squares.append(np.add.reduceat(np.abs(values[part]) ** 2, start) if len(start) else np.empty(0))
        if not keys:
            return np.empty(0, dtype=bool)
        _, block = np.unique(np.concatenate(keys), return_inverse=True)
        norms = np.sqrt(np.bincount(block, weights=np.concatenate(squares)))
        return np.repeat((norms >= self._tolerance)[block], np.concatenate(lengths))


def corrected_vectors(
    pencil: Pencil, solve: Callable[[np.ndarray], np.ndarray], vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors of the whole pencil from those of one without small blocks, near the shift of its factor. Collective.

    Args:
        pencil: the whole matrices.
        solve: applies the inverse that the factor gives to (local_dimension, m).
        vectors: (local_dimension, m) S-orthonormal eigenvectors of the other pencil.

    Returns:
        S-orthonormal vectors (local_dimension, as many as are independent), and for each what second order says of the
        energy that the former ones have with the whole H, eV: the size of their errors, and commonly several times those of
        the new ones, as long as it is small beside distances to other states.
    """
    vectors, s_space = _independent(pencil, vectors)  # those of the doubled real form may come twice
    h_space = pencil.multiply(pencil.h, vectors)
    energies, ritz = pencil.eigh(pencil.total(vectors.conj().T @ h_space))
    vectors, h_space, s_space = vectors @ ritz, h_space @ ritz, s_space @ ritz
    residual = pencil.without_removed(h_space - s_space * energies)
    step = solve(residual)
    left = np.abs(pencil.total((residual.conj() * step).sum(axis=0)))
    whole = _norms(pencil, step, pencil.multiply(pencil.s, step))
    for _ in range(2):  # twice is enough
        step = step - vectors @ pencil.total(s_space.conj().T @ step)
    new = _norms(pencil, step, pencil.multiply(pencil.s, step)) > _ROUNDING * whole
    step, s_step = _independent(pencil, step[:, new])
    space, s_space = np.concatenate([vectors, step], axis=1), np.concatenate([s_space, s_step], axis=1)
    h_space = np.concatenate([h_space, pencil.multiply(pencil.h, step)], axis=1)
    _, ritz = pencil.eigh(*(pencil.total(space.conj().T @ image) for image in (h_space, s_space)))
    # Others of the same energy, made of corrections alone, are no eigenvectors: those that are most of the former ones are.
    most = np.argsort(-(np.abs(ritz[: len(energies)]) ** 2).sum(axis=0), kind="stable")[: len(energies)]
    return space @ ritz[:, np.sort(most)], left


def _independent(pencil: Pencil, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S-orthonormal vectors of the same space (local_dimension, m or less), and their products with S. Collective."""
    image = pencil.multiply(pencil.s, vectors)
    scale = _norms(pencil, vectors, image)
    metric, rotation = pencil.eigh(pencil.total((vectors / scale).conj().T @ (image / scale)))
    kept = metric > _INDEPENDENT
    change = rotation[:, kept] / np.sqrt(metric[kept]) / scale[:, None]
    return vectors @ change, image @ change


def _norms(pencil: Pencil, vectors: np.ndarray, images: np.ndarray) -> np.ndarray:
    """S-norms (m,) of vectors with their products with S. Collective."""
    return np.sqrt(np.maximum(pencil.total((vectors.conj() * images).real.sum(axis=0)), 1e-300))
