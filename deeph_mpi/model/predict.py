"""Distributed prediction: a rank's domain → all blocks of H and S in the rows that it owns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.domain import Domain, build_domain
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.pairs import PairPlan, decoded_from_i, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import ModelError
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import Features
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["Prediction", "bonds_per_chunk", "exchange_features", "message_rows", "predict", "predict_alone"]


class Prediction(NamedTuple):
    """What `predict` gives one rank.

    Attributes:
        hamiltonian, overlap: rows of the owned atoms.
        novelty: (owned,) see `Novelty`; None where the checkpoint cannot tell.
    """

    hamiltonian: BlockSet
    overlap: BlockSet
    novelty: np.ndarray | None


LARGEST_CHUNK = 2048  # bonds; more does not fit the caches and is slower


def bonds_per_chunk(model: HamiltonianModel, memory_gb: float) -> int:
    """Bonds that are worked on at once so that their temporaries stay within `memory_gb`.

    About 12 arrays of the length of a bond's packed features are alive at a time.
    """
    size = torch.finfo(model.dtype).bits // 8
    wide = 2 * model.settings.node_layout().sectors.dimension + 2 * model.network.pair_convolution.gate.wide.dimension
    return int(min(max(memory_gb * 1e9 / (12 * wide * size), 16), LARGEST_CHUNK))


def predict_alone(
    model: HamiltonianModel, structure: Structure, memory_gb: float = 1.0, device: torch.device | None = None
) -> tuple[BlockSet, BlockSet]:
    """H and S of a whole structure on this process, float64 (H in eV). Not collective: other ranks are not needed.

    Args:
        memory_gb: bound on temporaries, GB.
        device: of the network; the CPU by default.

    Raises:
        ModelError: as for `predict`.
        DataError: for elements without orbitals in the model.
        StructureError: for overlapping atoms or a cell without volume.
    """
    world = World.alone()
    partition = Partition(np.zeros(len(structure), dtype=np.int32), 1)
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    h, s = predict(world, model, domain, plan, orbitals, memory_gb, device)[:2]
    return h, s


@torch.no_grad()
def predict(
    world: World,
    model: HamiltonianModel,
    domain: Domain,
    plan: PairPlan,
    orbitals: np.ndarray,
    memory_gb: float = 1.0,
    device: torch.device | None = None,
) -> Prediction:
    """H and S of all rows that this rank owns, float64. Collective: one halo exchange per layer and one for the pairs.

    Each pair is evaluated on one rank, and the owner of the other atom receives the transpose, so that H − Hᵀ is exactly
    zero over all ranks.

    Args:
        domain: with the model's radii.
        plan: of that domain.
        orbitals: (N,) orbitals of every atom of the structure.
        memory_gb: bound on temporaries, GB.
        device: of the network; the CPU by default.

    Raises:
        ModelError: on all ranks, for unknown elements, bonds shorter than any in the training data, or when the network
            gives numbers that are not finite.
    """
    device = device or torch.device("cpu")
    network = model.network
    chunk = bonds_per_chunk(model, memory_gb)
    with world.together():
        species = model.species(domain.numbers).to(device)
    owned = species[: domain.n_owned]
    messages = _MessageBonds(model, domain, chunk, device)
    state = network.features(owned, messages, partial(exchange_features, domain.message_halo))
    normalized = exchange_features(domain.pair_halo, network.pair_norm(*state))

    pairs = pairs_global(domain)
    hamiltonian = BlockSet.allocate(pairs, orbitals, np.float64)
    overlap = BlockSet.allocate(pairs, orbitals, np.float64)
    with world.together():
        _decode_pairs(model, domain, plan, normalized, species, chunk, (hamiltonian, overlap))
        _decode_onsite(model, domain, plan, state, owned, (hamiltonian, overlap))
    for blocks in (hamiltonian, overlap):
        plan.scatter_transposes(blocks, orbitals)
    with world.together():
        if not np.isfinite(hamiltonian.entries).all():
            raise ModelError("the network predicts numbers that are not finite for this structure")
    return Prediction(hamiltonian, overlap, None if model.novelty is None else model.novelty(*state, owned))


def message_rows(domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """Message bonds of a domain, each between owned atoms once, those to ghosts as they are: local rows i, j (n,) int64 and
    vectors (n, 3) float64 Å."""
    edges = domain.messages
    once = decoded_from_i(domain.atoms[edges.i], domain.atoms[edges.j], edges.R) | (edges.j >= domain.n_owned)
    i, j = (torch.tensor(ends[once].astype(np.int64)) for ends in (edges.i, edges.j))
    return i, j, torch.tensor(edges.vectors[once])


class _MessageBonds:
    """Gives the message bonds of a domain in chunks."""

    def __init__(self, model: HamiltonianModel, domain: Domain, chunk: int, device: torch.device) -> None:
        self.model, self.chunk, self.device = model, chunk, device
        self.i, self.j, self.vectors = message_rows(domain)

    def __call__(self) -> Iterator[Bonds]:
        geometry, dtype = self.model.network.message_geometry, self.model.dtype
        for rows in torch.arange(len(self.i)).split(self.chunk):
            i, j, vectors = (part[rows].to(self.device) for part in (self.i, self.j, self.vectors))
            yield geometry(i, j, vectors, dtype)


def exchange_features(halo: HaloExchange, features: Features) -> Features:
    """Append the ghosts' rows to both kinds of features with one message per neighbour. Collective."""
    natural, pseudo = features
    flat = torch.cat([natural.flatten(1), pseudo.flatten(1)], dim=1)
    full = halo.exchange(flat.contiguous())
    first, second = full.split([_width(natural), _width(pseudo)], dim=1)
    return first.unflatten(1, natural.shape[1:]), second.unflatten(1, pseudo.shape[1:])


def _width(features: Tensor) -> int:
    return features.shape[1] * features.shape[2]


def _decode_pairs(
    model: HamiltonianModel,
    domain: Domain,
    plan: PairPlan,
    normalized: Features,
    species: Tensor,
    chunk: int,
    targets: tuple[BlockSet, BlockSet],
) -> None:
    """Evaluate the pairs that are this rank's to decode, and write them into their rows."""
    device = species.device
    for rows in np.array_split(plan.decode, max(-(-len(plan.decode) // chunk), 1)):
        i = torch.tensor(domain.i[rows].astype(np.int64), device=device)
        j = torch.tensor(domain.j[rows].astype(np.int64), device=device)
        vectors = torch.tensor(domain.vectors[rows], device=device)
        kinds = species[i] * len(model.elements) + species[j]
        bonds = model.network.pair_geometry(i, j, vectors, model.dtype)
        correction = model.network.pairs(normalized, bonds, kinds)
        results = model.pair_blocks(correction, vectors, kinds)
        places = plan.blocks[rows]
        for row, column, chosen in model.by_elements(kinds):
            at = places[chosen.cpu().numpy()]
            for target, blocks in zip(targets, results, strict=True):
                _write(target, at, model.template.extract(blocks[chosen], row, column))


def _decode_onsite(
    model: HamiltonianModel,
    domain: Domain,
    plan: PairPlan,
    state: Features,
    owned: Tensor,
    targets: tuple[BlockSet, BlockSet],
) -> None:
    onsite = np.ones(len(targets[0]), dtype=bool)
    onsite[plan.blocks] = False
    places = np.flatnonzero(onsite)
    results = model.onsite_blocks(model.network.onsite(state, owned), owned)
    for row in np.unique(domain.numbers[: domain.n_owned]).tolist():
        chosen = np.flatnonzero(domain.numbers[: domain.n_owned] == row)
        for target, blocks in zip(targets, results, strict=True):
            _write(target, places[chosen], model.template.extract(blocks[torch.tensor(chosen)], row, row))


def _write(target: BlockSet, at: np.ndarray, blocks: Tensor) -> None:
    """Put equally shaped blocks (n, rows, columns) into their places `at` (n,)."""
    size = blocks.shape[1] * blocks.shape[2]
    target.entries[target.offsets[at][:, None] + np.arange(size)] = blocks.flatten(1).cpu().numpy()
