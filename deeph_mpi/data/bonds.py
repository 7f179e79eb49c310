"""Whether overlaps and positions belong together: an s orbital sees a p orbital along their bond."""

from __future__ import annotations

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.structure.structure import Structure

__all__ = ["crooked_bond"]


def crooked_bond(structure: Structure, overlap: BlockSet, orbital_map: OrbitalMap) -> np.ndarray | None:
    """The first pair (5,) whose ⟨s_i|p_j⟩, as a vector, does not point along the bond; None when all do.

    Wrong positions, wrapping or image indices show here. Says nothing of elements without s or p.

    Args:
        structure: positions that the images are said to count from.
        overlap: S in our order of orbitals.
        orbital_map: of the elements.
    """
    orbitals = orbital_map.orbitals(structure.numbers)
    bonds = structure.positions[overlap.pairs[:, 4]] + overlap.pairs[:, :3] @ structure.cell
    bonds -= structure.positions[overlap.pairs[:, 3]]
    length = np.linalg.norm(bonds, axis=1)
    i, j = overlap.pairs[:, 3], overlap.pairs[:, 4]
    crooked = np.zeros(len(overlap), dtype=bool)
    kinds = structure.numbers[overlap.pairs[:, 3:]]
    for left, right in np.unique(kinds, axis=0).tolist():
        onsite = (overlap.pairs[:, :3] == 0).all(axis=1) & (i == j)
        chosen = np.flatnonzero((kinds == (left, right)).all(axis=1) & ~onsite)
        for s in _starts(orbital_map.shells[left], 0):
            for p in _starts(orbital_map.shells[right], 1):
                start = overlap.offsets[chosen] + s * orbitals[j[chosen]] + p
                vectors = overlap.entries[start[:, None] + np.array([2, 0, 1])]  # p = (y, z, x)
                size = np.linalg.norm(vectors, axis=1)
                across = np.linalg.norm(np.cross(vectors, bonds[chosen]), axis=1)
                wrong = (across > 1e-2 * size * length[chosen]) | (length[chosen] < 0.1)
                crooked[chosen] |= (size > 1e-3) & wrong
    return overlap.pairs[int(np.argmax(crooked))] if crooked.any() else None


def _starts(shells: tuple[int, ...], li: int) -> list[int]:
    """First orbitals of the shells of that l."""
    starts = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in shells])])
    return [int(start) for start, degree in zip(starts, shells, strict=False) if degree == li]
