"""Krylov-Schur on (H − σS)⁻¹ S with a factor that this program owns."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.factor import ShiftedFactor

__all__ = ["krylov_schur"]


class _FactorPreconditioner:
    """PETSc's python preconditioner that applies the factor, so that SLEPc neither builds nor factors H − σS itself."""

    def __init__(self, factor: ShiftedFactor) -> None:
        self.factor = factor

    def apply(self, _: Any, right: Any, left: Any) -> None:
        self.factor.solve(right, left)


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
    _, slepc = petsc.load()
    deflation = _vectors(factor, known)
    free = int(pencil.h.getSize()[0]) - len(deflation)
    count = min(count, free)
    if count <= 0:
        _destroy(deflation)
        return np.empty((pencil.local_dimension, 0), dtype=pencil.dtype)
    solver = slepc.EPS().create(pencil.world.comm)
    solver.setOperators(pencil.h, pencil.s)
    solver.setProblemType(slepc.EPS.ProblemType.GHEP)
    solver.setType(slepc.EPS.Type.KRYLOVSCHUR)
    solver.setWhichEigenpairs(slepc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(factor.shift)
    solver.setDimensions(count, min(free, max(2 * count, count + 24)))
    solver.setTolerances(tolerance, 200)
    solver.setPurify(False)  # S is regular: no null space to be cleaned away
    transform = solver.getST()
    transform.setType(slepc.ST.Type.SINVERT)
    transform.setMatMode(slepc.ST.MatMode.SHELL)
    linear = transform.getKSP()
    linear.setType("preonly")
    linear.getPC().setType("python")
    linear.getPC().setPythonContext(_FactorPreconditioner(factor))
    if deflation:
        solver.setDeflationSpace(deflation)
    solver.solve()
    vector = pencil.h.createVecRight()
    found = np.empty((pencil.local_dimension, solver.getConverged()), dtype=pencil.dtype, order="F")
    for n in range(found.shape[1]):
        solver.getEigenvector(n, vector)
        found[:, n] = pencil.unpack(vector)
    vector.destroy()
    solver.destroy()
    _destroy(deflation)
    return found


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
