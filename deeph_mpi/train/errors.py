"""Errors of a predicted Hamiltonian against its labels, as reported everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeph_mpi.model.model import HamiltonianModel, packed_to_lab, shell_rotation
from deeph_mpi.train.labels import Labels

__all__ = ["ErrorSums", "hamiltonian_errors"]


@dataclass
class ErrorSums:
    """Sums over matrix elements of one or more structures; add them up, then read the means.

    Attributes:
        onsite, hopping: sums of absolute errors, eV.
        n_onsite, n_hopping: numbers of elements.
    """

    onsite: float = 0.0
    hopping: float = 0.0
    n_onsite: float = 0.0
    n_hopping: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.onsite + other.onsite,
            self.hopping + other.hopping,
            self.n_onsite + other.n_onsite,
            self.n_hopping + other.n_hopping,
        )

    @property
    def mean(self) -> dict[str, float]:
        """Mean absolute errors in meV: all elements with equal weight, onsite blocks, hopping blocks."""
        return {
            "all": 1e3 * (self.onsite + self.hopping) / max(self.n_onsite + self.n_hopping, 1.0),
            "onsite": 1e3 * self.onsite / max(self.n_onsite, 1.0),
            "hopping": 1e3 * self.hopping / max(self.n_hopping, 1.0),
        }


def hamiltonian_errors(model: HamiltonianModel, labels: Labels, pair_error: Tensor, onsite_error: Tensor) -> ErrorSums:
    """Errors over all stored elements (both directions of every pair) after fitting out a common shift of energy.

    The zero of energy of a periodic calculation is arbitrary: μ = ⟨ΔH, S⟩ / ⟨S, S⟩, ΔH ← ΔH − μ S.

    Args:
        model: for its template.
        labels: of the structure.
        pair_error: (n, size²) predicted minus true pair blocks, packed in bond frames, eV.
        onsite_error: (N, components) the same for onsite blocks.
    """
    pair_error, onsite_error = pair_error.double(), onsite_error.double()
    product = 2 * (pair_error * labels.overlap).sum() + (onsite_error * labels.onsite_overlap).sum()
    norm = 2 * labels.overlap.square().sum() + labels.onsite_overlap.square().sum()
    shift = product / norm
    pair_error = pair_error - shift * labels.overlap
    onsite_error = onsite_error - shift * labels.onsite_overlap
    rotation = shell_rotation(labels.vectors, model.template)
    blocks = packed_to_lab(pair_error, rotation, model.template)
    onsite = onsite_error @ model.onsite_basis.flatten(1)
    orbitals = torch.tensor(model.template.orbitals.orbitals(labels.numbers)).double()
    return ErrorSums(
        float(onsite.abs().sum()),
        2 * float(blocks.abs().sum()),
        float(orbitals.square().sum()),
        2 * float((orbitals[labels.i] * orbitals[labels.j]).sum()),
    )
