"""sisl's `.nc` of a Hamiltonian, which is SIESTA's too, written and read by sisl.

It names no orbitals: what `write_sisl` knows of them goes into an attribute that sisl passes over.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import system_of
from deeph_mpi.data.sisl_bridge import split_sisl, to_sisl
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["read_sisl", "write_sisl"]

_NAME = "hamiltonian.nc"
_ATTRIBUTE = "deeph_mpi"
_KEPT = ("fermi_energy_eV", "occupation", "vacuum_level_eV")


def write_sisl(path: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write what `to_sisl` makes to `path` (.nc; hamiltonian.nc in a folder), which should be `unfinished`."""
    from netCDF4 import Dataset

    path = Path(path)
    path = path if path.suffix == ".nc" else path / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    to_sisl(system).write(str(path))
    known: dict[str, Any] = {key: getattr(system.info, key) for key in _KEPT}
    known["elements_orbital_map"] = system.info.orbital_map.to_symbols()
    with Dataset(path, "a") as file:
        file.setncattr(_ATTRIBUTE, json.dumps(known))


def read_sisl(
    path: str | os.PathLike[str],
    *,
    cutoff: float | None = None,
    shells: OrbitalMap | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """Read a file of `to-sisl`, or of sisl or SIESTA when the shells are given. Not collective.

    Args:
        path: the file, or a folder with hamiltonian.nc.
        cutoff: keep pairs up to this distance, Å; all by default.
        shells: of the elements; as the file says by default.
        scratch: folder for unnamed files that hold what sisl has read: it holds the whole matrix itself.

    Returns:
        The system in the file's zero of energy. H differs from what was written by roundings: the file is in Ry.

    Raises:
        DataError: no such file, one that sisl cannot read, or one without shells.
    """
    import sisl
    from netCDF4 import Dataset

    path = Path(path)
    path = path / _NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"file '{path}' does not exist")
    with reading(path, "damaged, or not of sisl"):
        with Dataset(path) as file:
            known = json.loads(file.getncattr(_ATTRIBUTE)) if _ATTRIBUTE in file.ncattrs() else {}
        with sisl.get_sile(str(path)) as sile:
            matrix = sile.read_hamiltonian()
            fermi = float(np.ravel(sile.read_fermi_level())[0])
        if shells is None and "elements_orbital_map" in known:
            shells = OrbitalMap.from_symbols(known["elements_orbital_map"])
        values = {key: None if known.get(key) is None else float(known[key]) for key in _KEPT}
    parts = split_sisl(matrix, scratch, fermi, f"'{path}'")
    del matrix
    if shells is None:
        raise DataError(f"'{path}' does not name its orbitals: give --shells ELEMENT=L,L,…")
    info = DeephInfo(
        shells,
        parts.spinful,
        fermi_energy_eV=values["fermi_energy_eV"],
        occupation=values["occupation"],
        vacuum_level_eV=values["vacuum_level_eV"],
    )
    return system_of(
        parts.structure,
        info,
        parts.overlap,
        parts.hamiltonian,
        convention="siesta",
        name=str(path),
        cutoff=cutoff,
        scratch=scratch,
    )
