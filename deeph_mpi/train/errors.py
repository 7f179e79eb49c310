"""Errors of a predicted Hamiltonian against its labels, as reported everywhere."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.model.model import HamiltonianModel, packed_to_lab
from deeph_mpi.train.labels import Labels

__all__ = ["BINS", "ErrorSums", "atom_errors", "common_shift", "hamiltonian_errors", "shell_names"]

BINS = 16  # of 1 Å; longer pairs count to the last


@dataclass
class ErrorSums:
    """Sums over matrix elements of one or more structures; add them up, then read the means. All arrays are float64.

    Attributes:
        onsite, hopping: (shells, shells) sums of absolute errors of the template's shell pairs, eV; a pair of atoms counts
            in both directions.
        n_onsite, n_hopping: (shells, shells) numbers of elements.
        distance, n_distance: (BINS,) the same of hopping blocks by distance, in bins of 1 Å.
        energy, n_energy: (1,) the same of eigenvalues near E_F.
    """

    onsite: np.ndarray
    hopping: np.ndarray
    n_onsite: np.ndarray
    n_hopping: np.ndarray
    distance: np.ndarray
    n_distance: np.ndarray
    energy: np.ndarray
    n_energy: np.ndarray

    @classmethod
    def zero(cls, shells: int) -> ErrorSums:
        """No elements yet, for a template of so many shells."""
        square, line, one = (shells, shells), (BINS,), (1,)
        return cls(*(np.zeros(shape) for shape in (square, square, square, square, line, line, one, one)))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mean(self) -> dict[str, float]:
        """Mean absolute errors in meV: all elements with equal weight, onsite blocks, hopping blocks, eigenvalues near E_F
        (NaN where none were computed)."""
        onsite, hopping = self.onsite.sum(), self.hopping.sum()
        n_onsite, n_hopping = self.n_onsite.sum(), self.n_hopping.sum()
        return {
            "all": float(_mean(onsite + hopping, n_onsite + n_hopping)),
            "onsite": float(_mean(onsite, n_onsite)),
            "hopping": float(_mean(hopping, n_hopping)),
            "eigenvalues": float(_mean(self.energy, self.n_energy)[0]),
        }

    @property
    def by_shells(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean absolute errors in meV of onsite and of hopping blocks: (shells, shells) each, NaN where there are none."""
        return _mean(self.onsite, self.n_onsite), _mean(self.hopping, self.n_hopping)

    @property
    def by_distance(self) -> np.ndarray:
        """Mean absolute errors in meV of hopping blocks in bins of 1 Å: (BINS,), NaN where there are none."""
        return _mean(self.distance, self.n_distance)


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    count = np.asarray(count, dtype=float)
    return np.where(count > 0, 1e3 * np.asarray(total) / np.maximum(count, 1.0), np.nan)


def shell_names(template: ShellTemplate) -> list[str]:
    """Names of the template's shells: s1, s2, p1, …"""
    seen: dict[int, int] = {}
    names = []
    for degree in template.shells:
        seen[degree] = seen.get(degree, 0) + 1
        names.append("spdfghijk"[degree] + str(seen[degree]))
    return names


def common_shift(labels: Labels, pair_error: Tensor, onsite_error: Tensor) -> float:
    """The shift of the zero of energy that errors contain: μ = ⟨ΔH, S⟩ / ⟨S, S⟩, eV (Frobenius product, both directions)."""
    product = 2 * (pair_error * labels.overlap).sum() + (onsite_error * labels.onsite_overlap).sum()
    norm = 2 * labels.overlap.square().sum() + labels.onsite_overlap.square().sum()
    return float(product / norm)


def hamiltonian_errors(model: HamiltonianModel, labels: Labels, pair_error: Tensor, onsite_error: Tensor) -> ErrorSums:
    """Errors over all stored elements (both directions of every pair) after fitting out a common shift of energy.

    The zero of energy of a periodic calculation is arbitrary: ΔH ← ΔH − μ S with the μ of `common_shift`.

    Args:
        model: for its template.
        labels: of the structure.
        pair_error: (n, size²) predicted minus true pair blocks, packed in bond frames, eV.
        onsite_error: (N, components) the same for onsite blocks.
    """
    template = model.template
    blocks, onsite = _absolute(model, labels, pair_error, onsite_error)
    distances = torch.linalg.vector_norm(labels.vectors, dim=1)
    members = torch.tensor(np.diff(template.first))  # orbitals of each shell
    member = torch.repeat_interleave(torch.eye(len(members), dtype=torch.float64), members, dim=0)
    have = torch.stack([torch.tensor(template.mask(z)).double() * members for z in labels.numbers.tolist()])

    sums = ErrorSums.zero(len(members))
    hopping, n_hopping = member.T @ blocks.sum(dim=0) @ member, have[labels.i].T @ have[labels.j]
    sums.hopping, sums.n_hopping = (hopping + hopping.T).numpy(), (n_hopping + n_hopping.T).numpy()
    sums.onsite = (member.T @ onsite.sum(dim=0) @ member).numpy()
    sums.n_onsite = (have.T @ have).numpy()
    bins = distances.long().clamp(max=BINS - 1)
    size = (have.sum(dim=1)[labels.i] * have.sum(dim=1)[labels.j]).numpy()
    sums.distance = 2 * np.bincount(bins, weights=blocks.sum(dim=(1, 2)).numpy(), minlength=BINS)
    sums.n_distance = 2 * np.bincount(bins, weights=size, minlength=BINS)
    return sums


def atom_errors(model: HamiltonianModel, labels: Labels, pair_error: Tensor, onsite_error: Tensor) -> np.ndarray:
    """Mean absolute errors of the elements in each atom's rows, (N,) meV; arguments as for `hamiltonian_errors`."""
    blocks, onsite = _absolute(model, labels, pair_error, onsite_error)
    orbitals = torch.tensor(model.template.orbitals.orbitals(labels.numbers)).double()
    totals, counts = onsite.sum(dim=(1, 2)), orbitals.square()
    of_pair, size = blocks.sum(dim=(1, 2)), orbitals[labels.i] * orbitals[labels.j]
    for ends in (labels.i, labels.j):
        totals = totals.index_add(0, ends, of_pair)
        counts = counts.index_add(0, ends, size)
    return (1e3 * totals / counts).numpy()


def _absolute(
    model: HamiltonianModel, labels: Labels, pair_error: Tensor, onsite_error: Tensor
) -> tuple[Tensor, Tensor]:
    """Absolute errors in the lab frame, a common shift fitted out: pairs (n, size, size) and onsite (N, size, size), eV."""
    template = model.template
    pair_error, onsite_error = pair_error.double(), onsite_error.double()
    shift = common_shift(labels, pair_error, onsite_error)
    rotation = template.wigner(labels.vectors, torch.float64)
    blocks = packed_to_lab(pair_error - shift * labels.overlap, rotation, template).abs()
    onsite = (onsite_error - shift * labels.onsite_overlap) @ model.onsite_basis.flatten(1)
    return blocks, onsite.abs().view(-1, template.size, template.size)
