"""An atomic structure as plain arrays: small enough (tens of bytes per atom) to be replicated on every rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Structure"]


@dataclass(frozen=True)
class Structure:
    """Atoms in a cell.

    Attributes:
        numbers: (N,) int64 atomic numbers.
        positions: (N, 3) float64, Å, Cartesian; not wrapped: image indices R refer to these positions as they stand.
        cell: (3, 3) float64, Å, rows are the lattice vectors.
        pbc: (3,) bool, periodic directions. Files of DFT codes are periodic in all three.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)
