"""Which rank owns which atom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Partition"]


@dataclass(frozen=True)
class Partition:
    """Ownership of atoms, replicated on every rank (4 bytes per atom).

    Attributes:
        owner: (N,) int32, the owning rank of every atom.
        size: number of ranks; some may own nothing.
    """

    owner: np.ndarray
    size: int

    def atoms(self, rank: int) -> np.ndarray:
        """Global indices of the atoms that `rank` owns, ascending, int64."""
        return np.flatnonzero(self.owner == rank).astype(np.int64)
