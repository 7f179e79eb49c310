"""Distributed prediction: a rank's domain → all blocks of H and S in the rows that it owns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.domain import Domain, build_domain
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.pairs import PairPlan, onsite_blocks, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import ModelError
from deeph_mpi.model.chunks import BondGroup, atom_slices, bond_chunks, bond_groups, bonds_per_chunk, on_device
from deeph_mpi.model.message import MessageLayer
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import Features
from deeph_mpi.model.o3 import EquivariantNorm
from deeph_mpi.parallel import World
from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.structure.structure import Structure

__all__ = ["Prediction", "allocate_rows", "exchange_features", "predict", "predict_alone"]


class Prediction(NamedTuple):
    """What `predict` gives one rank.

    Attributes:
        hamiltonian, overlap: rows of the owned atoms; None where they were not to be kept.
        novelty: (owned,) see `Novelty`; None where the checkpoint cannot tell.
    """

    hamiltonian: BlockSet | None
    overlap: BlockSet | None
    novelty: np.ndarray | None


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


class _Job(NamedTuple):
    """What the steps of a prediction share, see `predict`; `species` (n_local,) and `bar` are made there."""

    model: HamiltonianModel
    domain: Domain
    plan: PairPlan
    orbitals: np.ndarray
    rows: tuple[BlockSet, BlockSet] | None
    chunk: int
    species: Tensor
    bar: Progress


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
    zero over all ranks. Beside the rows, a rank holds two sets of features, sums of one group of atoms, and its pairs.

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
    network = model.network
    with world.together():
        species = model.species(domain.numbers).to(device or torch.device("cpu"))
    owned = species[: domain.n_owned]
    groups = bond_groups(domain)
    bonds = sum(len(group.within) + len(group.across) for group in groups)
    total = len(network.layers) * bonds + len(plan.decode)
    with progress(world, "network: bonds", total) as bar:
        job = _Job(model, domain, plan, orbitals, rows, bonds_per_chunk(model, memory_gb), species, bar)
        state = network.start(owned)
        room = _empty(state, domain.n_local)
        sums = _empty(state, max(len(group.atoms) for group in groups) + 1)
        for layer in network.layers:
            assert isinstance(layer, MessageLayer)
            _pass_messages(job, groups, layer, state, room, sums)
        del sums
        normalized, arrive = _normalized(network.pair_norm, state, domain.pair_halo, room)
        novelty = None
        if model.novelty is not None:
            parts = [model.novelty(state[0][p], state[1][p], owned[p]) for p in atom_slices(domain.n_owned)]
            novelty = np.concatenate([np.empty(0), *parts])
        with world.together():
            _decode_onsite(job, state)
        del state
        arrive()
        with world.together():
            _decode_pairs(job, normalized)
        del normalized, room
    if rows is None:
        return Prediction(None, None, novelty)
    for blocks in rows:
        plan.exchange_transposes(blocks, orbitals)
    return Prediction(*rows, novelty)


def _empty(state: Features, rows: int) -> Features:
    """Room for features of `rows` atoms, for all layers: allocated anew in each, it would leave holes that nothing fits."""
    return state[0].new_empty(rows, *state[0].shape[1:]), state[1].new_empty(rows, *state[1].shape[1:])


def _pass_messages(
    job: _Job, groups: list[BondGroup], layer: MessageLayer, state: Features, room: Features, largest: Features
) -> None:
    """One layer: changes the features of the owned atoms in place. Collective among neighbours.

    Args:
        room: of normalized features of all local atoms.
        largest: of the sums of the largest group, and one row more.
    """
    domain, device = job.domain, job.species.device
    normalized, arrive = _normalized(layer.norm, state, domain.message_halo, room)
    for number, group in enumerate(groups):
        sums = largest[0][: len(group.atoms) + 1].zero_(), largest[1][: len(group.atoms) + 1].zero_()
        for rows in (group.within, group.across):
            if rows is group.across and number == 0:
                arrive()  # the first group's own bonds were worked on while the ghosts travelled
            for bonds, into in bond_chunks(job.model, domain, group, rows, job.chunk, device):
                layer.messages(*normalized, bonds, sums, into)
                job.bar.advance(len(bonds))
        atoms = torch.tensor(group.atoms, device=device)
        for part in atom_slices(len(atoms)):
            own = atoms[part]
            done = layer.finish(state[0][own], state[1][own], (sums[0][part], sums[1][part]))
            state[0][own], state[1][own] = done


def _normalized(
    norm: EquivariantNorm, state: Features, halo: HaloExchange, room: Features
) -> tuple[Features, Callable[[], None]]:
    """Normalized features of owned and ghost atoms in `room`, and what waits for the latter. Collective among neighbours."""
    owned = len(state[0])
    full = tuple(part[: owned + halo.n_ghost] for part in room)
    for part in atom_slices(owned):
        full[0][part], full[1][part] = norm(state[0][part], state[1][part])
    return (full[0], full[1]), halo.start_fill(full)


def exchange_features(halo: HaloExchange, features: Features) -> Features:
    """Append the ghosts' rows to both kinds of features with one message per neighbour. Collective."""
    natural, pseudo = features
    flat = torch.cat([natural.flatten(1), pseudo.flatten(1)], dim=1)
    full = halo.exchange(flat.contiguous())
    first, second = full.split([_width(natural), _width(pseudo)], dim=1)
    return first.unflatten(1, natural.shape[1:]), second.unflatten(1, pseudo.shape[1:])


def _width(features: Tensor) -> int:
    return features.shape[1] * features.shape[2]


def _decode_pairs(job: _Job, normalized: Features) -> None:
    """Evaluate the pairs that are this rank's to decode, and write them and their transposes into its rows."""
    model, domain, plan, species, rows = job.model, job.domain, job.plan, job.species, job.rows
    for part in np.array_split(plan.decode, max(-(-len(plan.decode) // job.chunk), 1)):
        i, j = (on_device(ends[part].astype(np.int64), species.device) for ends in (domain.pairs.i, domain.pairs.j))
        vectors = on_device(domain.pairs.vectors(part), species.device)
        kinds = species[i] * len(model.elements) + species[j]
        bonds = model.network.pair_geometry(i, j, vectors, model.dtype)
        correction = model.network.pairs(normalized, bonds, kinds)
        results = model.pair_blocks(correction, vectors, kinds)
        job.bar.advance(len(part))
        _check_finite(results[0], domain.atoms[domain.pairs.i[part]])
        if rows is None:
            continue
        places = plan.blocks(part)
        for row, column, chosen in model.by_elements(kinds):
            at = places[chosen.cpu().numpy()]
            for target, blocks in zip(rows, results, strict=True):
                _write(target, at, model.template.extract(blocks[chosen], row, column))
        for target in rows:
            plan.write_transposes(target, job.orbitals, part)
            target.release()


def _decode_onsite(job: _Job, state: Features) -> None:
    """Evaluate the onsite blocks of the owned atoms and write them into their rows."""
    model, domain, rows = job.model, job.domain, job.rows
    places = None if rows is None else onsite_blocks(domain)
    for part in atom_slices(domain.n_owned):
        kinds = job.species[part]
        results = model.onsite_blocks(model.network.onsite((state[0][part], state[1][part]), kinds), kinds)
        _check_finite(results[0], domain.atoms[part])
        if rows is None or places is None:
            continue
        numbers = domain.numbers[part]
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            at = places[part][chosen]
            for target, blocks in zip(rows, results, strict=True):
                _write(target, at, model.template.extract(blocks[torch.tensor(chosen)], number, number))


def _check_finite(blocks: Tensor, atoms: np.ndarray) -> None:
    """Refuse blocks (n, …) with numbers that are not finite, naming those of `atoms` (n,) whose they are."""
    if bool(torch.isfinite(blocks.sum())):
        return
    bad = ~torch.isfinite(blocks.flatten(1)).all(dim=1).cpu().numpy()
    found = np.unique(atoms[bad]) if bad.any() else np.unique(atoms)
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ModelError(
        f"the network predicts numbers that are not finite for atoms {', '.join(map(str, found[:5]))}{more} (counted from 0): "
        "check the structure around them, and that the checkpoint has learnt from such"
    )


def _write(target: BlockSet, at: np.ndarray, blocks: Tensor) -> None:
    """Put equally shaped blocks (n, rows, columns) into their places `at` (n,)."""
    size = blocks.shape[1] * blocks.shape[2]
    target.entries[target.offsets[at][:, None] + np.arange(size)] = blocks.flatten(1).cpu().numpy()
