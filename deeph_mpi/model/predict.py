"""Distributed prediction: a rank's domain → all blocks of H and S in the rows that it owns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.block_rows import put_blocks
from deeph_mpi.domain.domain import Domain, build_domain
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.pairs import PairPlan, onsite_blocks, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import ModelError
from deeph_mpi.model.chunks import (
    BondGroup,
    atom_slices,
    bond_chunks,
    bond_groups,
    bonds_per_chunk,
    on_device,
    pair_zones,
)
from deeph_mpi.model.decoder import NONE
from deeph_mpi.model.message import MessageLayer
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import Features
from deeph_mpi.model.o3 import EquivariantNorm
from deeph_mpi.parallel import World
from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.structure.structure import Structure

__all__ = ["Prediction", "allocate_rows", "exchange_features", "predict", "predict_alone", "put_pairs"]

_ZONED = 1 << 15  # pairs that are sorted by zones: not all, as rows may be on their way to a disk


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
    """H and S of all rows that this rank owns. Collective: one halo exchange per layer but the first and one for the pairs.

    Each pair is evaluated on one rank, and the owner of the other atom receives the transpose, so that H − Hᵀ is exactly
    zero over all ranks. Beside the rows, a rank holds the features of its atoms and ghosts, normalized ones and sums of one
    group of atoms, and its pairs.

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
        features = _empty(network.start(owned[:0]), domain.n_local)
        for part in atom_slices(domain.n_owned):
            features[0][part], features[1][part] = network.start(owned[part])
        room, turns = _Room.make(features, groups), [_Turn.of(group, species.device) for group in groups]
        for layer in network.layers:
            assert isinstance(layer, MessageLayer)
            _pass_messages(job, turns, layer, features, room)
        del room, turns
        arrive = _send_normalized(network.pair_norm, features, domain.pair_halo)
        state = _first(features, domain.n_owned)
        novelty = None
        if model.novelty is not None:
            parts = [model.novelty(state[0][p], state[1][p], owned[p]) for p in atom_slices(domain.n_owned)]
            novelty = np.concatenate([np.empty(0), *parts])
        with world.together():
            _decode_onsite(job, state)
        for part in atom_slices(domain.n_owned):
            state[0][part], state[1][part] = network.pair_norm(state[0][part], state[1][part])
        arrive()
        with world.together():
            _decode_pairs(job, features)
        del state, features
    if rows is None:
        return Prediction(None, None, novelty)
    for blocks in rows:
        plan.exchange_transposes(blocks, orbitals)
    return Prediction(*rows, novelty)


def _empty(like: Features, rows: int) -> Features:
    """Room for features of `rows` atoms, for all layers: allocated anew in each, it would leave holes that nothing fits."""
    return like[0].new_empty(rows, *like[0].shape[1:]), like[1].new_empty(rows, *like[1].shape[1:])


def _first(features: Features, rows: int) -> Features:
    return features[0][:rows], features[1][:rows]


class _Turn(NamedTuple):
    """A group of atoms whose messages are summed up together, with the rows that `BondGroup` describes on the device.

    `fresh` are those of the group and of groups after it, whose features are what the layer began with.
    """

    group: BondGroup
    atoms: Tensor
    fresh: Tensor
    kept: Tensor
    ghosts: Tensor
    own: Tensor
    keep: Tensor

    @classmethod
    def of(cls, group: BondGroup, device: torch.device) -> _Turn:
        fresh = np.concatenate([group.atoms, group.later])
        rows = (group.atoms, fresh, group.kept, group.ghosts, group.own, group.keep)
        return cls(group, *(on_device(each.astype(np.int64), device) for each in rows))


class _Room(NamedTuple):
    """What a layer needs beside the features, for all layers: `around` normalized ones of the largest group and of all
    around it, `kept` those that later groups need of atoms already updated, `sums` of the largest group, one row more."""

    around: Features
    kept: Features
    sums: Features

    @classmethod
    def make(cls, like: Features, groups: list[BondGroup]) -> _Room:
        return cls(
            _empty(like, max(len(group.around) for group in groups)),
            _empty(like, sum(len(group.keep) for group in groups)),
            _empty(like, max(len(group.atoms) for group in groups) + 1),
        )


def _pass_messages(job: _Job, turns: list[_Turn], layer: MessageLayer, features: Features, room: _Room) -> None:
    """One layer. Collective among neighbours, but for the first.

    Args:
        features: of the local atoms: those owned are changed in place, ghosts of the messages get normalized ones.
    """
    if layer is job.model.network.layers[0]:
        arrive = _start_ghosts(job, layer.norm, features)
    else:
        arrive = _send_normalized(layer.norm, features, job.domain.message_halo)
    for number, turn in enumerate(turns):
        group, count = turn.group, len(turn.atoms)
        sums = _first(room.sums, count + 1)
        for each in sums:
            each.zero_()
        _fill_owned(turn, layer.norm, features, room)
        for rows in (group.within, group.across):
            if rows is group.across:
                if number == 0:
                    arrive()  # the first group's own bonds were worked on while the ghosts travelled
                _put(room.around, len(turn.fresh) + len(turn.kept), features, turn.ghosts)
            for bonds, into in bond_chunks(
                job.model, layer.geometry, job.domain, group, rows, job.chunk, turn.atoms.device
            ):
                layer.messages(*room.around, bonds, sums, into)
                job.bar.advance(len(bonds))
        for kept, around in zip(room.kept, room.around, strict=True):
            kept[turn.keep] = around[turn.own]
        for part in atom_slices(count):
            own = turn.atoms[part]
            done = layer.finish(features[0][own], features[1][own], (sums[0][part], sums[1][part]))
            features[0][own], features[1][own] = done


def _fill_owned(turn: _Turn, norm: EquivariantNorm, features: Features, room: _Room) -> None:
    """Normalized features of a group and of what is around it, all but ghosts."""
    for part in atom_slices(len(turn.fresh)):
        rows = turn.fresh[part]
        room.around[0][part], room.around[1][part] = norm(features[0][rows], features[1][rows])
    _put(room.around, len(turn.fresh), room.kept, turn.kept)


def _put(target: Features, start: int, source: Features, rows: Tensor) -> None:
    """Copy rows of features to consecutive places."""
    for to, whole in zip(target, source, strict=True):
        to[start : start + len(rows)] = whole[rows]


def _start_ghosts(job: _Job, norm: EquivariantNorm, features: Features) -> Callable[[], None]:
    """Fill the ghosts of messages with what every rank knows before the first layer."""
    first, last = job.domain.n_owned, job.domain.n_message
    for part in atom_slices(last - first):
        rows = slice(first + part.start, first + part.stop)
        features[0][rows], features[1][rows] = norm(*job.model.network.start(job.species[rows]))
    return lambda: None


def _send_normalized(norm: EquivariantNorm, features: Features, halo: HaloExchange) -> Callable[[], None]:
    """Begin to fill the ghosts of `halo` with normalized features; returns what waits. Collective among neighbours."""
    rows = halo.sent_rows(features[0].device)
    sent = _empty(features, halo.n_sent)
    for part in atom_slices(halo.n_sent):
        sent[0][part], sent[1][part] = norm(features[0][rows[part]], features[1][rows[part]])
    ghosts = [part[halo.n_owned : halo.n_owned + halo.n_ghost] for part in features]
    return halo.start_rows(sent, ghosts)


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
    for zone, part in _zone_chunks(job):
        i, j = (on_device(ends[part].astype(np.int64), species.device) for ends in (domain.pairs.i, domain.pairs.j))
        vectors = on_device(domain.pairs.vectors(part), species.device)
        kinds = species[i] * len(model.elements) + species[j]
        distances, directions = torch.linalg.vector_norm(vectors, dim=1), model.directions(vectors)
        correction = None
        if zone != NONE:
            bonds = model.network.corrections.bonds(i, j, distances, directions, kinds, model.dtype, zone)
            correction = model.network.pairs(normalized, bonds)
        results = model.pair_blocks(correction, distances, directions, kinds)
        job.bar.advance(len(part))
        _check_finite(results[0], domain.atoms[domain.pairs.i[part]])
        if rows is None:
            continue
        put_pairs(model, plan, part, kinds, rows, results)
        for target in rows:
            target.release()


def _zone_chunks(job: _Job) -> Iterator[tuple[int, np.ndarray]]:
    """The pairs to decode, `chunk` at a time, each of one zone of distance (`deeph_mpi.model.decoder`)."""
    species = job.species.cpu()
    for near_by in np.array_split(job.plan.decode, max(-(-len(job.plan.decode) // _ZONED), 1)):
        zones = pair_zones(job.model, job.domain, species, near_by)
        for zone in np.unique(zones).tolist():
            rows = near_by[zones == zone]
            for part in np.array_split(rows, -(-len(rows) // job.chunk)):
                yield zone, part


def put_pairs(
    model: HamiltonianModel,
    plan: PairPlan,
    part: np.ndarray,
    kinds: Tensor,
    rows: Sequence[BlockSet],
    blocks: Sequence[Tensor],
) -> None:
    """Write blocks (n, size, size) of decoded pairs `part` (n,), in template order, and their transposes.

    Args:
        kinds: (n,) species_i · n_species + species_j.
        rows: what is written to, for each of `blocks`.
    """
    for row, column, chosen in model.by_elements(kinds):
        pairs = part if chosen is None else part[chosen.cpu().numpy()]
        found = (each if chosen is None else each.index_select(0, chosen) for each in blocks)
        plan.put(pairs, rows, [model.template.extract(each, row, column).cpu().numpy() for each in found])


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
    put_blocks(target.entries, target.offsets[at], blocks.flatten(1).cpu().numpy())
