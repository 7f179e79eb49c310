"""Structures prepared once for training: geometry in bond frames and targets; batches are their disjoint unions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.structure.structure import Structure
from deeph_mpi.train.bands import BandReference, band_reference, sample_kpoints
from deeph_mpi.train.labels import Labels

__all__ = ["Sample", "baseline_residuals", "join", "make_sample", "message_bonds"]


@dataclass
class Sample:
    """One or more structures, ready for the network.

    Attributes:
        species: (N,) int64.
        messages: bonds within the message radius, each once.
        pairs: pairs of the Hamiltonian, each once.
        pair_species: (n,) int64.
        pair_target: (n, size²) what the network has to add to the baseline, packed by sectors, eV.
        onsite_target: (N, components) the same for onsite blocks.
        bands: eigenstates of each structure, or none.
    """

    species: Tensor
    messages: Bonds
    pairs: Bonds
    pair_species: Tensor
    pair_target: Tensor
    onsite_target: Tensor
    bands: list[BandReference] = field(default_factory=list)

    def to(self, device: torch.device) -> Sample:
        """Copy to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Bonds):
                moved[name] = Bonds(*(getattr(value, f.name).to(device) for f in fields(Bonds)))
            elif name == "bands":
                moved[name] = [one.to(device) for one in value]
            else:
                moved[name] = value.to(device)
        return Sample(**moved)


def message_bonds(structure: Structure, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Undirected bonds within `radius` Å: rows i, j (n,) int64 and vectors (n, 3) float64."""
    found = neighbour_pairs(structure, np.arange(len(structure)), radius)
    once = decoded_from_i(found.i, found.j, found.R)
    return torch.tensor(found.i[once]), torch.tensor(found.j[once]), torch.tensor(found.vectors[once])


def baseline_residuals(model: HamiltonianModel, labels: Labels) -> tuple[Tensor, Tensor]:
    """Labels minus the two-centre baseline: pairs (n, size²), onsite (N, components), float64."""
    species = model.species(labels.numbers)
    kinds = species[labels.i] * len(model.elements) + species[labels.j]
    pair = labels.hamiltonian.clone()
    even = model.template.layout.sectors.even
    pair[:, :even] -= model.baseline(torch.linalg.vector_norm(labels.vectors, dim=1), kinds)
    constant = model.baseline.onsite[species].flatten(1) @ model.onsite_basis.flatten(1).T
    return pair, labels.onsite - constant


def make_sample(model: HamiltonianModel, labels: Labels, structure: Structure, kpoints: int = 0) -> Sample:
    """Prepare one structure in the model's dtype, with its eigenstates at a number of k-points."""
    network, dtype = model.network, model.dtype
    species = model.species(labels.numbers)
    pair_target, onsite_target = baseline_residuals(model, labels)
    bands = []
    if kpoints:
        at = sample_kpoints(structure.cell, structure.pbc, kpoints)
        bands.append(band_reference(labels, model.template, at, dtype))
    return Sample(
        species,
        network.message_geometry(*message_bonds(structure, network.settings.r_message), dtype),
        network.pair_geometry(labels.i, labels.j, labels.vectors, dtype),
        species[labels.i] * len(model.elements) + species[labels.j],
        pair_target.to(dtype),
        onsite_target.to(dtype),
        bands,
    )


def join(samples: Sequence[Sample]) -> Sample:
    """The disjoint union of structures; at least one."""
    starts = np.cumsum([0, *(len(sample.species) for sample in samples)])

    def bonds(name: str) -> Bonds:
        parts = [getattr(sample, name) for sample in samples]
        merged = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Bonds)}
        for end in ("i", "j"):
            shifted = [getattr(part, end) + int(start) for part, start in zip(parts, starts, strict=False)]
            merged[end] = torch.cat(shifted)
        return Bonds(**merged)

    plain = ("species", "pair_species", "pair_target", "onsite_target")
    return Sample(
        messages=bonds("messages"),
        pairs=bonds("pairs"),
        bands=[one for sample in samples for one in sample.bands],
        **{name: torch.cat([getattr(sample, name) for sample in samples]) for name in plain},
    )


def split(bands: Sequence[BandReference], pair: Tensor, onsite: Tensor) -> list[tuple[BandReference, Tensor, Tensor]]:
    """Each structure's eigenstates with its rows of pairs and onsite blocks of their union."""
    pairs = pair.split([one.sums.n_pairs for one in bands]) if bands else ()
    atoms = onsite.split([one.sums.atoms for one in bands]) if bands else ()
    return list(zip(bands, pairs, atoms, strict=True))
