"""ABACUS's real-space matrices (`out_mat_hs2 1`) as a DeepH system."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.abacus_files import RYDBERG, parse_log, read_csr
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.spool import Spool
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.structure.structure import Structure

__all__ = ["read_abacus"]

# Files of H (spin up, down) and S by version; the first that exist are read.
_H = (("hrs1_nao.csr", "data-HR-sparse_SPIN0.csr"), ("hrs2_nao.csr", "data-HR-sparse_SPIN1.csr"))
_S = ("srs1_nao.csr", "sr_nao.csr", "data-SR-sparse_SPIN0.csr", "SR.csr")


def read_abacus(
    directory: str | os.PathLike[str],
    *,
    cutoff: float | None = None,
    shells: OrbitalMap | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """Read one single-point run with nspin 1, 2 (as spinors without ↑↓ parts) or 4. Not collective.

    Args:
        directory: `OUT.…`, or the folder that holds it.
        cutoff: keep pairs up to this distance, Å; all by default.
        shells: of the elements; read from the log by default.
        scratch: folder for unnamed files that hold the matrices; memory by default.

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
    overlap = Spool(scratch)
    _read_matrix(overlap, _existing(directory, _S, "S"), total, log.spins, scratch=scratch)
    hamiltonian = Spool(scratch, np.complex128 if log.spins != 1 else np.float64, spinful=log.spins != 1)
    for spin in range(2 if log.spins == 2 else 1):
        path = _existing(directory, _H[spin], "H of spin down" if spin else "H")
        _read_matrix(hamiltonian, path, total, log.spins, RYDBERG, spin, scratch)
    structure = Structure(log.numbers, log.positions, log.cell, np.ones(3, dtype=bool))
    info = DeephInfo(orbital_map, log.spins != 1, fermi_energy_eV=log.fermi_energy_eV, occupation=log.electrons)
    return system_of(
        structure,
        info,
        overlap,
        hamiltonian,
        convention="abacus",
        name=str(directory),
        cutoff=cutoff,
        scratch=scratch,
    )


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


def _read_matrix(
    spool: Spool, path: Path, total: int, nspin: int, unit: float = 1.0, spin: int = 0, scratch: Path | None = None
) -> None:
    """Add the elements of one file, those of spin up only to a spool without spins.

    Args:
        spool: of H or S.
        path: of the file; for nspin 4 its indices are orbital · 2 + spin.
        total: orbitals of all atoms.
        nspin: 1, 2 or 4.
        unit: of the values.
        spin: 0 or 1, of the whole file when nspin is 2.
        scratch: see `read_csr`.
    """
    for piece in read_csr(path, 2 * total if nspin == 4 else total, scratch):
        rows, columns, values = piece.rows, piece.columns, piece.values * unit
        spins = np.full((len(rows), 2), spin)
        if nspin == 4:
            spins = np.stack([rows % 2, columns % 2], axis=1)
            rows, columns = rows // 2, columns // 2
        if not spool.spinful:  # S is real, and the same for both
            up = (spins == 0).all(axis=1)
            rows, columns, values, spins = rows[up], columns[up], values[up].real, spins[up]
        images = np.broadcast_to(piece.image, (len(rows), 3))
        with reading(path):
            spool.add(Elements(images, rows, columns, values, spins if spool.spinful else None))
