"""`info.json` of the DeepH layout: what a directory of matrices says about itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["DeephInfo", "read_info", "write_info"]


@dataclass(frozen=True)
class DeephInfo:
    """Metadata of a DeepH-layout directory.

    Attributes:
        orbital_map: shells of every element.
        spinful: blocks of H are (2 n_i, 2 n_j) complex128; blocks of S stay (n_i, n_j) real.
        orthogonal_basis: S is the identity.
        fermi_energy_eV: in the zero of energy of H; None when not known.
        occupation: number of electrons of the cell; None when not known.
        vacuum_level_eV: in the zero of energy of H; H − V_vac·S is comparable between structures. None when not known.
        atom_order: (N,) int64, the user's index of every atom of the file (POSCAR groups atoms by element); None when
            the file has the user's order.
        pbc: periodic directions; the POSCAR cannot say it.
    """

    orbital_map: OrbitalMap
    spinful: bool = False
    orthogonal_basis: bool = False
    fermi_energy_eV: float | None = None
    occupation: float | None = None
    vacuum_level_eV: float | None = None
    atom_order: np.ndarray | None = None
    pbc: tuple[bool, bool, bool] = (True, True, True)


def read_info(directory: str | os.PathLike[str], numbers: np.ndarray | None = None) -> DeephInfo:
    """Read and check `info.json`. Not collective.

    Args:
        directory: the DeepH-layout directory.
        numbers: (N,) atomic numbers of its POSCAR, to check the counts against.

    Raises:
        DataError: missing or malformed file, wrong types, counts that contradict `numbers`.
    """
    path = Path(directory) / "info.json"
    if not path.exists():
        raise DataError(f"'{directory}' is not a DeepH-layout directory: it has no info.json")
    with reading(path, "not JSON, or numbers beyond all bounds"):
        return _checked(json.loads(path.read_text()), path, numbers)


def _checked(content: Any, path: Path, numbers: np.ndarray | None) -> DeephInfo:
    if not isinstance(content, dict):
        raise DataError(f"'{path}' must hold one JSON object")
    shells = content.get("elements_orbital_map")
    if not isinstance(shells, dict) or not all(isinstance(value, list) for value in shells.values()):
        raise DataError(f"'{path}': elements_orbital_map must map every element to its list of l")
    try:
        orbital_map = OrbitalMap.from_symbols(shells)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from None
    order = content.get("atom_order")
    pbc = content.get("pbc", [True, True, True])
    if not isinstance(pbc, list) or len(pbc) != 3 or not all(isinstance(flag, bool) for flag in pbc):
        raise DataError(f"'{path}': pbc must be three booleans, not {pbc!r}")
    info = DeephInfo(
        orbital_map=orbital_map,
        spinful=_flag(content, "spinful", path),
        orthogonal_basis=_flag(content, "orthogonal_basis", path),
        fermi_energy_eV=_number(content, "fermi_energy_eV", path),
        occupation=_number(content, "occupation", path),
        vacuum_level_eV=_number(content, "vacuum_level_eV", path),
        atom_order=None if order is None else _permutation(order, path),
        pbc=(pbc[0], pbc[1], pbc[2]),
    )
    if numbers is not None:
        _check_counts(content, info, numbers, path)
    return info


def write_info(directory: str | os.PathLike[str], info: DeephInfo, numbers: np.ndarray) -> None:
    """Write `info.json` for atoms `numbers` (N,) in file order, renamed when complete. Not collective."""
    content: dict[str, Any] = {
        "atoms_quantity": len(numbers),
        "orbits_quantity": int(info.orbital_map.orbitals(numbers).sum()),
        "orthogonal_basis": info.orthogonal_basis,
        "spinful": info.spinful,
        "elements_orbital_map": info.orbital_map.to_symbols(),
    }
    for key in ("fermi_energy_eV", "occupation", "vacuum_level_eV"):
        value = getattr(info, key)
        if value is not None:
            content[key] = int(value) if key == "occupation" and float(value).is_integer() else float(value)
    if info.atom_order is not None:
        content["atom_order"] = [int(atom) for atom in info.atom_order]
    if not all(info.pbc):
        content["pbc"] = list(info.pbc)
    path = Path(directory) / "info.json"
    temporary = path.with_name("info.json.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def _flag(content: dict[str, Any], key: str, path: Path) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise DataError(f"'{path}': {key} must be true or false, not {value!r}")
    return value


def _number(content: dict[str, Any], key: str, path: Path) -> float | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"'{path}': {key} must be a finite number, not {value!r}")
    return float(value)


def _permutation(order: Any, path: Path) -> np.ndarray:
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(len(order)))):
        raise DataError(f"'{path}': atom_order must be a permutation of 0…N−1")
    return np.array(order, dtype=np.int64)


def _check_counts(content: dict[str, Any], info: DeephInfo, numbers: np.ndarray, path: Path) -> None:
    try:
        orbitals = int(info.orbital_map.orbitals(numbers).sum())
    except DataError as error:
        raise DataError(f"'{path}': {error}") from None
    for key, expected in (("atoms_quantity", len(numbers)), ("orbits_quantity", orbitals)):
        stated = content.get(key, expected)
        if stated != expected:
            raise DataError(f"'{path}': {key} is {stated}, but POSCAR and elements_orbital_map give {expected}")
    if info.atom_order is not None and len(info.atom_order) != len(numbers):
        raise DataError(f"'{path}': atom_order has {len(info.atom_order)} entries for {len(numbers)} atoms")
