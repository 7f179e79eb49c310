"""The legacy DeepH layout: text files and HDF5 with one dataset per block, orbitals in OpenMX's order.

`element.dat` (atomic numbers), `lat.dat` (vectors as columns, Å), `site_positions.dat` (3 × N, Å), `orbital_types.dat`
(l of the shells, a line per atom), `info.json` (`isspinful`, `fermi_level` in eV), `overlaps.h5` and `hamiltonians.h5`
(eV; keys "[R1, R2, R3, i, j]" with atoms from 1). Spinors: H blocks are [[↑↑, ↑↓], [↓↑, ↓↓]].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.conventions import orbital_change
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.geometry import users_structure
from deeph_mpi.data.hermitian import image_reach, symmetrize
from deeph_mpi.data.ragged import find, pair_keys, sort_blocks
from deeph_mpi.errors import DataError
from deeph_mpi.results.wholefile import new_file
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["changes_of", "parse_pair", "read_legacy", "read_legacy_geometry", "with_spins", "write_legacy"]

_WRITES = 1 << 10  # blocks between two releases of memory
_BLOCK = 1 << 10  # bytes that HDF5 takes for a dataset beside its data, at most


def read_legacy(
    directory: str | os.PathLike[str], *, dtype: np.dtype | type | None = None, cutoff: float | None = None
) -> DeephSystem:
    """Read a directory in the legacy layout, in the order of its atoms. Not collective.

    Orbitals are brought to our order; H and S to the same pairs (a block that one of them lacks is zero) and to exact
    Hermiticity.

    Args:
        directory: in the legacy layout.
        dtype: of real entries; as in the files by default. Spinors are complex128.
        cutoff: keep pairs up to this distance, Å; all by default.

    Raises:
        DataError: anything missing, unreadable or inconsistent, by name.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"directory '{directory}' does not exist")
    structure, info = read_legacy_geometry(directory)
    tables = {
        name: _read_tables(directory / f"{name}s.h5", structure.numbers, info.orbital_map, spins)
        for name, spins in (("overlap", 1), ("hamiltonian", 2 if info.spinful else 1))
    }
    pairs = np.unique(np.concatenate([pairs for pairs, _ in tables.values()]), axis=0)
    if cutoff is not None:
        bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
        pairs = pairs[np.linalg.norm(bonds, axis=1) <= cutoff]
    orbitals = info.orbital_map.orbitals(structure.numbers)
    filled = {}
    for name, (held, blocks) in tables.items():
        spinors = name == "hamiltonian" and info.spinful
        sizes = orbitals * 2 if spinors else orbitals
        kind = np.dtype(np.complex128) if spinors else np.dtype(dtype or blocks[0].dtype)
        filled[name] = _fill(pairs, held, blocks, sizes, kind)
        symmetrize(filled[name], sizes, str(directory / f"{name}s.h5"))
    return DeephSystem(structure, info, filled["overlap"], filled["hamiltonian"])


def write_legacy(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write a directory in the legacy layout, atoms in the user's order. It should be `unfinished`. Not collective.

    Raises:
        DataError: an l whose order in the legacy layout is not known (g shells).
    """
    directory = Path(directory)
    structure, info = system.structure, system.info
    order = np.arange(len(structure)) if info.atom_order is None else info.atom_order
    orbitals = info.orbital_map.orbitals(structure.numbers)
    structure = users_structure(structure, order)
    changes = changes_of(structure.numbers, info.orbital_map, directory)
    directory.mkdir(parents=True, exist_ok=True)
    shells = [" ".join(map(str, info.orbital_map.shells[int(z)])) for z in structure.numbers]
    content: dict[str, Any] = {
        "nsites": len(structure),
        "isorthogonal": info.orthogonal_basis,
        "isspinful": info.spinful,
    }
    if info.fermi_energy_eV is not None:
        content["fermi_level"] = info.fermi_energy_eV
    _write_text(directory / "element.dat", map(str, structure.numbers))
    _write_text(directory / "lat.dat", _rows(structure.cell.T))
    _write_text(directory / "rlat.dat", _rows(2 * np.pi * np.linalg.inv(structure.cell)))
    _write_text(directory / "site_positions.dat", _rows(structure.positions.T))
    _write_text(directory / "orbital_types.dat", shells)
    _write_text(directory / "info.json", [json.dumps(content)])
    for name, blocks, spins in (("overlap", system.overlap, 1), ("hamiltonian", system.hamiltonian, 2)):
        if blocks is None:
            continue
        spins = spins if info.spinful else 1
        with new_file(directory / f"{name}s.h5", blocks.entries.nbytes + _BLOCK * len(blocks)) as file:
            for index, pair in enumerate(blocks.pairs):
                (*image, _, _), (i, j) = pair.tolist(), order[pair[3:]].tolist()
                ours = blocks.block(index, orbitals * spins)
                (rows, row_signs), (columns, column_signs) = (with_spins(changes[atom], spins) for atom in (i, j))
                theirs = np.empty_like(ours)
                theirs[np.ix_(rows, columns)] = row_signs[:, None] * ours * column_signs
                file[str([*image, i + 1, j + 1])] = theirs
                if index % _WRITES == 0:
                    blocks.release()


def read_legacy_geometry(directory: Path) -> tuple[Structure, DeephInfo]:
    """Everything but the matrices.

    Raises:
        DataError: anything missing or inconsistent, by name.
    """
    numbers = _table(directory / "element.dat", np.int64).ravel()
    cell = _table(directory / "lat.dat", np.float64)
    positions = _table(directory / "site_positions.dat", np.float64)
    if cell.shape != (3, 3):
        raise DataError(f"'{directory / 'lat.dat'}' must hold a 3 × 3 matrix, not {cell.shape}")
    if positions.shape != (3, len(numbers)):
        raise DataError(
            f"'{directory / 'site_positions.dat'}' must hold 3 rows of {len(numbers)} numbers (element.dat), "
            f"not {positions.shape}"
        )
    structure = Structure(numbers, positions.T.copy(), cell.T.copy(), np.ones(3, dtype=bool))
    check_structure(structure, str(directory))
    path = directory / "info.json"
    try:
        content = json.loads(path.read_text())
        spinful, fermi = bool(content["isspinful"]), content.get("fermi_level")
        orthogonal = bool(content.get("isorthogonal", False))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read isspinful from '{path}': {type(error).__name__}: {error}") from None
    if fermi is not None and not (isinstance(fermi, int | float) and np.isfinite(fermi)):
        raise DataError(f"'{path}': fermi_level must be a finite number, not {fermi!r}")
    return structure, DeephInfo(
        orbital_map=_read_shells(directory / "orbital_types.dat", numbers),
        spinful=spinful,
        orthogonal_basis=orthogonal,
        fermi_energy_eV=None if fermi is None else float(fermi),
    )


def _read_shells(path: Path, numbers: np.ndarray) -> OrbitalMap:
    try:
        lines = [tuple(map(int, line.split())) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    if len(lines) != len(numbers):
        raise DataError(f"'{path}' has {len(lines)} lines for {len(numbers)} atoms")
    shells: dict[str, tuple[int, ...]] = {}
    for number, ls in zip(numbers, lines, strict=True):
        symbol = chemical_symbols[number]
        if shells.setdefault(symbol, ls) != ls:
            raise DataError(f"'{path}' gives atoms of {symbol} different shells; one element must have one orbital map")
    try:
        return OrbitalMap.from_symbols(shells)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from None


def _read_tables(
    path: Path, numbers: np.ndarray, orbital_map: OrbitalMap, spins: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pairs (n, 5) and their blocks in our order of orbitals."""
    changes = changes_of(numbers, orbital_map, path)
    pairs, blocks = [], []
    try:
        with h5py.File(path, "r", locking=False) as file:
            for key, dataset in file.items():
                pair = parse_pair(key, path, len(numbers))
                if not isinstance(dataset, h5py.Dataset):
                    raise DataError(f"'{path}': {key} is no dataset")
                (rows, row_signs), (columns, column_signs) = (with_spins(changes[atom], spins) for atom in pair[3:])
                if dataset.shape != (len(rows), len(columns)):
                    raise DataError(
                        f"'{path}': block {key} has shape {dataset.shape}, but orbital_types.dat and isspinful give "
                        f"{(len(rows), len(columns))}"
                    )
                block = dataset[()]
                if block.dtype.kind not in ("c" if spins == 2 else "f") or not np.isfinite(block).all():
                    kind = "complex" if spins == 2 else "real"
                    raise DataError(f"'{path}': block {key} must hold finite {kind} numbers")
                blocks.append(row_signs[:, None] * block[np.ix_(rows, columns)] * column_signs)
                pairs.append(pair)
    except FileNotFoundError:
        raise DataError(f"file '{path}' does not exist") from None
    except (OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"cannot read '{path}': not an HDF5 file, or truncated ({error})") from None
    if not pairs:
        raise DataError(f"'{path}' holds no blocks")
    return np.array(pairs, dtype=np.int64), blocks


def parse_pair(key: str, path: Path, atoms: int) -> tuple[int, ...]:
    """(R1, R2, R3, i, j), atoms from 0, of a dataset's name."""
    try:
        r1, r2, r3, i, j = (int(number) for number in json.loads(key))
    except (ValueError, TypeError):
        raise DataError(f"'{path}': key '{key}' is not of the form [R1, R2, R3, i, j]") from None
    if not (1 <= i <= atoms and 1 <= j <= atoms):
        raise DataError(f"'{path}': block {key} has an atom outside 1…{atoms}")
    return r1, r2, r3, i - 1, j - 1


def changes_of(numbers: np.ndarray, orbital_map: OrbitalMap, name: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Order and signs of the orbitals of every atom; `name` is of the file or folder, for the message."""
    try:
        known = {z: orbital_change("openmx", orbital_map, z) for z in np.unique(numbers).tolist()}
    except DataError as error:
        raise DataError(f"'{name}': {error}") from None
    return [known[z] for z in numbers.tolist()]


def with_spins(change: tuple[np.ndarray, np.ndarray], spins: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for 1 or 2 spins."""
    order, sign = change
    return np.concatenate([order + spin * len(order) for spin in range(spins)]), np.tile(sign, spins)


def _fill(pairs: np.ndarray, held: np.ndarray, blocks: list[np.ndarray], sizes: np.ndarray, kind: np.dtype) -> BlockSet:
    filled = sort_blocks(BlockSet.allocate(pairs, sizes, kind))
    reach = image_reach(filled.pairs)
    where = find(pair_keys(filled.pairs, len(sizes), reach), pair_keys(held, len(sizes), reach))
    for index, block in zip(where, blocks, strict=True):
        if index >= 0:
            filled.block(int(index), sizes)[:] = block
    return filled


def _table(path: Path, kind: type) -> np.ndarray:
    try:
        table: np.ndarray = np.loadtxt(path, dtype=kind, ndmin=2)
    except FileNotFoundError:
        raise DataError(f"'{path.parent}' is not in the legacy layout: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    if table.size == 0:
        raise DataError(f"'{path}' is empty")
    return table


def _rows(matrix: np.ndarray) -> list[str]:
    return [" ".join(f"{value:.17g}" for value in row) for row in matrix]


def _write_text(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
