"""Which localized orbitals each element carries, and how atoms map to matrix rows.

Orbitals of an atom follow its element's list of shells; within a shell m = −l…l of real spherical harmonics
without Condon-Shortley phase (p = y, z, x).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from deeph_mpi.errors import DataError

__all__ = ["OrbitalMap"]


@dataclass(frozen=True)
class OrbitalMap:
    """Shells of every element, keyed by atomic number.

    Attributes:
        shells: atomic number → angular momenta l of its shells, in the order of its orbitals.
    """

    shells: Mapping[int, tuple[int, ...]]

    @classmethod
    def from_symbols(cls, shells: Mapping[str, Iterable[int]]) -> OrbitalMap:
        """Build from `{"C": [0, 0, 1, 1, 2], …}`.

        Raises:
            DataError: for an unknown element, an empty list or an l outside 0…8.
        """
        table: dict[int, tuple[int, ...]] = {}
        for symbol, ls in shells.items():
            if symbol not in atomic_numbers or atomic_numbers[symbol] == 0:
                raise DataError(f"unknown element '{symbol}' in the orbital map")
            ls = tuple(ls)
            if not ls or any(not isinstance(li, int) or not 0 <= li <= 8 for li in ls):
                raise DataError(f"the orbital map of {symbol} must be a non-empty list of l in 0…8, not {list(ls)}")
            table[atomic_numbers[symbol]] = ls
        return cls(dict(sorted(table.items())))

    def to_symbols(self) -> dict[str, list[int]]:
        """The inverse of `from_symbols`."""
        return {chemical_symbols[z]: list(ls) for z, ls in self.shells.items()}

    @cached_property
    def sizes(self) -> np.ndarray:
        """(119,) int64: number of orbitals by atomic number; 0 for elements not in the map."""
        sizes = np.zeros(119, dtype=np.int64)
        for z, ls in self.shells.items():
            sizes[z] = sum(2 * li + 1 for li in ls)
        return sizes

    @property
    def l_max(self) -> int:
        """Largest l of any shell."""
        return max(max(ls) for ls in self.shells.values())

    def orbitals(self, numbers: np.ndarray) -> np.ndarray:
        """Orbitals per atom, (N,) int64, for atomic numbers (N,).

        Raises:
            DataError: when an element is not in the map.
        """
        sizes = self.sizes[numbers]
        if (sizes == 0).any():
            missing = sorted({chemical_symbols[z] for z in np.unique(numbers[sizes == 0])})
            known = ", ".join(self.to_symbols())
            raise DataError(f"no orbitals are known for {', '.join(missing)} (the orbital map has: {known})")
        return sizes
