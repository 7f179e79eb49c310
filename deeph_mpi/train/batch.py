"""Structures prepared once for training: geometry in bond frames and targets; batches are their disjoint unions.

A structure may also be spread over all ranks, as in inference (`spread_sample`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.wigner import Directions
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.model.chunks import message_rows
from deeph_mpi.model.decoder import PairBonds
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import Exchange, Features
from deeph_mpi.model.predict import exchange_features
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure
from deeph_mpi.train.bands import BandReference, band_reference, sample_kpoints
from deeph_mpi.train.labels import Labels

__all__ = [
    "Sample",
    "baseline_residuals",
    "empty_like",
    "join",
    "make_sample",
    "message_bonds",
    "split",
    "spread_sample",
]


def _complete(features: Features) -> Features:
    return features


@dataclass
class Sample:
    """One or more structures, ready for the network.

    Attributes:
        species: (N,) int64.
        messages: bonds within the message radius, each once.
        pairs: pairs of the Hamiltonian, each once.
        pair_target: (n, size²) what the network has to add to the baseline, packed by sectors, eV.
        onsite_target: (N, components) the same for onsite blocks.
        bands: eigenstates of each structure, or none.
        message_exchange, pair_exchange: append the rows of ghost atoms where the sample is spread over ranks.
    """

    species: Tensor
    messages: Bonds
    pairs: PairBonds
    pair_target: Tensor
    onsite_target: Tensor
    bands: list[BandReference] = field(default_factory=list)
    message_exchange: Exchange = _complete
    pair_exchange: Exchange = _complete

    def to(self, device: torch.device) -> Sample:
        """Copy to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Bonds | PairBonds):
                moved[name] = value.to(device)
            elif name == "bands":
                moved[name] = [one.to(device) for one in value]
            elif isinstance(value, Tensor):
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
    kinds = species[labels.i] * len(model.elements) + species[labels.j]
    pair_target, onsite_target = baseline_residuals(model, labels)
    bands = []
    if kpoints:
        at = sample_kpoints(structure.cell, structure.pbc, kpoints)
        bands.append(band_reference(labels, model.template, at, dtype))
    return Sample(
        species,
        network.message_geometry(*_seen(model, *message_bonds(structure, network.settings.r_message)), dtype),
        network.corrections.bonds(*_seen(model, labels.i, labels.j, labels.vectors), kinds, dtype),
        pair_target.to(dtype),
        onsite_target.to(dtype),
        bands,
    )


def _seen(model: HamiltonianModel, i: Tensor, j: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Directions]:
    """Rows, distances and directions of bonds with vectors (n, 3)."""
    return i, j, torch.linalg.vector_norm(vectors, dim=1), model.directions(vectors)


def spread_sample(world: World, model: HamiltonianModel, labels: Labels, structure: Structure) -> Sample:
    """This rank's part of a structure that all ranks work on together, as in inference. Collective.

    A rank has the atoms of its domain, the messages that reach them and the pairs that it decodes; sums of losses and
    gradients over ranks are those of the whole structure.
    """
    network, dtype = model.network, model.dtype
    pairs_of = np.bincount(labels.i, minlength=len(structure)) + np.bincount(labels.j, minlength=len(structure))
    partition = partition_atoms(structure, pairs_of.astype(float), world.size)
    domain = build_domain(world, structure, partition, network.settings.r_message, model.radii)
    mine = torch.tensor(partition.owner[labels.i.numpy()] == world.rank)
    order = np.argsort(domain.atoms)
    i, j = (torch.tensor(order[np.searchsorted(domain.atoms[order], ends[mine])]) for ends in (labels.i, labels.j))
    pair_target, onsite_target = baseline_residuals(model, labels)
    species = model.species(labels.numbers)
    kinds = species[labels.i] * len(model.elements) + species[labels.j]
    owned = torch.tensor(domain.owned)
    return Sample(
        species[owned],
        network.message_geometry(*_seen(model, *message_rows(domain)), dtype),
        network.corrections.bonds(*_seen(model, i, j, labels.vectors[mine]), kinds[mine], dtype),
        pair_target[mine].to(dtype),
        onsite_target[owned].to(dtype),
        message_exchange=partial(exchange_features, domain.message_halo),
        pair_exchange=partial(exchange_features, domain.pair_halo),
    )


def join(samples: Sequence[Sample]) -> Sample:
    """The disjoint union of whole structures; at least one."""
    if len(samples) == 1:
        return samples[0]
    starts = np.cumsum([0, *(len(sample.species) for sample in samples)])[:-1].tolist()
    return Sample(
        torch.cat([sample.species for sample in samples]),
        Bonds.join([sample.messages for sample in samples], starts),
        PairBonds.join([sample.pairs for sample in samples], starts),
        torch.cat([sample.pair_target for sample in samples]),
        torch.cat([sample.onsite_target for sample in samples]),
        [one for sample in samples for one in sample.bands],
    )


def split(bands: Sequence[BandReference], pair: Tensor, onsite: Tensor) -> list[tuple[BandReference, Tensor, Tensor]]:
    """Each structure's eigenstates with its rows of pairs and onsite blocks of their union."""
    pairs = pair.split([one.sums.n_pairs for one in bands]) if bands else ()
    atoms = onsite.split([one.sums.atoms for one in bands]) if bands else ()
    return list(zip(bands, pairs, atoms, strict=True))


def empty_like(sample: Sample) -> Sample:
    """A sample without atoms, for a rank that has no structure in a step: it takes part in the gradient's sum."""
    none = torch.zeros(0, dtype=torch.int64, device=sample.species.device)
    return Sample(none, sample.messages.none(), sample.pairs.none(), sample.pair_target[:0], sample.onsite_target[:0])
