"""Matrices on a k mesh brought to real space, for codes that keep H(k) alone."""

from __future__ import annotations

import itertools
import logging

import numpy as np

from deeph_mpi.data.elements import Elements
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = ["farthest", "mesh_of", "to_real_space"]

log = logging.getLogger(__name__)

_SAME = 1e-6  # fractional, of k-points
_TIE = 1e-5  # Å
_IMAGINARY, _WRONG = 1e-4, 0.05  # eV, or 1 for S; worth a word, and refused


def mesh_of(kpoints: np.ndarray) -> tuple[int, int, int]:
    """Divisions of a complete uniform mesh (nk, 3), fractional, in any order, possibly shifted.

    Raises:
        DataError: when the points are no such mesh (reduced by symmetry, for example).
    """
    divisions = []
    for axis in range(3):
        distinct = np.sort(np.round(kpoints[:, axis] / _SAME).astype(np.int64) % round(1 / _SAME))
        divisions.append(len(np.unique(distinct)))
    steps = (kpoints - kpoints[0]) * divisions
    whole = np.round(steps).astype(np.int64)
    complete = len(np.unique(whole % divisions, axis=0)) == len(kpoints) == np.prod(divisions)
    if not complete or np.abs(steps - whole).max() > 1e-3:
        raise DataError(
            f"the {len(kpoints)} k-points are no complete uniform mesh; run without reduction by symmetry "
            "(time reversal included)"
        )
    return divisions[0], divisions[1], divisions[2]


def to_real_space(kpoints: np.ndarray, matrices: np.ndarray, structure: Structure, orbitals: np.ndarray) -> Elements:
    """A(R) = Σ_k e^{−2πi k·R} A(k) / N_k on the nearest images of every pair of atoms.

    Exact at the points of the mesh; between them as good as A decays within its supercell. Where several images are
    equally near, each gets its share.

    Args:
        kpoints: (nk, 3) fractional, a complete mesh.
        matrices: (nk, n, n) with A(k) = Σ_R e^{2πi k·R} A(R), Hermitian.
        structure: of the atoms.
        orbitals: (N,) per atom.

    Returns:
        Real elements.

    Raises:
        DataError: no complete mesh, or A(R) that are far from real (the codes' grids break A(−k) = A(k)* a little).
    """
    mesh = np.array(mesh_of(kpoints))
    first = np.concatenate([[0], np.cumsum(orbitals)])
    bonds = structure.positions[None, :] - structure.positions[:, None]
    around = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)))
    around = around[((around == 0) | structure.pbc).all(axis=1)]
    parts, imaginary = [], 0.0
    for home in itertools.product(*(range(count) for count in mesh)):
        phases = np.exp(-2j * np.pi * (kpoints @ home)) / len(kpoints)
        matrix = np.tensordot(phases, matrices, axes=1)
        images = np.array(home) + around * mesh
        # on a shifted mesh A(R + N) is not A(R): one factor for all points
        turns = np.exp(-2j * np.pi * ((images - home) @ kpoints[0]))
        lengths = np.linalg.norm(bonds + (images @ structure.cell)[:, None, None], axis=-1)
        near = lengths < lengths.min(axis=0) + _TIE
        shares = near.sum(axis=0)
        for index, i, j in np.argwhere(near):
            block = turns[index] * matrix[first[i] : first[i + 1], first[j] : first[j + 1]]
            imaginary = max(imaginary, float(np.abs(block.imag).max()))
            rows, columns = np.meshgrid(
                np.arange(first[i], first[i + 1]), np.arange(first[j], first[j + 1]), indexing="ij"
            )
            where = np.tile(images[index], (rows.size, 1))
            parts.append(Elements(where, rows.ravel(), columns.ravel(), block.real.ravel() / shares[i, j]))
    if imaginary > _IMAGINARY:
        advice = "use a denser real-space grid, or k-points on both sides of Γ (PySCF: make_kpts(…, wrap_around=True))"
        if imaginary > _WRONG:
            raise DataError(f"A(−k) differs from A(k)* by {imaginary:.2g} (eV, or 1 for S); {advice}")
        log.warning("A(−k) differs from A(k)* by %.2g (eV, or 1 for S), and so will bands: %s", imaginary, advice)
    return Elements.join(parts)


def farthest(elements: Elements, structure: Structure, orbitals: np.ndarray) -> float:
    """Largest element between the farthest tenth of the pairs: what the mesh cannot tell from its images."""
    atom_of = np.repeat(np.arange(len(orbitals)), orbitals)
    positions = structure.positions
    bonds = positions[atom_of[elements.columns]] + elements.images @ structure.cell - positions[atom_of[elements.rows]]
    lengths = np.linalg.norm(bonds, axis=1)
    return float(np.abs(elements.values[lengths >= np.quantile(lengths, 0.9)]).max())
