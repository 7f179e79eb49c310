"""The shells of all atoms in one list: the groups of orbitals that populations are given for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap

__all__ = ["ShellTable"]


@dataclass(frozen=True)
class ShellTable:
    """Every shell of every atom, atom by atom, in the order of their orbitals.

    Attributes:
        atom: (n,) int64, the atom each shell sits on.
        shell: (n,) int64, its place among the shells of that atom, from 0.
        l: (n,) int64, its angular momentum.
    """

    atom: np.ndarray
    shell: np.ndarray
    l: np.ndarray  # noqa: E741 (the field's name for it)

    @classmethod
    def build(cls, numbers: np.ndarray, orbitals: OrbitalMap) -> ShellTable:
        """The shells of atoms with atomic numbers (N,)."""
        momenta = [np.array(orbitals.shells[int(z)]) for z in numbers]
        counts = np.array([len(ls) for ls in momenta], dtype=np.int64)
        atom = np.repeat(np.arange(len(numbers)), counts)
        shell = np.arange(len(atom)) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(atom, shell, np.concatenate(momenta).astype(np.int64))

    def __len__(self) -> int:
        return len(self.atom)

    def counts(self, atoms: int) -> np.ndarray:
        """(atoms,) int64, shells of each of the `atoms` atoms of the structure."""
        return np.bincount(self.atom, minlength=atoms).astype(np.int64)

    def groups(self, atoms: np.ndarray, spins: int) -> np.ndarray:
        """The shell of every matrix row of `atoms`, ascending, counted from 0 within them.

        Args:
            atoms: (m,) in ascending order.
            spins: 2 where the rows of an atom are all its orbitals with spin up, then all with spin down; else 1.
        """
        chosen = np.flatnonzero(np.isin(self.atom, atoms))
        rows = np.repeat(np.arange(len(chosen)), 2 * self.l[chosen] + 1)
        if spins == 1:
            return rows
        owner = self.atom[chosen][rows]
        return np.concatenate([rows, rows])[np.argsort(np.concatenate([owner, owner]), kind="stable")]
