"""Errors of a Hamiltonian as its eigenstates feel them.

An eigenvalue is a coherent sum over many elements of H, of which element-wise errors see nothing. The error in the basis of the
reference's own eigenstates, C(k)† ΔH(k) C(k) with C† S C = 1, does: its diagonal is the first-order change of every
eigenvalue. It is weighted towards E_F. Far from it lie the combinations of nearly dependent orbitals (eigenvalues of S of 1e-3
and less), which amplify any noise of H a thousandfold: counted fully they drown everything else (`benchmarks/accuracy.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.errors import DataError
from deeph_mpi.model.model import packed_to_lab
from deeph_mpi.train.labels import Labels

__all__ = ["BandReference", "BlochSum", "band_reference", "sample_kpoints"]

WIDTH = 3.0  # eV; distance from E_F at which a state counts half
NEAR = 2.0  # eV around E_F, the states of reported errors


class BlochSum:
    """From blocks of one structure in bond frames to dense matrices at k-points.

    Phases count from atom to atom, exp(i k·(r_j − r_i)): as good as those from cell to cell, a unitary transformation apart.

    Args:
        labels: of the structure, for its geometry.
        template: of the blocks.
        kpoints: (n_k, 3) Cartesian, 1/Å.
        dtype: real dtype of the phases and rotations.
    """

    def __init__(self, labels: Labels, template: ShellTemplate, kpoints: np.ndarray, dtype: torch.dtype) -> None:
        self.template = template
        self.atoms, self.n_pairs = len(labels.numbers), len(labels.i)
        self.rotation = template.wigner(labels.vectors, torch.float64).to(dtype)
        angle = labels.vectors @ torch.tensor(kpoints).T
        self.cos, self.sin = torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)
        self.places = labels.i * self.atoms + labels.j
        self.own = torch.arange(self.atoms) * (self.atoms + 1)
        self.basis = torch.tensor(OnsiteLayout(template.shells).basis).flatten(1).to(dtype)

    def to(self, device: torch.device) -> BlochSum:
        """Move to a device, in place."""
        for name in ("rotation", "cos", "sin", "places", "own", "basis"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __call__(self, pair: Tensor, onsite: Tensor, k: int) -> Tensor:
        """Pairs (n, size²) packed in bond frames and onsite components (N, c) → (N·size, N·size) complex, in template order."""
        size = self.template.size
        blocks = packed_to_lab(pair, self.rotation, self.template).flatten(1)
        own = 0.5 * (onsite @ self.basis)
        parts = []
        for phase in (self.cos, self.sin):
            part = blocks.new_zeros(self.atoms**2, size**2)
            part = part.index_add(0, self.places, blocks * phase[:, k, None])
            if phase is self.cos:
                part = part.index_add(0, self.own, own)
            parts.append(part)
        matrix = torch.complex(parts[0], parts[1]).view(self.atoms, self.atoms, size, size)
        matrix = matrix.transpose(1, 2).reshape(self.atoms * size, self.atoms * size)
        return matrix + matrix.mH  # each pair stands for both directions


@dataclass
class BandReference:
    """Eigenstates of one structure's reference matrices at some k-points.

    Attributes:
        sums: makes matrices at these k-points.
        energies: (n_k, n) eV, ascending.
        states: (n_k, N·size, n) complex eigenvectors, C† S C = 1, in template order.
        weights: (n_k, 1, n) of the states, 1 at E_F, falling with the square of the distance from it.
        overlaps: (n_k, N·size, N·size) complex, only where eigenvalues are to be computed.
        orbitals: (n,) rows of template order that are orbitals of the atoms.
        fermi_energy: eV.
    """

    sums: BlochSum
    energies: np.ndarray
    states: Tensor
    weights: Tensor
    overlaps: np.ndarray | None
    orbitals: np.ndarray
    fermi_energy: float

    def to(self, device: torch.device) -> BandReference:
        """Move to a device, in place."""
        self.sums.to(device)
        self.states, self.weights = self.states.to(device), self.weights.to(device)
        return self

    def error(self, pair: Tensor, onsite: Tensor, turn: int) -> Tensor:
        """Weighted root mean square of C† ΔH C, eV, at one of the k-points in turn, of errors as `BlochSum` takes them."""
        k = turn % len(self.states)
        states = self.states[k] * self.weights[k]
        error = states.mH @ self.sums(pair, onsite, k) @ states
        return torch.view_as_real(error).square().sum().add(1e-20).sqrt() / len(error)

    def energy_errors(self, pair: Tensor, onsite: Tensor) -> np.ndarray:
        """Errors in eV of the eigenvalues within `NEAR` of E_F, of predicted blocks with the reference's overlaps; by index."""
        assert self.overlaps is not None
        found = []
        rows = np.ix_(self.orbitals, self.orbitals)
        for k, (reference, overlap) in enumerate(zip(self.energies, self.overlaps, strict=True)):
            matrix = self.sums(pair, onsite, k).cpu().numpy()[rows]
            energies = scipy.linalg.eigh(matrix, overlap, eigvals_only=True)
            found.append((energies - reference)[np.abs(reference - self.fermi_energy) < NEAR])
        return np.concatenate(found)


def sample_kpoints(cell: np.ndarray, pbc: np.ndarray, count: int) -> np.ndarray:
    """Γ and `count` − 1 general k-points, Cartesian in 1/Å: (count, 3); Γ alone for a molecule.

    The general ones are an additive recurrence, which covers the zone evenly (Roberts' R3 sequence).
    """
    if not pbc.any():
        return np.zeros((1, 3))
    step = 1.0 / 1.2207440846057596 ** np.arange(1, 4)
    fractional = (np.arange(count)[:, None] * step + 0.5) % 1.0 - 0.5
    fractional[0] = 0.0
    fractional[:, ~pbc] = 0.0
    return 2 * np.pi * fractional @ np.linalg.inv(cell).T


def band_reference(
    labels: Labels, template: ShellTemplate, kpoints: np.ndarray, dtype: torch.dtype, *, overlaps: bool = False
) -> BandReference:
    """Diagonalize a structure's labels at k-points (n_k, 3) in 1/Å, densely.

    Raises:
        DataError: when S is not positive definite, or no Fermi energy is known.
    """
    if labels.fermi_energy is None:
        raise DataError(f"{labels.name}: no fermi_energy_eV is given, so that states near it cannot be told")
    exact = BlochSum(labels, template, kpoints, torch.float64)
    have = np.concatenate(
        [np.sort(template.index[z].numpy()) + n * template.size for n, z in enumerate(labels.numbers)]
    )
    energies, states, metric = [], [], []
    for k in range(len(kpoints)):
        h = exact(labels.hamiltonian, labels.onsite, k).numpy()[np.ix_(have, have)]
        s = exact(labels.overlap, labels.onsite_overlap, k).numpy()[np.ix_(have, have)]
        try:
            values, vectors = scipy.linalg.eigh(h, s)
        except np.linalg.LinAlgError:
            raise DataError(f"{labels.name}: the overlap matrix is not positive definite") from None
        whole = np.zeros((labels.numbers.size * template.size, len(have)), dtype=complex)
        whole[have] = vectors
        energies.append(values)
        states.append(torch.tensor(whole))
        metric.append(s)
    far = np.abs(np.array(energies) - labels.fermi_energy) / WIDTH
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    return BandReference(
        BlochSum(labels, template, kpoints, dtype),
        np.array(energies),
        torch.stack(states).to(complex_dtype),
        torch.tensor(1.0 / (1.0 + far**2)).to(dtype)[:, None, :],
        np.array(metric) if overlaps else None,
        have,
        labels.fermi_energy,
    )
