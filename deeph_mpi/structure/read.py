"""Structures from and to files, through ASE, with the checks that every later stage relies on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from deeph_mpi.domain.neighbours import CLOSEST, neighbour_pairs
from deeph_mpi.errors import StructureError
from deeph_mpi.structure.ase_io import read, write
from deeph_mpi.structure.structure import Structure

__all__ = ["check_structure", "read_structure", "write_structure"]

PADDING = 20.0  # Å, height of the cell in a non-periodic direction for which the file has no vector

_FORMATS = {".vasp": "vasp", ".poscar": "vasp", ".cif": "cif", ".extxyz": "extxyz", ".xyz": "extxyz"}


def read_structure(path: str | os.PathLike[str], index: int = -1, pbc: Sequence[bool] | None = None) -> Structure:
    """Read a structure from any format ASE knows (POSCAR, CIF, extxyz, …), in the order of the file.

    Positions are not wrapped. Where a direction is not periodic and the file has no vector for it, an orthogonal
    padding vector is supplied, so that the cell is never singular; `pbc` stays False there.

    Args:
        path: the file.
        index: which frame of a trajectory; the last by default.
        pbc: periodic directions, where the format cannot say them (POSCAR).

    Raises:
        StructureError: when the file is missing or unreadable, or the structure fails `check_structure`.
    """
    path = Path(path)
    if not path.is_file():
        raise StructureError(f"structure file '{path}' does not exist")
    try:
        # parallel=False: left to itself ASE broadcasts over MPI behind the caller's back
        atoms = read(path, index=index, format="vasp" if _is_poscar(path) else None, parallel=False)
    except Exception as error:  # ASE's parsers raise anything from KeyError to StopIteration on bad input
        raise StructureError(f"cannot read '{path}' as a structure: {type(error).__name__}: {error}") from error
    periodic = np.array(atoms.pbc if pbc is None else pbc, dtype=bool)
    cell = np.array(atoms.cell, dtype=np.float64)
    structure = Structure(
        numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=_padded(cell, atoms.positions) if not periodic.all() and np.isfinite(cell).all() else cell,
        pbc=periodic,
    )
    check_structure(structure, str(path))
    return structure


def check_structure(structure: Structure, name: str) -> None:
    """Refuse a structure that makes no sense.

    Args:
        structure: what to check.
        name: what the messages call it.

    Raises:
        StructureError: no atoms, unknown elements, positions or cell not finite, a singular cell, or two atoms (images
            included) closer than 0.5 Å.
    """
    if len(structure) == 0:
        raise StructureError(f"'{name}' contains no atoms")
    for what, values in (("cell", structure.cell), ("positions", structure.positions)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            thing = "lattice vector" if what == "cell" else "position of atom"
            raise StructureError(f"'{name}': the {thing} {row} is not finite")
    unknown = (structure.numbers < 1) | (structure.numbers >= len(chemical_symbols))
    if unknown.any():
        raise StructureError(f"'{name}': atom {int(np.argmax(unknown))} has no known element")
    lengths = np.linalg.norm(structure.cell, axis=1)
    if (lengths == 0).any() or abs(np.linalg.det(structure.cell)) < 1e-6 * lengths.prod():
        raise StructureError(
            f"'{name}': the cell is singular (vectors {structure.cell.tolist()} Å); "
            "give three independent lattice vectors, or mark directions as not periodic"
        )
    _check_distances(structure, name)


def write_structure(path: str | os.PathLike[str], structure: Structure) -> None:
    """Write POSCAR (`.vasp`, `POSCAR…`), CIF or extended XYZ, chosen by the name, in the order of the atoms.

    The file appears under its name only when complete. Not collective: call it on one rank.

    Raises:
        StructureError: when the name says none of these formats.
    """
    path = Path(path)
    kind = "vasp" if _is_poscar(path) else _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise StructureError(f"cannot tell the format of '{path}': use .vasp, .cif or .extxyz (or a name with POSCAR)")
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    options = {"direct": False, "sort": False} if kind == "vasp" else {}
    write(temporary, atoms, format=kind, parallel=False, **options)
    temporary.replace(path)


def _is_poscar(path: Path) -> bool:
    return path.suffix.lower() in (".vasp", ".poscar") or "POSCAR" in path.name or "CONTCAR" in path.name


def _padded(cell: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Fill zero vectors of `cell` with vectors orthogonal to the rest that clear the atoms by PADDING."""
    cell = cell.copy()
    for axis in np.flatnonzero(np.linalg.norm(cell, axis=1) < 1e-12):
        present = cell[np.linalg.norm(cell, axis=1) >= 1e-12]
        _, _, rows = np.linalg.svd(present) if len(present) else (None, None, np.eye(3))
        free = rows[len(present) :]  # orthonormal, orthogonal to the vectors that are there
        direction = free[np.argmax(np.abs(free[:, axis]))]
        direction = direction * (np.sign(direction[axis]) or 1.0)
        extent = np.ptp(positions @ direction) if len(positions) and np.isfinite(positions).all() else 0.0
        cell[axis] = direction * (extent + PADDING)
    return cell


def _check_distances(structure: Structure, name: str) -> None:
    try:
        neighbour_pairs(structure, np.arange(len(structure)), CLOSEST)
    except StructureError as error:
        raise StructureError(f"'{name}': {error}") from None
