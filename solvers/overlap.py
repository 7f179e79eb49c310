"""Near-null directions of the overlap: found, named by atoms, and projected out of the eigenproblem on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.pencil import Pencil
from deeph_mpi.solvers.shift_invert import found_vectors, shift_inverted

if TYPE_CHECKING:
    from deeph_mpi.solvers.factor import ShiftedFactor

__all__ = ["Smallest", "atoms_of", "overlap_modes", "smallest_overlap"]

_ROUNDS = 8
_TOLERANCE = 1e-10
_RESIDUAL = 1e-8  # ‖S v − λ v‖ of an accepted vector
_MARGIN = 1e-3  # of the smallest eigenvalue: nothing is below it by more
_NEARLY = 1e-4  # eigenvalues below are looked for when some are not positive,
_SHOWN = 20  # of them at most


@dataclass(frozen=True)
class Smallest:
    """The lower end of the spectrum of S.

    Attributes:
        value: the smallest eigenvalue; of many that are not positive, one of those nearest to 0.
        below: how many are not positive.
        proved: whether inertia shows that none is lower than `value` by more than a thousandth of it.
    """

    value: float
    below: int
    proved: bool


def smallest_overlap(factor: ShiftedFactor) -> Smallest:
    """Find the smallest eigenvalue of S by inverse iteration, and count what is below it. Collective; three factorizations.

    Raises:
        SolverError: no inertia (complex PETSc, no MUMPS), no memory for the factor, or no convergence.
    """
    if not factor.counts_inertia:
        raise SolverError("the smallest eigenvalue of S needs inertia, that is real PETSc scalars and MUMPS")
    below = factor.overlap_below(0.0)
    if below:
        count = min(factor.overlap_below(_NEARLY), _SHOWN)
        values, _ = overlap_modes(factor, _NEARLY, count)
    else:
        values, _ = _nearest(factor)
    value = float(values[0])
    lower = factor.overlap_below(value - _MARGIN * abs(value))
    return Smallest(value, below, lower == 0 and not factor.doubt)


def _nearest(factor: ShiftedFactor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of S nearest to 0, where it has just been factored."""
    pencil = factor.pencil
    rows = int(pencil.s.getSize()[0])
    solver = shift_inverted(pencil, (pencil.s,), factor.solve, 0.0, min(rows, 4), rows, _TOLERANCE)
    found = _rayleigh_ritz(pencil, found_vectors(pencil, solver))
    if not len(found[0]):
        raise SolverError("the smallest eigenvalue of the overlap was not found")
    return found


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
        rows = int(pencil.s.getSize()[0])
        asked = min(rows, pencil.multiplicity * (count + 4) * 2**attempt)
        solver = shift_inverted(pencil, (pencil.s,), factor.solve, threshold, asked, rows, _TOLERANCE)
        candidates = found_vectors(pencil, solver)
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


def _rayleigh_ritz(pencil: Pencil, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of S in the span of `candidates`, without copies and without what has not converged."""
    metric, rotation = pencil.eigh(pencil.total(candidates.conj().T @ candidates))
    independent = metric > 1e-6 * metric.max(initial=1e-300)
    space = candidates @ (rotation[:, independent] / np.sqrt(metric[independent]))
    image = pencil.multiply(pencil.s, space)
    values, ritz = pencil.eigh(pencil.total(space.conj().T @ image))
    vectors = space @ ritz
    difference = image @ ritz - vectors * values
    residuals = np.sqrt(pencil.total((np.abs(difference) ** 2).sum(axis=0)))
    good = residuals < _RESIDUAL
    return values[good], vectors[:, good]
