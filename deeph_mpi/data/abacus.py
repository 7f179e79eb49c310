"""ABACUS's real-space matrices (`out_mat_hs2 1`) as a DeepH system."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.abacus_files import RYDBERG, AbacusLog, parse_log, read_csr
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = ["read_abacus"]

# Files of H (spin up, down) and S by version; the first that exist are read.
_H = (("hrs1_nao.csr", "data-HR-sparse_SPIN0.csr"), ("hrs2_nao.csr", "data-HR-sparse_SPIN1.csr"))
_S = ("srs1_nao.csr", "sr_nao.csr", "data-SR-sparse_SPIN0.csr", "SR.csr")


def read_abacus(
    directory: str | os.PathLike[str], *, cutoff: float | None = None, shells: OrbitalMap | None = None
) -> DeephSystem:
    """Read one single-point run with nspin 1, 2 (as spinors without ↑↓ parts) or 4. Not collective.

    Args:
        directory: `OUT.…`, or the folder that holds it.
        cutoff: keep pairs up to this distance, Å; all by default.
        shells: of the elements; read from the log by default.

    Raises:
        DataError: anything missing or inconsistent, by name.
    """
    directory = _output(Path(directory))
    logs = sorted(directory.glob("running_*.log"))
    if not logs:
        raise DataError(f"'{directory}' holds no running_*.log")
    log = parse_log(next((path for path in logs if "scf" in path.name), logs[0]))
    orbital_map = shells or log.shells
    total = int(orbital_map.orbitals(log.numbers).sum())
    overlap = _matrix(_existing(directory, _S, "S"), total, log)
    hamiltonian = _matrix(_existing(directory, _H[0], "H"), total, log)
    if log.spins == 2:
        down = _matrix(_existing(directory, _H[1], "H of spin down"), total, log)
        hamiltonian = Elements.join([_with_spin(part, spin) for spin, part in enumerate((hamiltonian, down))])
    overlap = _without_spin(overlap)
    hamiltonian.values = hamiltonian.values * RYDBERG
    structure = Structure(log.numbers, log.positions, log.cell, np.ones(3, dtype=bool))
    info = DeephInfo(orbital_map, log.spins != 1, fermi_energy_eV=log.fermi_energy_eV, occupation=log.electrons)
    return system_of(structure, info, overlap, hamiltonian, convention="abacus", name=str(directory), cutoff=cutoff)


def _output(directory: Path) -> Path:
    if not directory.is_dir():
        raise DataError(f"directory '{directory}' does not exist")
    inside = [path for path in sorted(directory.glob("OUT.*")) if path.is_dir()]
    if len(inside) > 1:
        raise DataError(
            f"'{directory}' holds several OUT.* folders ({', '.join(path.name for path in inside)}); name one"
        )
    return inside[0] if inside else directory


def _existing(directory: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise DataError(f"'{directory}' has no file of {what} ({' or '.join(names)}); run ABACUS with out_mat_hs2 1")


def _matrix(path: Path, total: int, log: AbacusLog) -> Elements:
    """One file; for nspin 4 its indices are orbital · 2 + spin."""
    size, images, rows, columns, values = read_csr(path)
    expected = 2 * total if log.spins == 4 else total
    if size != expected:
        raise DataError(
            f"'{path}' is of dimension {size}, but the orbitals of the log (nspin {log.spins}) give {expected}"
        )
    if log.spins != 4:
        return Elements(images, rows, columns, values)
    spins = np.stack([rows % 2, columns % 2], axis=1)
    return Elements(images, rows // 2, columns // 2, values.astype(np.complex128), spins)


def _with_spin(elements: Elements, spin: int) -> Elements:
    spins = np.full((len(elements.rows), 2), spin, dtype=np.int64)
    return Elements(elements.images, elements.rows, elements.columns, elements.values.astype(np.complex128), spins)


def _without_spin(overlap: Elements) -> Elements:
    """The ↑↑ part, which is real and the same as ↓↓."""
    if overlap.spins is None:
        return overlap
    up = (overlap.spins == 0).all(axis=1)
    return Elements(overlap.images[up], overlap.rows[up], overlap.columns[up], overlap.values[up].real)
