"""SIESTA's `.HSX` and `.TSHS` files as a DeepH system, read by sisl."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.bonds import crooked_bond
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import system_of
from deeph_mpi.data.siesta_records import Records, check_hsx, check_tshs
from deeph_mpi.data.sisl_bridge import shells_of, split_sisl
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["read_siesta"]

_ENDINGS = (".HSX", ".TSHS")


def read_siesta(
    path: str | os.PathLike[str],
    *,
    cutoff: float | None = None,
    shells: OrbitalMap | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """Read one SIESTA run: unpolarized, polarized, non-collinear or with spin-orbit coupling. Not collective.

    Args:
        path: the file, or a folder with one `.HSX` (preferred: it names elements and orbitals) or `.TSHS`, which
            needs the run's `.ORB_INDX` beside it.
        cutoff: keep pairs up to this distance, Å; all by default.
        shells: of the elements; read from the file by default.
        scratch: folder for unnamed files that hold what sisl has read: it holds the whole matrix itself.

    Returns:
        The system in SIESTA's zero of energy (sisl shifts it to the Fermi level; that is undone).

    Raises:
        DataError: no such file, or one that sisl cannot read.
    """
    import sisl

    path = _find(Path(path))
    records = Records.of(path)
    (check_tshs if path.suffix == ".TSHS" else check_hsx)(records)
    with _readable(records) as readable:
        try:
            with redirect_stdout(io.StringIO()):  # where sisl writes when it meets what it does not expect
                matrix = sisl.get_sile(readable).read_hamiltonian()
                found = sisl.get_sile(readable).read_fermi_level()
                fermi = None if found is None else float(found)  # version 0 of HSX has none: nothing was shifted
        except Exception as error:  # sisl's readers raise anything, from KeyError to SileError
            raise DataError(f"sisl cannot read '{path}': {type(error).__name__}: {error}") from error
    parts = split_sisl(matrix, scratch, fermi or 0.0, f"'{path}'")
    atoms = matrix.geometry.atoms
    del matrix
    if path.suffix == ".TSHS" or shells_of(atoms, f"'{path}'") is None:  # names neither elements nor orbitals
        atoms = _basis_beside(sisl, path, len(parts.structure))
        parts.structure = replace(parts.structure, numbers=np.array(atoms.Z, dtype=np.int64))
    orbital_map = shells or shells_of(atoms, f"'{path}'")
    if orbital_map is None:
        raise DataError(f"'{path}' does not name its orbitals: give --shells ELEMENT=L,L,…")
    info = DeephInfo(orbital_map, parts.spinful, fermi_energy_eV=fermi, occupation=_electrons(records))
    system = system_of(
        parts.structure,
        info,
        parts.overlap,
        parts.hamiltonian,
        convention="siesta",
        name=str(path),
        cutoff=cutoff,
        scratch=scratch,
    )
    crooked = crooked_bond(system.structure, system.overlap, orbital_map)
    if crooked is not None:
        raise DataError(
            f"'{path}': the overlap between atoms {crooked[3]} and {crooked[4]} does not point along their bond (files of "
            "SIESTA up to 4.0 hold no geometry, and sisl guesses one: use a newer SIESTA; or correct --shells)"
        )
    return system


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"'{path}' does not exist")
    for ending in _ENDINGS:
        found = sorted(path.glob(f"*{ending}"))
        if len(found) > 1:
            raise DataError(f"'{path}' holds several {ending} files ({', '.join(one.name for one in found)}); name one")
        if found:
            return found[0]
    raise DataError(f"'{path}' holds no .HSX or .TSHS file; run SIESTA with SaveHS true")


@contextmanager
def _readable(records: Records) -> Iterator[Path]:
    """The file, or a copy in which a logical of the second record is 0 or 1.

    That record is `is_dp` (HSX from version 1) or `gamma` (version 0). Intel's compiler writes .true. as −1; sisl's
    reader, compiled by another, takes that for neither value (`KeyError: -1`).
    """
    path = records.path
    if path.suffix == ".TSHS" or records.read(1)[0] in (0, 1):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for beside in path.parent.iterdir():  # sisl may look for the geometry there
            if beside.is_file() and beside != path:
                (Path(folder) / beside.name).symlink_to(beside.resolve())
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        with copy.open("r+b") as file:
            file.seek(int(records.starts[1]))
            file.write(struct.pack("<i", 1))
        yield copy


def _basis_beside(sisl: Any, path: Path, count: int) -> Any:
    """sisl's atoms, with elements and orbitals, from the run's `.ORB_INDX`."""
    beside = sorted(path.parent.glob("*.ORB_INDX"))
    if len(beside) != 1:
        raise DataError(f"'{path}' does not name its orbitals: put the run's .ORB_INDX beside it (found {len(beside)})")
    with reading(beside[0], "not of the same run, or damaged"):
        atoms = sisl.get_sile(beside[0]).read_basis()
        if len(atoms) != count or shells_of(atoms, f"'{beside[0]}'") is None:
            raise ValueError(f"{len(atoms)} atoms for {count}")
    return atoms


def _electrons(records: Records) -> float | None:
    """Electrons of the cell, which HSX from version 1 holds: its fourth record is cell (9), E_F, charge, temperature."""
    if records.path.suffix == ".TSHS" or records.lengths[0] != 4:
        return None
    return float(records.read(3, np.float64)[10])
