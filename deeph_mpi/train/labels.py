"""From DFT matrices to what the network is trained on: blocks in bond frames, gauge-fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.errors import DataError
from deeph_mpi.model.model import lab_to_packed

__all__ = ["Labels", "make_labels"]


@dataclass
class Labels:
    """Matrices of one structure, each undirected pair once, in template order and float64.

    Attributes:
        name: of the structure.
        numbers: (N,) atomic numbers.
        i, j: (n,) int64 atoms of the pairs.
        vectors: (n, 3) Å from i to j.
        hamiltonian, overlap: (n, size²) pair blocks packed by sectors in the bond frame; H in eV, gauge-fixed.
        onsite, onsite_overlap: (N, components) onsite blocks in the basis of `OnsiteLayout`.
        fermi_energy: eV, in the same zero of energy; None where the structure does not give it.
    """

    name: str
    numbers: np.ndarray
    i: Tensor
    j: Tensor
    vectors: Tensor
    hamiltonian: Tensor
    overlap: Tensor
    onsite: Tensor
    onsite_overlap: Tensor
    fermi_energy: float | None = None

    def shift(self, energy: float) -> None:
        """Move the zero of energy: H ← H − energy · S."""
        self.hamiltonian -= energy * self.overlap
        self.onsite -= energy * self.onsite_overlap
        if self.fermi_energy is not None:
            self.fermi_energy -= energy


def make_labels(name: str, system: DeephSystem, template: ShellTemplate) -> Labels:
    """Labels of one structure; H is moved to the vacuum level where the structure gives it.

    Raises:
        DataError: for spinful matrices, an orbital map other than the template's, or without a Hamiltonian.
    """
    if system.hamiltonian is None or system.info.spinful:
        raise DataError(f"{name}: training needs a Hamiltonian without spin-orbit coupling")
    numbers = system.structure.numbers
    for number in np.unique(numbers).tolist():
        if number not in template.orbitals.shells:
            raise DataError(f"{name}: {chemical_symbols[number]} does not occur in the training structures")
        if system.info.orbital_map.shells[number] != template.orbitals.shells[number]:
            raise DataError(f"{name}: the orbital map differs from that of the training structures")
    orbitals = template.orbitals.orbitals(numbers)
    pairs = system.hamiltonian.pairs
    i, j, R = pairs[:, 3], pairs[:, 4], pairs[:, :3]
    onsite = (i == j) & ~R.any(axis=1)
    chosen = np.flatnonzero(decoded_from_i(i, j, R) & ~onsite)
    vectors = system.structure.positions[j[chosen]] - system.structure.positions[i[chosen]]
    vectors = torch.tensor(vectors + R[chosen] @ system.structure.cell)
    rotation = template.wigner(vectors, torch.float64)
    flat_basis = torch.tensor(OnsiteLayout(template.shells).basis).flatten(1)
    packed, flat = [], []
    for blocks in (system.hamiltonian, system.overlap):
        whole = _in_template(blocks.entries, blocks.offsets, pairs, numbers, orbitals, template)
        packed.append(lab_to_packed(whole[chosen], rotation, template))
        own = np.flatnonzero(onsite)
        flat.append(whole[own[np.argsort(i[own])]].flatten(1) @ flat_basis.T)
    ends = torch.tensor(i[chosen]), torch.tensor(j[chosen])
    labels = Labels(name, numbers, *ends, vectors, packed[0], packed[1], flat[0], flat[1], system.info.fermi_energy_eV)
    if system.info.vacuum_level_eV is not None:
        labels.shift(system.info.vacuum_level_eV)
    return labels


def _in_template(
    entries: np.ndarray,
    offsets: np.ndarray,
    pairs: np.ndarray,
    numbers: np.ndarray,
    orbitals: np.ndarray,
    template: ShellTemplate,
) -> Tensor:
    """All blocks (n, size, size) float64 in template order."""
    whole = torch.zeros(len(pairs), template.size, template.size, dtype=torch.float64)
    z = numbers[pairs[:, 3:]]
    for row, column in np.unique(z, axis=0).tolist():
        rows = np.flatnonzero((z[:, 0] == row) & (z[:, 1] == column))
        shape = (int(template.orbitals.sizes[row]), int(template.orbitals.sizes[column]))
        at = offsets[rows][:, None] + np.arange(shape[0] * shape[1])
        blocks = torch.tensor(entries[at].astype(np.float64).reshape(-1, *shape))
        whole[torch.tensor(rows)] = template.embed(blocks, row, column)
    return whole
