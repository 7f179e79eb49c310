"""POSCAR + info.json of the DeepH layout: everything of a directory but its matrices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.info import DeephInfo, read_info, write_info
from deeph_mpi.errors import DataError, StructureError
from deeph_mpi.structure.read import read_structure, write_structure
from deeph_mpi.structure.structure import Structure, element_order

__all__ = ["bond_lengths", "read_geometry", "users_structure", "write_geometry"]


def bond_lengths(structure: Structure, pairs: np.ndarray) -> np.ndarray:
    """(n,) |r_j + R − r_i| in Å of pairs (n, 5) of a structure's atoms."""
    bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
    lengths: np.ndarray = np.linalg.norm(bonds, axis=1)
    return lengths


def users_structure(structure: Structure, order: np.ndarray) -> Structure:
    """Atoms in the order the user gave them, from those of a POSCAR and its `atom_order`: (N,) the user's index of each."""
    users = np.argsort(order)
    return replace(structure, numbers=structure.numbers[users], positions=structure.positions[users])


def read_geometry(directory: str | os.PathLike[str]) -> tuple[Structure, DeephInfo]:
    """Read POSCAR and info.json, in the order of the file. Not collective.

    Raises:
        DataError: when either is missing, malformed, or contradicts the other.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"directory '{directory}' does not exist")
    if not (directory / "POSCAR").is_file():
        raise DataError(f"'{directory}' is not a DeepH-layout directory: it has no POSCAR")
    try:
        structure = read_structure(directory / "POSCAR", pbc=read_info(directory).pbc)
    except StructureError as error:
        raise DataError(str(error)) from None
    return structure, read_info(directory, structure.numbers)


def write_geometry(
    directory: str | os.PathLike[str], structure: Structure, orbital_map: OrbitalMap, info: DeephInfo
) -> np.ndarray:
    """Write POSCAR and info.json, atoms grouped by element as the layout wants. Not collective: call it on one rank.

    The order is kept as `atom_order` in info.json when grouping moved an atom; writers of matrices find it there.

    Args:
        directory: made when absent.
        structure: in the user's order.
        orbital_map: shells of every element; only those present are written.
        info: the rest of info.json; its own `orbital_map`, `atom_order` and `pbc` are not looked at.

    Returns:
        (N,) int64: the user's index of every atom of the file.

    Raises:
        DataError: when an element is not in the orbital map.
    """
    directory = Path(directory)
    order = element_order(structure.numbers)
    orbital_map.orbitals(structure.numbers)
    present = OrbitalMap({z: ls for z, ls in orbital_map.shells.items() if z in set(structure.numbers.tolist())})
    grouped = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order])
    moved = bool((order != np.arange(len(order))).any())
    a, b, c = (bool(flag) for flag in structure.pbc)
    directory.mkdir(parents=True, exist_ok=True)
    write_structure(directory / "POSCAR", grouped)
    stated = replace(info, orbital_map=present, atom_order=order if moved else None, pbc=(a, b, c))
    write_info(directory, stated, grouped.numbers)
    return order
