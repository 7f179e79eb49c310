"""Distributed prediction: a rank's domain → all blocks of H and S in the rows that it owns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import spread
from deeph_mpi.domain.domain import Domain, build_domain
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.pairs import PairPlan, decoded_from_i, onsite_blocks, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import ModelError
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.message import MessageLayer
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import Features
from deeph_mpi.model.o3 import EquivariantNorm
from deeph_mpi.parallel import World
from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.structure.structure import Structure

__all__ = [
    "Prediction",
    "allocate_rows",
    "bonds_per_chunk",
    "exchange_features",
    "message_rows",
    "predict",
    "predict_alone",
]


class Prediction(NamedTuple):
    """What `predict` gives one rank.

    Attributes:
        hamiltonian, overlap: rows of the owned atoms; None where they were not to be kept.
        novelty: (owned,) see `Novelty`; None where the checkpoint cannot tell.
    """

    hamiltonian: BlockSet | None
    overlap: BlockSet | None
    novelty: np.ndarray | None


LARGEST_CHUNK = 1024  # bonds; more does not fit the caches and is not faster
ATOMS = 2048  # worked on at a time where nothing but their own features is needed


def bytes_per_bond(model: HamiltonianModel) -> int:
    """Temporaries of one bond while it is worked on: about 4 arrays of the length of its features (measured)."""
    wide = 2 * model.settings.node_layout().sectors.dimension + 2 * model.network.pair_convolution.gate.wide.dimension
    return 4 * wide * torch.finfo(model.dtype).bits // 8


def bonds_per_chunk(model: HamiltonianModel, memory_gb: float) -> int:
    """Bonds that are worked on at once so that their temporaries stay within `memory_gb`."""
    return int(min(max(memory_gb * 1e9 / bytes_per_bond(model), 16), LARGEST_CHUNK))


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
    rows = allocate_rows(domain, orbitals)
    predict(world, model, domain, plan, orbitals, rows, memory_gb, device)
    return rows


def allocate_rows(domain: Domain, orbitals: np.ndarray) -> tuple[BlockSet, BlockSet]:
    """Zero blocks of H and S, float64, for all rows that this rank owns, given the orbitals (N,) of every atom."""
    pairs = pairs_global(domain)
    hamiltonian = BlockSet.allocate(pairs, orbitals, np.float64)
    overlap = BlockSet(pairs, hamiltonian.offsets, np.zeros_like(hamiltonian.entries))
    return hamiltonian, overlap


@torch.no_grad()
def predict(
    world: World,
    model: HamiltonianModel,
    domain: Domain,
    plan: PairPlan,
    orbitals: np.ndarray,
    rows: tuple[BlockSet, BlockSet] | None,
    memory_gb: float = 1.0,
    device: torch.device | None = None,
) -> Prediction:
    """H and S of all rows that this rank owns. Collective: one halo exchange per layer and one for the pairs.

    Each pair is evaluated on one rank, and the owner of the other atom receives the transpose, so that H − Hᵀ is exactly
    zero over all ranks. Beside the rows, a rank holds three sets of features and the list of its pairs.

    Args:
        domain: with the model's radii.
        plan: of that domain.
        orbitals: (N,) orbitals of every atom of the structure.
        rows: where H and S are written, over `pairs_global`; None to compute them and let them go.
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
    groups = _group_bonds(domain)
    bonds_of_layer = sum(len(group.within) + len(group.across) for group in groups)
    with progress(
        world, "network: bonds of all layers and pairs", len(network.layers) * bonds_of_layer + len(plan.decode)
    ) as bar:
        return _predict(world, model, domain, plan, orbitals, rows, chunk, device, species, groups, bar)


def _predict(
    world: World,
    model: HamiltonianModel,
    domain: Domain,
    plan: PairPlan,
    orbitals: np.ndarray,
    rows: tuple[BlockSet, BlockSet] | None,
    chunk: int,
    device: torch.device,
    species: Tensor,
    groups: list[_Group],
    bar: Progress,
) -> Prediction:
    network = model.network
    owned = species[: domain.n_owned]
    state = network.start(owned)
    for layer in network.layers:
        assert isinstance(layer, MessageLayer)
        normalized, arrive = _normalized(layer.norm, state, domain.message_halo)
        for number, group in enumerate(groups):
            sums = (normalized[0].new_zeros(len(group.atoms) + 1, *state[0].shape[1:]),
                    normalized[1].new_zeros(len(group.atoms) + 1, *state[1].shape[1:]))  # fmt: skip
            for bonds, rows_of in _bonds(model, domain, group, group.within, chunk, device):
                layer.messages(*normalized, bonds, sums, rows_of)
                bar.advance(len(bonds))
            if number == 0:
                arrive()
            for bonds, rows_of in _bonds(model, domain, group, group.across, chunk, device):
                layer.messages(*normalized, bonds, sums, rows_of)
                bar.advance(len(bonds))
            atoms = torch.tensor(group.atoms, device=device)
            for part in _atoms(len(atoms)):
                own = atoms[part]
                done = layer.finish(state[0][own], state[1][own], (sums[0][part], sums[1][part]))
                state[0][own], state[1][own] = done
        del normalized, sums
    normalized, arrive = _normalized(network.pair_norm, state, domain.pair_halo)
    novelty = None
    if model.novelty is not None:
        of_parts = [model.novelty(state[0][p], state[1][p], owned[p]) for p in _atoms(domain.n_owned)]
        novelty = np.concatenate([np.empty(0), *of_parts])
    with world.together():
        _decode_onsite(model, domain, state, owned, rows)
    del state
    arrive()
    with world.together():
        _decode_pairs(model, domain, plan, normalized, species, chunk, orbitals, rows, bar)
    del normalized
    if rows is None:
        return Prediction(None, None, novelty)
    for blocks in rows:
        plan.exchange_transposes(blocks, orbitals)
    return Prediction(*rows, novelty)


def _atoms(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ATOMS, count)) for start in range(0, count, ATOMS))


def _normalized(norm: EquivariantNorm, state: Features, halo: HaloExchange) -> tuple[Features, Callable[[], None]]:
    """Normalized features of owned and ghost atoms, and what waits for the latter. Collective among neighbours."""
    owned = len(state[0])
    full = tuple(part.new_empty(owned + halo.n_ghost, *part.shape[1:]) for part in state)
    for part in _atoms(owned):
        full[0][part], full[1][part] = norm(state[0][part], state[1][part])
    return (full[0], full[1]), halo.start_fill(full)


def message_rows(domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """Message bonds of a domain, each between owned atoms once, those to ghosts as they are: local rows i, j (n,) int64 and
    vectors (n, 3) float64 Å."""
    edges = domain.messages
    once = decoded_from_i(domain.atoms[edges.i], domain.atoms[edges.j], edges.R) | (edges.j >= domain.n_owned)
    i, j = (torch.tensor(ends[once].astype(np.int64)) for ends in (edges.i, edges.j))
    return i, j, torch.tensor(edges.vectors(once))


class _Group(NamedTuple):
    """Messages that reach a group of atoms.

    Attributes:
        atoms: (n,) rows of the group.
        within: (n,) int32 rows of `domain.messages`: bonds between owned atoms. Those inside of the group once; those to
            other groups in one direction, as each group sums up its own: bonds between groups are evaluated twice, which
            costs less than to keep the sums of all atoms.
        across: the same to ghosts.
    """

    atoms: np.ndarray
    within: np.ndarray
    across: np.ndarray


def _group_bonds(domain: Domain) -> list[_Group]:
    edges = domain.messages
    first = np.searchsorted(edges.i, np.arange(domain.n_owned + 1))
    groups = []
    for atoms in domain.groups:
        inside = np.zeros(domain.n_local, dtype=bool)
        inside[atoms] = True
        rows = spread(first[atoms], np.diff(first)[atoms])
        j = edges.j[rows]
        once = decoded_from_i(domain.atoms[edges.i[rows]], domain.atoms[j], edges.R[rows]) | ~inside[j]
        ghost = j >= domain.n_owned
        groups.append(_Group(atoms, rows[once & ~ghost].astype(np.int32), rows[ghost].astype(np.int32)))
    return groups


def _bonds(
    model: HamiltonianModel, domain: Domain, group: _Group, rows: np.ndarray, chunk: int, device: torch.device
) -> Iterator[tuple[Bonds, tuple[Tensor, Tensor]]]:
    """Some bonds of a group in chunks, with the rows of its sums where their two ends go; the last row is for others."""
    edges = domain.messages
    place = np.full(domain.n_local, len(group.atoms), dtype=np.int64)
    place[group.atoms] = np.arange(len(group.atoms))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        ends = edges.i[part].astype(np.int64), edges.j[part].astype(np.int64)
        vectors = torch.tensor(edges.vectors(part), device=device)
        i, j, *into = (torch.tensor(x, device=device) for x in (*ends, place[ends[0]], place[ends[1]]))
        yield model.network.message_geometry(i, j, vectors, model.dtype), (into[0], into[1])


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
    orbitals: np.ndarray,
    rows: tuple[BlockSet, BlockSet] | None,
    bar: Progress,
) -> None:
    """Evaluate the pairs that are this rank's to decode, and write them and their transposes into its rows."""
    device = species.device
    for part in np.array_split(plan.decode, max(-(-len(plan.decode) // chunk), 1)):
        i = torch.tensor(domain.pairs.i[part].astype(np.int64), device=device)
        j = torch.tensor(domain.pairs.j[part].astype(np.int64), device=device)
        vectors = torch.tensor(domain.pairs.vectors(part), device=device)
        kinds = species[i] * len(model.elements) + species[j]
        bonds = model.network.pair_geometry(i, j, vectors, model.dtype)
        correction = model.network.pairs(normalized, bonds, kinds)
        results = model.pair_blocks(correction, vectors, kinds)
        bar.advance(len(part))
        _check_finite(results[0])
        if rows is None:
            continue
        places = plan.blocks(part)
        for row, column, chosen in model.by_elements(kinds):
            at = places[chosen.cpu().numpy()]
            for target, blocks in zip(rows, results, strict=True):
                _write(target, at, model.template.extract(blocks[chosen], row, column))
        for target in rows:
            plan.write_transposes(target, orbitals, part)
            target.release()


def _decode_onsite(
    model: HamiltonianModel, domain: Domain, state: Features, owned: Tensor, rows: tuple[BlockSet, BlockSet] | None
) -> None:
    places = None if rows is None else onsite_blocks(domain)
    for part in _atoms(domain.n_owned):
        kinds = owned[part]
        results = model.onsite_blocks(model.network.onsite((state[0][part], state[1][part]), kinds), kinds)
        _check_finite(results[0])
        if rows is None or places is None:
            continue
        numbers = domain.numbers[part]
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            for target, blocks in zip(rows, results, strict=True):
                _write(
                    target, places[part][chosen], model.template.extract(blocks[torch.tensor(chosen)], number, number)
                )


def _check_finite(blocks: Tensor) -> None:
    if not bool(torch.isfinite(blocks.sum())):
        raise ModelError("the network predicts numbers that are not finite for this structure")


def _write(target: BlockSet, at: np.ndarray, blocks: Tensor) -> None:
    """Put equally shaped blocks (n, rows, columns) into their places `at` (n,)."""
    size = blocks.shape[1] * blocks.shape[2]
    target.entries[target.offsets[at][:, None] + np.arange(size)] = blocks.flatten(1).cpu().numpy()
