"""Blocks of a Hamiltonian or overlap in the localized basis: what readers return, the network predicts and
assembly consumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BlockSet"]


@dataclass
class BlockSet:
    """Blocks (R, i, j) = ⟨φ_i in cell 0| A |φ_j in cell R⟩, held by one rank.

    Attributes:
        pairs: (n, 5) int64, columns R1, R2, R3, i, j with global 0-based atom indices. Onsite blocks are (0, 0, 0, i, i).
        offsets: (n + 1,) int64, where each block starts in `entries`; block p has shape (orbitals of i, orbitals of j).
        entries: flat array of all blocks, row-major; float32, float64 (eV for H) or complex128 (spinors).
    """

    pairs: np.ndarray
    offsets: np.ndarray
    entries: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def allocate(cls, pairs: np.ndarray, orbitals: np.ndarray, dtype: np.dtype | type) -> BlockSet:
        """Zero blocks for `pairs` (n, 5), given the number of orbitals of every atom (N,)."""
        sizes = orbitals[pairs[:, 3]] * orbitals[pairs[:, 4]]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(np.ascontiguousarray(pairs, dtype=np.int64), offsets, np.zeros(offsets[-1], dtype=dtype))

    def release(self) -> None:
        """Called when some blocks have been written: those that live in a file may leave the memory."""

    def block(self, index: int, orbitals: np.ndarray) -> np.ndarray:
        """View of block `index` with shape (orbitals of i, orbitals of j)."""
        i, j = self.pairs[index, 3:]
        return self.entries[self.offsets[index] : self.offsets[index + 1]].reshape(orbitals[i], orbitals[j])

    def as_dict(self, orbitals: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        """{(R1, R2, R3, i, j): copy of the block}, given the number of orbitals of every atom (N,). For few atoms."""
        return {tuple(pair): self.block(index, orbitals).copy() for index, pair in enumerate(self.pairs.tolist())}
