"""Fractional coordinates wrapped into the cell, for searches and cuts; the structure itself stays as it stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.errors import StructureError
from deeph_mpi.structure.structure import Structure

__all__ = ["WrappedAtoms", "wrap"]


@dataclass(frozen=True)
class WrappedAtoms:
    """Atoms brought into the cell along its periodic directions.

    Attributes:
        cell: (3, 3) float64, Å; rows of non-periodic directions are unit vectors normal to all others.
        fractional: (N, 3) float64 in units of `cell`; in [0, 1) along periodic directions.
        shifts: (N, 3) int64, the cell each atom was taken from: position = (fractional + shifts) @ cell.
        pbc: (3,) bool.
    """

    cell: np.ndarray
    fractional: np.ndarray
    shifts: np.ndarray
    pbc: np.ndarray

    @property
    def heights(self) -> np.ndarray:
        """(3,) float64, Å: distances between opposite faces of the cell."""
        return 1.0 / np.linalg.norm(np.linalg.inv(self.cell), axis=0)


def wrap(structure: Structure) -> WrappedAtoms:
    """Wrap the atoms of a structure along its periodic directions.

    Raises:
        StructureError: for positions that are not finite or lattice vectors that span no volume.
    """
    finite = np.isfinite(structure.positions).all(axis=1)
    if not finite.all():
        raise StructureError(f"the position of atom {np.flatnonzero(~finite)[0]} is not a finite number")
    cell = _complete(structure.cell, structure.pbc)
    lengths = np.linalg.norm(cell, axis=1)
    if not (lengths > 0).all() or abs(np.linalg.det(cell / lengths[:, None])) < 1e-6:
        raise StructureError("the lattice vectors of the periodic directions are zero or linearly dependent")
    fractional = structure.positions @ np.linalg.inv(cell)
    shifts = np.where(structure.pbc, np.floor(fractional), 0.0)
    return WrappedAtoms(cell, fractional - shifts, shifts.astype(np.int64), np.asarray(structure.pbc, dtype=bool))


def _complete(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    # Files of molecules and slabs leave the vectors of non-periodic directions zero or arbitrary.
    periodic = np.asarray(pbc, dtype=bool)
    full = np.array(cell, dtype=np.float64)
    if not periodic.all():
        normals = np.linalg.svd(full[periodic], full_matrices=True)[2][periodic.sum() :]
        full[~periodic] = normals
    return full
