"""Densities of states with their errors in results.h5: the groups `dos` and `ldos`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.results.wholefile import reserve, told

__all__ = ["DensityRecord", "has_states", "read_density", "write_density"]

_ATTRIBUTES = ("method", "resolution", "vectors", "fermi", "projection", "note")


@dataclass(frozen=True)
class DensityRecord:
    """Densities of states as stored, in states / eV of the cell, both spins counted.

    Attributes:
        method: "stochastic" (levels broadened by Gaussians) or "inertia" (levels counted between energies).
        energies: (m,) eV, absolute.
        density, error: (m,); `error` is one standard deviation.
        resolution: standard deviation of a level, or width of the intervals, eV.
        vectors: random vectors over all k-points, 0 without.
        fermi: eV, NaN when unknown.
        atoms: (a,) 0-based.
        local, local_error: (a, m), of all orbitals of each of `atoms`.
        projection: of `local`, "mulliken" or "lowdin".
        note: one sentence about how it was made.
        edges, integrated: (m + 1,) eV and electrons that levels below hold when filled; empty for "stochastic".
    """

    method: str
    energies: np.ndarray
    density: np.ndarray
    error: np.ndarray
    resolution: float
    vectors: int
    fermi: float
    atoms: np.ndarray
    local: np.ndarray
    local_error: np.ndarray
    projection: str
    note: str
    edges: np.ndarray = field(default_factory=lambda: np.empty(0))
    integrated: np.ndarray = field(default_factory=lambda: np.empty(0))

    def describe(self) -> str:
        """One line."""
        if self.vectors == 0:
            return f"{len(self.energies)} intervals of {1000 * self.resolution:.3g} meV; {self.note}"
        middle = len(self.energies) // 2
        relative = float(np.sqrt(np.mean(self.error**2)) / max(float(self.density.mean()), 1e-300))
        return (
            f"{self.density[middle]:.4g} ± {self.error[middle]:.2g} states/eV at {self.energies[middle]:.4f} eV, "
            f"{100 * relative:.2g} % on average, from {self.vectors} vectors; {self.note}"
        )


def write_density(path: Path, record: DensityRecord, attributes: dict[str, object], *, keep: bool) -> None:
    """Add the groups to results.h5, or make the file. Not collective. The file is always whole.

    Args:
        path: of results.h5.
        record: the densities.
        attributes: of the root.
        keep: whether a file that exists is of this run: its other groups stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    if keep:
        shutil.copyfile(path, temporary)
    reserve(temporary, sum(value.nbytes for value in vars(record).values() if isinstance(value, np.ndarray)))
    with told(path), h5py.File(temporary, "r+" if keep else "w") as file:
        file.attrs.update(attributes)
        for name in ("dos", "ldos"):
            if name in file:
                del file[name]
        dos = file.create_group("dos")
        for name in ("energies", "density", "error", "edges", "integrated"):
            dos[name] = getattr(record, name)
        for name in _ATTRIBUTES:
            dos.attrs[name] = getattr(record, name)
        if len(record.atoms):
            ldos = file.create_group("ldos")
            ldos["energies"], ldos["atoms"] = record.energies, record.atoms
            ldos["density"], ldos["error"] = record.local, record.local_error
            ldos.attrs["projection"] = record.projection
    temporary.replace(path)


def read_density(path: Path) -> tuple[DensityRecord, str] | None:
    """The densities of results.h5 and the formula of the cell; None when [dos] was not asked for. Not collective.

    Raises:
        DataError: missing or unreadable.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with reading(path, "not a complete results.h5 of deeph-mpi"), h5py.File(path, "r") as file:
        if "dos" not in file or "error" not in file["dos"]:
            return None
        dos, ldos = file["dos"], file.get("ldos")
        m = len(dos["energies"])
        arrays: dict[str, Any] = {
            name: _real(dos[name]) for name in ("energies", "density", "error", "edges", "integrated")
        }
        record = DensityRecord(
            **arrays,
            **{name: dos.attrs[name] for name in _ATTRIBUTES},
            atoms=np.empty(0, dtype=np.int64) if ldos is None else ldos["atoms"][:],
            local=np.zeros((0, m)) if ldos is None else _real(ldos["density"]),
            local_error=np.zeros((0, m)) if ldos is None else _real(ldos["error"]),
        )
        if not m or record.density.shape != (m,) or record.error.shape != (m,):
            raise ValueError(f"densities of {record.density.shape} and errors of {record.error.shape} at {m} energies")
        if not record.local.shape == record.local_error.shape == (len(record.atoms), m):
            raise ValueError(f"densities of {record.local.shape} for {len(record.atoms)} atoms at {m} energies")
        return record, str(file.attrs.get("formula", ""))


def _real(dataset: h5py.Dataset) -> np.ndarray:
    values: np.ndarray = dataset[:].astype(np.float64)
    return values


def has_states(path: Path) -> bool:
    """Whether results.h5 holds states beside densities. Not collective."""
    with reading(path), h5py.File(path, "r") as file:
        return "spectrum" in file
