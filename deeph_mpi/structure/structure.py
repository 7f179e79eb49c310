"""An atomic structure as plain arrays: small enough (tens of bytes per atom) to be replicated on every rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

__all__ = ["Structure", "element_order"]


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

    @property
    def formula(self) -> str:
        """Elements by atomic number, with their counts: C8N2."""
        kinds, counts = np.unique(self.numbers, return_counts=True)
        return "".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in zip(kinds, counts, strict=True))


def element_order(numbers: np.ndarray) -> np.ndarray:
    """(N,) int64: the atoms grouped by element, elements by first appearance, otherwise in the order given."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable").astype(np.int64)
