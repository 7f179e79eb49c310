"""Populations of the states in results.h5, read one k-point at a time and added up as pictures need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.structure.structure import Structure

__all__ = ["Projections", "participation"]


@dataclass(frozen=True)
class Projections:
    """Where every state of a results.h5 lies; the table itself stays on disk.

    Attributes:
        path: of the file.
        structure: the atoms.
        shells: what the columns of the table stand for.
        shape: (nk, n, shells) of the table.
    """

    path: Path
    structure: Structure
    shells: ShellTable
    shape: tuple[int, int, int]

    @classmethod
    def open(cls, path: Path) -> Projections:
        """Read all but the table. Not collective.

        Raises:
            DataError: unreadable, or written without populations.
        """
        with reading(path, "not a complete results.h5 of deeph-mpi"), h5py.File(path, "r") as file:
            if "projections" not in file or "structure" not in file:
                raise DataError(
                    f"'{path}' holds no populations of the states, which this picture needs: "
                    "solve again with solve.projections = true"
                )
            atoms, table = file["structure"], file["projections"]
            structure = Structure(*(atoms[name][:] for name in ("numbers", "positions", "cell", "pbc")))
            shells = ShellTable(*(table[name][:] for name in ("atom", "shell", "l")))
            return cls(path, structure, shells, table["weights"].shape)

    def shares(self, chosen: np.ndarray) -> np.ndarray:
        """(nk, n) population of every state on the shells where `chosen` (shells,) is true."""
        return self._each(lambda weights: weights[:, chosen].sum(axis=1, dtype=np.float64))

    def participation(self) -> np.ndarray:
        """(nk, n) inverse participation ratio of every state, see `participation`."""
        return self._each(lambda weights: participation(self._by_atom(weights)))

    def on_atoms(self, kpoint: int) -> np.ndarray:
        """(n, N) population of the atoms in every state of a k-point."""
        with reading(self.path), h5py.File(self.path, "r") as file:
            return self._by_atom(file["projections/weights"][kpoint])

    def _by_atom(self, weights: np.ndarray) -> np.ndarray:
        first = np.flatnonzero(np.diff(self.shells.atom, prepend=-1))
        return np.add.reduceat(weights.astype(np.float64), first, axis=1)

    def _each(self, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        with reading(self.path), h5py.File(self.path, "r") as file:
            table = file["projections/weights"]
            return np.array([reduce(table[k]) for k in range(len(table))])


def participation(weights: np.ndarray) -> np.ndarray:
    """Inverse participation ratio Σ_a w_a² / (Σ_a w_a)² of populations w (…, N) of the atoms; NaN where all are zero.

    1/N for a state spread evenly over N atoms, 1 for one on a single atom.
    """
    total = weights.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights**2).sum(axis=-1) / np.where(np.abs(total) > 1e-9, total, np.nan) ** 2
