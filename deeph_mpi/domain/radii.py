"""Radii per pair of elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.errors import StructureError

__all__ = ["Radii", "RadiusTable"]

Radii = float | Mapping[tuple[int, int], float]
"""One radius in Å, or one per pair of atomic numbers, {(z1, z2): r}; either order of the key will do."""


@dataclass(frozen=True)
class RadiusTable:
    """A symmetric table of radii for the elements of one structure.

    Attributes:
        species: (119,) int64, row of each atomic number in `radii`, −1 for elements that do not occur.
        radii: (n, n) float64, Å.
    """

    species: np.ndarray
    radii: np.ndarray

    @classmethod
    def build(cls, radii: Radii, numbers: np.ndarray) -> RadiusTable:
        """Tabulate `radii` for the elements among `numbers`.

        Raises:
            StructureError: when a pair of elements has no radius, two different ones, or one that is not finite.
        """
        elements = np.unique(numbers)
        species = np.full(119, -1, dtype=np.int64)
        species[elements] = np.arange(len(elements))
        table = np.empty((len(elements), len(elements)))
        for a, z1 in enumerate(elements.tolist()):
            for b, z2 in enumerate(elements.tolist()):
                table[a, b] = _lookup(radii, z1, z2)
        return cls(species, table)

    @property
    def largest(self) -> float:
        """Largest radius, Å; 0 without atoms."""
        return float(self.radii.max(initial=0.0))

    def of(self, z1: np.ndarray, z2: np.ndarray) -> np.ndarray:
        """Radii (n,) in Å for atomic numbers (n,) and (n,)."""
        return self.radii[self.species[z1], self.species[z2]]


def _lookup(radii: Radii, z1: int, z2: int) -> float:
    name = f"{chemical_symbols[z1]}-{chemical_symbols[z2]}"
    if not isinstance(radii, Mapping):
        found = {float(radii)}
    else:
        found = {float(radii[key]) for key in ((z1, z2), (z2, z1)) if key in radii}
    if not found:
        raise StructureError(f"no radius is known for pairs {name}; give one or use a model trained on such pairs")
    if len(found) > 1:
        raise StructureError(f"pairs {name} have two different radii: {', '.join(f'{r:g}' for r in sorted(found))} Å")
    radius = found.pop()
    if not np.isfinite(radius) or radius < 0:
        raise StructureError(f"the radius of pairs {name} must be a finite number of Å, not {radius}")
    return radius
