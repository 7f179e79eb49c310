"""Krylov-Schur on (H − σS)⁻¹ S with a factor that this program owns."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.pencil import Pencil
from deeph_mpi.solvers.shift_invert import found_vectors, shift_inverted

__all__ = ["krylov_schur"]


class _Metric:
    """PETSc's python matrix S + (V − S V) V†: S where nothing was removed, 1 on the removed V, hence positive definite.

    S itself may be negative on V, and rounding brings parts of V back when a Krylov space is exhausted.
    """

    def __init__(self, pencil: Pencil, removed: np.ndarray) -> None:
        self.pencil = pencil
        self.removed = removed
        self.change = removed - pencil.multiply(pencil.s, removed)

    def mult(self, _: Any, source: Any, target: Any) -> None:
        self.pencil.s.mult(source, target)
        parts = self.pencil.total(self.removed.conj().T @ self.pencil.unpack(source))
        self.pencil.pack(self.pencil.unpack(target) + self.change @ parts, target)


def krylov_schur(factor: ShiftedFactor, count: int, known: np.ndarray, tolerance: float) -> np.ndarray:
    """Eigenvectors nearest the factor's shift, S-orthogonal to those already known. Collective.

    In the doubled real form a vector and its partner i·x may both be returned; reduction is the caller's.

    Args:
        factor: of H − σS, factorized.
        count: how many are wanted, in the dimension of the matrices.
        known: (local_dimension, m) eigenvectors to be deflated, with their partners.
        tolerance: relative residual of the shift-inverted problem.

    Returns:
        (local_dimension, found), not normalised.
    """
    pencil = factor.pencil
    deflation = _vectors(factor, known)
    space = int(pencil.h.getSize()[0]) - len(deflation)
    free = pencil.dimension * pencil.multiplicity - len(deflation)
    count = min(count, free)
    if count <= 0:
        _destroy(deflation)
        return np.empty((pencil.local_dimension, 0), dtype=pencil.dtype)
    metric = pencil.s if pencil.removed is None else _regular_metric(pencil)
    solver = shift_inverted(pencil, (pencil.h, metric), factor.solve, factor.shift, count, space, tolerance)
    if deflation:
        solver.setDeflationSpace(deflation)
    if pencil.removed is not None:
        solver.setInitialSpace(_regular_start(factor))
    found = found_vectors(pencil, solver)
    if metric is not pencil.s:
        metric.destroy()
    _destroy(deflation)
    return found if pencil.removed is None else _kept(pencil, found)


def _kept(pencil: Pencil, found: np.ndarray) -> np.ndarray:
    """Less what lies among the removed: their directions come out too, with an infinite energy, when nothing else is left."""
    kept = pencil.without_removed(found)
    norms = pencil.total(np.stack([(np.abs(x) ** 2).sum(axis=0) for x in (found, kept)]))
    return kept[:, norms[1] > 0.5 * norms[0]]


def _regular_metric(pencil: Pencil) -> Any:
    library, _ = petsc.load()
    matrix = library.Mat().createPython(pencil.s.getSizes(), _Metric(pencil, pencil.removed), comm=pencil.world.comm)
    matrix.setUp()
    return matrix


def _regular_start(factor: ShiftedFactor) -> list[Any]:
    """A random vector without a part among the directions that are projected out: later ones have none either."""
    right, left = factor.pencil.h.createVecs()
    low, high = right.getOwnershipRange()
    right.getArray()[:] = np.random.default_rng([13, low]).standard_normal(high - low)
    factor.solve(right, left)
    right.destroy()
    return [left]


def _vectors(factor: ShiftedFactor, known: np.ndarray) -> list[Any]:
    pencil = factor.pencil
    partners = [known] if pencil.multiplicity == 1 else [known, 1j * known]
    vectors = []
    for columns in partners:
        for n in range(columns.shape[1]):
            vectors.append(pencil.h.createVecRight())
            pencil.pack(columns[:, n], vectors[-1])
    return vectors


def _destroy(vectors: list[Any]) -> None:
    for vector in vectors:
        vector.destroy()
