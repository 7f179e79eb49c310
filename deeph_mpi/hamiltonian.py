"""A Hamiltonian with its overlap for scripts and notebooks: H(k), S(k), levels, and ways out to other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import coo_matrix, csr_matrix

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem, in_users_order, read_system, write_system
from deeph_mpi.data.supercell import coordinates
from deeph_mpi.errors import DataError

__all__ = ["Hamiltonian"]


class Hamiltonian:
    """H and S of a structure, whole on one process: for systems that fit there, without mpirun.

    Rows: atoms in the order the user gave them; orbitals of an atom by its shells (`shells`), m = −l…l of real spherical
    harmonics without Condon-Shortley phase, p = (y, z, x); with spin first all ↑, then all ↓ of an atom.
    A(k) = Σ_R e^{2πi k·R} A(R), k fractional, energies in eV.

    Attributes:
        system: structure, metadata and blocks.
    """

    def __init__(self, system: DeephSystem) -> None:
        if system.hamiltonian is None:
            raise DataError("the system has no Hamiltonian")
        self.system = in_users_order(system)

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Hamiltonian:
        """From a directory in the DeepH layout.

        Raises:
            DataError: naming the file and what is wrong with it.
        """
        return cls(read_system(directory))

    @property
    def size(self) -> int:
        """Rows of H(k)."""
        return int(self._sizes.sum())

    @property
    def shells(self) -> dict[str, list[int]]:
        """l of every shell, by element."""
        return self.system.info.orbital_map.to_symbols()

    @property
    def electrons(self) -> float | None:
        """Electrons of the cell, as the DFT code counted them; None when not known."""
        return self.system.info.occupation

    def hk(self, k: Sequence[float] = (0.0, 0.0, 0.0), *, sparse: bool = False) -> np.ndarray | csr_matrix:
        """H(k) in eV at a fractional k (3,): (size, size) complex, as an array or a SciPy CSR matrix."""
        return self._bloch(self._hamiltonian, k, sparse)

    def sk(self, k: Sequence[float] = (0.0, 0.0, 0.0), *, sparse: bool = False) -> np.ndarray | csr_matrix:
        """S(k), as `hk`; the same for both spins."""
        return self._bloch(self._overlap, k, sparse)

    def eigh(
        self, k: Sequence[float] = (0.0, 0.0, 0.0), *, vectors: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """All levels at k in eV, ascending (size,); with `vectors` also the states, S-orthonormal columns (size, size).

        Dense, O(size³): `deeph-mpi solve` is for large systems.

        Raises:
            DataError: when S(k) is not positive definite (its pairs end too soon).
        """
        try:
            return eigh(self.hk(k), self.sk(k), eigvals_only=not vectors)
        except np.linalg.LinAlgError:
            raise DataError(
                f"S at k = {list(k)} is not positive definite: the pairs end at too short a distance"
            ) from None

    def to_ase(self) -> Any:
        """The structure as `ase.Atoms`."""
        from ase import Atoms

        structure = self.system.structure
        return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)

    def to_sisl(self) -> Any:
        """A `sisl.Hamiltonian` in SIESTA's order and signs of orbitals; needs sisl."""
        from deeph_mpi.data.sisl_bridge import to_sisl

        return to_sisl(self.system)

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write the DeepH layout, which every `deeph-mpi` command reads."""
        write_system(directory, self.system)

    @cached_property
    def _sizes(self) -> np.ndarray:
        orbitals = self.system.info.orbital_map.orbitals(self.system.structure.numbers)
        return orbitals * (2 if self.system.info.spinful else 1)

    @cached_property
    def _hamiltonian(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self._elements(cast(BlockSet, self.system.hamiltonian), self._sizes)

    @cached_property
    def _overlap(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        orbitals = self.system.info.orbital_map.orbitals(self.system.structure.numbers)
        pairs, rows, columns, values = self._elements(self.system.overlap, orbitals)
        if not self.system.info.spinful:
            return pairs, rows, columns, values
        first = np.concatenate([[0], np.cumsum(orbitals)])
        atom = np.repeat(np.arange(len(orbitals)), orbitals)
        row, column = rows + first[atom[rows]], columns + first[atom[columns]]
        down = row + orbitals[atom[rows]], column + orbitals[atom[columns]]
        return (
            np.tile(pairs, (2, 1)),
            np.concatenate([row, down[0]]),
            np.concatenate([column, down[1]]),
            np.tile(values, 2),
        )

    @staticmethod
    def _elements(blocks: BlockSet, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        pair, rows, columns = coordinates(blocks, sizes)
        return blocks.pairs[pair, :3], rows, columns, blocks.entries.astype(np.result_type(blocks.entries, np.float64))

    def _bloch(
        self, elements: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], k: Sequence[float], sparse: bool
    ) -> np.ndarray | csr_matrix:
        point = np.asarray(k, dtype=np.float64)
        if point.shape != (3,):
            raise DataError(f"k must be three fractional numbers, not {k!r}")
        images, rows, columns, values = elements
        phased = values * np.exp(2j * np.pi * (images @ point))
        matrix = coo_matrix((phased, (rows, columns)), shape=(self.size, self.size)).tocsr()
        return matrix if sparse else matrix.toarray()

    def __repr__(self) -> str:
        spins = ", spinors" if self.system.info.spinful else ""
        pairs = len(self.system.overlap)
        return f"Hamiltonian({len(self.system.structure)} atoms, {self.size} orbitals, {pairs} pairs{spins})"
