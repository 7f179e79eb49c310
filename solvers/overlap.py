"""Near-null directions of the overlap: found, named by atoms, and projected out of the eigenproblem on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

if TYPE_CHECKING:
    from deeph_mpi.solvers.factor import ShiftedFactor

__all__ = ["atoms_of", "overlap_modes"]

_ROUNDS = 8
_RESIDUAL = 1e-8  # ‖S v − λ v‖ of an accepted vector


class _Inverse:
    """PETSc's python preconditioner that applies the factor of S − λ."""

    def __init__(self, factor: ShiftedFactor) -> None:
        self.factor = factor

    def apply(self, _: Any, right: Any, left: Any) -> None:
        self.factor.solve(right, left)


def overlap_modes(factor: ShiftedFactor, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of S below `threshold` and their vectors. Collective.

    Args:
        factor: its present factor is that of S − threshold.
        threshold: above 0.
        count: how many there are, or as many of them as are wanted, the nearest to the threshold first.

    Returns:
        (m,) ascending, and (local_dimension, m) orthonormal.

    Raises:
        SolverError: fewer were found.
    """
    pencil = factor.pencil
    values = np.empty(0)
    vectors = np.empty((pencil.local_dimension, 0), dtype=pencil.dtype)
    for attempt in range(_ROUNDS):
        # Those above the threshold may be nearer: more are asked for each time.
        candidates = _nearest(factor, threshold, pencil.multiplicity * (count + 4) * 2**attempt)
        values, vectors = _rayleigh_ritz(pencil, candidates)
        below = values < threshold
        if int(below.sum()) >= count:
            chosen = np.flatnonzero(below)[-count:]
            return values[chosen], vectors[:, chosen]
    raise SolverError(
        f"only {int((values < threshold).sum())} of the {count} eigenvectors of the overlap below {threshold:g} were found"
    )


def atoms_of(pencil: Pencil, vectors: np.ndarray, most: int = 6) -> list[int]:
    """Atoms that carry most of these vectors (local_dimension, m), 0-based, the first of them first. Collective."""
    if pencil.atoms is None:
        return []
    weights = (np.abs(vectors) ** 2).sum(axis=1)
    atoms, inverse = np.unique(pencil.atoms, return_inverse=True)
    local = np.bincount(inverse, weights, len(atoms))
    first = np.argsort(-local, kind="stable")[:most]
    found = pencil.world.comm.allgather(list(zip(local[first].tolist(), atoms[first].tolist(), strict=True)))
    return [atom for weight, atom in sorted((x for part in found for x in part), key=lambda x: (-x[0], x[1]))[:most]]


def _nearest(factor: ShiftedFactor, threshold: float, count: int) -> np.ndarray:
    """Approximate eigenvectors of S nearest `threshold` (local_dimension, m)."""
    pencil = factor.pencil
    _, slepc = petsc.load()
    rows = int(pencil.s.getSize()[0])
    count = min(count, rows)
    solver = slepc.EPS().create(pencil.world.comm)
    solver.setOperators(pencil.s)
    solver.setProblemType(slepc.EPS.ProblemType.HEP)
    solver.setType(slepc.EPS.Type.KRYLOVSCHUR)
    solver.setWhichEigenpairs(slepc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(threshold)
    solver.setDimensions(count, min(rows, max(2 * count, count + 24)))
    solver.setTolerances(1e-10, 200)
    transform = solver.getST()
    transform.setType(slepc.ST.Type.SINVERT)
    transform.setMatMode(slepc.ST.MatMode.SHELL)
    linear = transform.getKSP()
    linear.setType("preonly")
    linear.getPC().setType("python")
    linear.getPC().setPythonContext(_Inverse(factor))
    solver.solve()
    vector = pencil.s.createVecRight()
    found = np.empty((pencil.local_dimension, solver.getConverged()), dtype=pencil.dtype, order="F")
    for n in range(found.shape[1]):
        solver.getEigenvector(n, vector)
        found[:, n] = pencil.unpack(vector)
    vector.destroy()
    solver.destroy()
    return found


def _rayleigh_ritz(pencil: Pencil, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of S in the span of `candidates`, without copies and without what has not converged."""
    metric, rotation = _eigh(pencil, pencil.total(candidates.conj().T @ candidates))
    independent = metric > 1e-6 * metric.max(initial=1e-300)
    space = candidates @ (rotation[:, independent] / np.sqrt(metric[independent]))
    image = pencil.multiply(pencil.s, space)
    values, ritz = _eigh(pencil, pencil.total(space.conj().T @ image))
    vectors = space @ ritz
    difference = image @ ritz - vectors * values
    residuals = np.sqrt(pencil.total((np.abs(difference) ** 2).sum(axis=0)))
    good = residuals < _RESIDUAL
    return values[good], vectors[:, good]


def _eigh(pencil: Pencil, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solved by rank 0, so that all ranks go on with the same bits."""
    result: tuple[np.ndarray, np.ndarray] = pencil.world.on_root(scipy.linalg.eigh, (matrix + matrix.conj().T) / 2)
    return result
