"""`deeph-mpi infer --plan`: what a job would need on some number of ranks, from the real partition; no network is run.

The parts are worked on by the ranks that are there, often one. Counts are exact. Bytes follow from them. Seconds come from
rates measured here on a piece of the same structure, for one rank of the same kind of machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from deeph_mpi.config import InferConfig
from deeph_mpi.domain.domain import GROUP, LocalAtoms, build_domain, local_atoms
from deeph_mpi.domain.fill import factor_fill
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.pairs import PairPlan, decoded_from_i
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import StructureError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.chunks import bonds_per_chunk, bytes_per_bond
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import allocate_rows, predict
from deeph_mpi.model.timing import timed_methods
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["Interconnect", "PartPlan", "Rates", "calibrate", "counts", "feature_bytes", "infer_plan", "plan_parts"]

SAMPLE = 400  # atoms of the piece on which rates are measured
LARGEST_FILL = 60_000  # atoms up to which the fill of a factor is worked out


@dataclass(frozen=True)
class Interconnect:
    """What messages between ranks cost.

    Attributes:
        latency: seconds a message.
        bandwidth: bytes per second and rank.
    """

    latency: float = 2e-6
    bandwidth: float = 12.5e9


@dataclass(frozen=True)
class Rates:
    """Seconds on one rank, measured.

    Attributes:
        search: per directed pair, to find it.
        message: per bond and layer.
        atom: per atom and layer.
        pair: per undirected pair, decoded and written in both directions.
    """

    search: float
    message: float
    atom: float
    pair: float


@dataclass(frozen=True)
class PartPlan:
    """One rank's share of a job.

    Attributes:
        atoms, message_ghosts, ghosts: owned atoms, ghosts of the messages, all ghosts.
        neighbours: ranks it exchanges features with.
        bonds: messages evaluated in a layer.
        pairs: directed pairs in its rows.
        decoded: pairs it decodes.
        orbitals: rows of the matrices.
        elements: matrix elements of its blocks, onsite included.
        shared: elements of transposes that it receives.
        nonzeros: of its rows of H or S at Γ, where images of an atom share a block.
    """

    atoms: int
    message_ghosts: int
    ghosts: int
    neighbours: int
    bonds: int
    pairs: int
    decoded: int
    orbitals: int
    elements: int
    shared: int
    nonzeros: int


def infer_plan(config: InferConfig, world: World, ranks: int | None, interconnect: Interconnect) -> None:
    """Print the plan of a job on `ranks` ranks, by default as many as there are. Collective.

    Raises:
        DeephError: with one message, on all ranks.
    """
    keep_freed_memory()
    size = ranks or world.size
    structure = world.on_root(read_structure, config.structure.file)
    with world.together():
        model = load_checkpoint(config.model.checkpoint, getattr(torch, config.model.dtype))
        model.species(structure.numbers)
        if size > len(structure):
            raise StructureError(f"{size} ranks are more than the {len(structure)} atoms of '{config.structure.file}'")
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    begin = time.perf_counter()
    weights = pair_weights(world, structure, orbitals, model.radii)
    if config.structure.partition == "metis":
        partition = world.on_root(partition_atoms_metis, structure, weights, size, model.radii)
    else:
        partition = partition_atoms(structure, weights, size)
    cut = time.perf_counter() - begin
    parts = plan_parts(world, model, structure, partition, orbitals)
    rates = world.on_root(calibrate, model, structure, config.model.memory_gb)
    fill = None
    if config.solve.enabled and len(structure) <= LARGEST_FILL:
        fill = world.on_root(factor_fill, structure, orbitals, model.radii)
    if world.is_root:
        imbalance = np.bincount(partition.owner, weights=weights, minlength=size)
        print(_report(config, model, structure, parts, rates, interconnect, cut, fill, imbalance))


def plan_parts(
    world: World, model: HamiltonianModel, structure: Structure, partition: Partition, orbitals: np.ndarray
) -> list[PartPlan]:
    """Counts of every part; the ranks that are there take them in turn. Collective."""
    mine: dict[int, PartPlan] = {}
    with world.together():
        for part in range(world.rank, partition.size, world.size):
            local = local_atoms(structure, partition, part, model.settings.r_message, model.radii)
            mine[part] = counts(local, partition, part, orbitals)
    everything: dict[int, PartPlan] = {}
    for found in world.comm.allgather(mine):
        everything |= found
    return [everything[part] for part in range(partition.size)]


def counts(local: LocalAtoms, partition: Partition, part: int, orbitals: np.ndarray) -> PartPlan:
    """Counts of one part of a partition, from its domain. Not collective."""
    rows = orbitals[local.atoms]
    elements = shared = decoded = blocks = 0
    for some in local.pairs.chunks():
        i, j = local.pairs.i[some], local.pairs.j[some]
        here = decoded_from_i(local.atoms[i], local.atoms[j], local.pairs.R[some])
        each = rows[i] * rows[j]
        elements += int(each.sum())
        shared += int(each[(j >= local.n_owned) & ~here].sum())
        decoded += int(np.count_nonzero(here))
    first = np.searchsorted(local.pairs.i, np.arange(local.n_owned + 1))
    for start in range(0, local.n_owned, GROUP):
        stop = min(start + GROUP, local.n_owned)
        some = slice(int(first[start]), int(first[stop]))
        code = (local.pairs.i[some].astype(np.int64) - start) * len(local.atoms) + local.pairs.j[some]
        own = np.arange(stop - start) * len(local.atoms) + np.arange(start, stop)
        places, partners = np.divmod(np.unique(np.concatenate([code, own])), len(local.atoms))
        blocks += int((rows[start + places] * rows[partners]).sum())
    onsite = int((rows[: local.n_owned].astype(np.int64) ** 2).sum())
    group = np.full(len(local.atoms), -1)
    for number, members in enumerate(local.groups):
        group[members] = number
    ends = group[local.messages.i], group[local.messages.j]
    inside = int(np.count_nonzero(ends[0] == ends[1]))
    return PartPlan(
        atoms=local.n_owned,
        message_ghosts=local.n_message - local.n_owned,
        ghosts=len(local.atoms) - local.n_owned,
        neighbours=len(np.setdiff1d(partition.owner[local.atoms], part)),
        bonds=inside // 2 + len(local.messages) - inside,
        pairs=len(local.pairs),
        decoded=decoded,
        orbitals=int(rows[: local.n_owned].sum()),
        elements=elements + onsite,
        shared=shared,
        nonzeros=blocks,
    )


def calibrate(model: HamiltonianModel, structure: Structure, memory_gb: float) -> Rates:
    """Measure the rates on one process with a compact piece of the structure. Not collective.

    The piece is cut out, its atoms at the rim have fewer neighbours; what counts is the time per bond, atom and pair. What is
    not spent in messages and in the update of atoms counts for the pairs; the fastest of three runs is taken.
    """
    centre = structure.positions[len(structure) // 2]
    near = np.sort(np.argsort(np.linalg.norm(structure.positions - centre, axis=1), kind="stable")[:SAMPLE])
    away = 2.0 * max(model.settings.r_message, model.settings.r_pair)
    positions = structure.positions[near] - structure.positions[near].min(axis=0)
    piece = Structure(
        structure.numbers[near], positions, np.diag(np.ptp(positions, axis=0) + away), np.zeros(3, dtype=bool)
    )
    world, partition = World.alone(), Partition(np.zeros(len(piece), dtype=np.int32), 1)
    orbitals = model.settings.orbitals.orbitals(piece.numbers)
    start = time.perf_counter()
    domain = build_domain(world, piece, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    search = time.perf_counter() - start
    rows = allocate_rows(domain, orbitals)
    layers = list(model.network.layers)
    kernels = [(layer, "finish", "atoms") for layer in layers] + [(layer, "messages", "messages") for layer in layers]
    best: dict[str, float] = {}
    for _ in range(3):
        with timed_methods(kernels) as spent:
            begin = time.perf_counter()
            predict(world, model, domain, plan, orbitals, rows, memory_gb)
            total = time.perf_counter() - begin
        for name, value in (*spent.items(), ("pairs", total - sum(spent.values()))):
            best[name] = min(value, best.get(name, value))
    bonds = len(domain.messages) / 2 * len(layers)
    return Rates(
        search / max(len(domain.pairs), 1),
        best["messages"] / max(bonds, 1),
        best["atoms"] / (len(piece) * len(layers)),
        best["pairs"] / max(len(plan.decode), 1),
    )


def _report(
    config: InferConfig,
    model: HamiltonianModel,
    structure: Structure,
    parts: list[PartPlan],
    rates: Rates,
    interconnect: Interconnect,
    cut: float,
    fill: tuple[float, float] | None,
    load: np.ndarray,
) -> str:
    lines = [
        f"plan for {len(structure)} atoms on {len(parts)} rank(s); largest over mean weight {load.max() / load.mean():.3f}",
        f"{'of one rank':<34}{'mean':>12}{'least':>12}{'most':>12}",
    ]

    def row(name: str, values: list[float], unit: str = "") -> None:
        x = np.array(values, dtype=float)
        numbers = (x.mean(), x.min(), x.max())
        text = "".join(f"{_engineering(n) if unit else format(n, '.0f'):>12}" for n in numbers)
        lines.append(f"{name + (f' ({unit})' if unit else ''):<34}{text}")

    row("atoms", [p.atoms for p in parts])
    row("ghosts of messages", [p.message_ghosts for p in parts])
    row("ghosts", [p.ghosts for p in parts])
    row("neighbouring ranks", [p.neighbours for p in parts])
    row("bonds of messages", [p.bonds for p in parts])
    row("directed pairs", [p.pairs for p in parts])
    row("orbitals", [p.orbitals for p in parts])
    row("non-zeros of H at Γ", [p.nonzeros for p in parts])
    width = feature_bytes(model)
    row("features", [_features(model, p) for p in parts], "B")
    row("lists of pairs", [_lists(p) for p in parts], "B")
    row("temporaries", [_temporaries(model, config.model.memory_gb)] * len(parts), "B")
    row(
        "all of these",
        [_features(model, p) + _lists(p) + _temporaries(model, config.model.memory_gb) for p in parts],
        "B",
    )
    if config.output.hamiltonian == "deeph" or config.solve.enabled or config.output.hamiltonian == "petsc":
        where = "rows of H and S" + (", on disk" if config.output.hamiltonian == "deeph" else "")
        row(where, [_rows(config, p) for p in parts], "B")
    if config.solve.enabled:
        row("sorted blocks and matrices at Γ", [2 * (8.0 * p.elements + 20.0 * p.nonzeros) for p in parts], "B")
    row("halo of a layer, received", [p.message_ghosts * width for p in parts], "B")
    row("halo of the pairs, received", [p.ghosts * width for p in parts], "B")
    seconds = [_seconds(model, p, rates, interconnect, width) for p in parts]
    row("network", [s[0] for s in seconds], "s")
    row("exchanges", [s[1] for s in seconds], "s")
    row("partition: own pairs", [p.pairs * rates.search for p in parts], "s")
    lines += [
        "",
        f"partition: weights and cuts took {cut:.2f} s here",
        f"rates of one rank here: {1e6 * rates.message:.1f} µs a bond and layer, {1e6 * rates.atom:.1f} µs an atom and layer, "
        f"{1e6 * rates.pair:.1f} µs an undirected pair, {1e6 * rates.search:.2f} µs to find a directed pair",
        f"interconnect: {1e6 * interconnect.latency:g} µs a message, {interconnect.bandwidth / 1e9:g} GB/s a rank",
    ]
    if fill is not None:
        size = int(sum(p.orbitals for p in parts))
        lines.append(
            f"factor of the real matrix of {size} rows: about {8 * fill[0] / 1e9:.2f} GB over all ranks "
            f"(nested dissection of the atoms; MUMPS needs about twice that while it works), {fill[1] / 1e12:.3g} Tflop"
        )
    elif config.solve.enabled:
        lines.append(f"factor: not estimated beyond {LARGEST_FILL} atoms")
    return "\n".join(lines)


def _engineering(value: float) -> str:
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.3g}  "


def feature_bytes(model: HamiltonianModel) -> int:
    """Features of one atom."""
    layout = model.settings.node_layout()
    numbers = (layout.l_max + 1) ** 2 * layout.channels + ((layout.l_pseudo + 1) ** 2 - 1) * layout.pseudo_channels
    return numbers * torch.finfo(model.dtype).bits // 8


def _features(model: HamiltonianModel, part: PartPlan) -> float:
    """Features of the atoms, normalized ones with ghosts, and sums of one group, while messages are passed."""
    rows = part.atoms + max(part.atoms + part.message_ghosts, part.ghosts) + min(part.atoms, GROUP)
    return float(rows * feature_bytes(model))


def _lists(part: PartPlan) -> float:
    """i, j, R of pairs and messages (int32, int32, 3 × int8), which are decoded, positions and numbers of local atoms."""
    return 11.0 * part.pairs + 4.0 * part.decoded + (11.0 + 2.0) * 2 * part.bonds + 40.0 * (part.atoms + part.ghosts)


def _temporaries(model: HamiltonianModel, memory_gb: float) -> float:
    """Of the bonds that are worked on at a time."""
    return float(bytes_per_bond(model) * bonds_per_chunk(model, memory_gb))


def _rows(config: InferConfig, part: PartPlan) -> float:
    """Entries of H and S, with their list of pairs (5 × int64) and offsets."""
    size = np.dtype(config.output.dtype).itemsize if config.output.hamiltonian == "deeph" else 8
    lists = 2 * (40 + 8 + 16) if config.output.hamiltonian == "deeph" else 40 + 8
    return 2.0 * size * part.elements + float(lists) * (part.pairs + part.atoms)


def _seconds(
    model: HamiltonianModel, part: PartPlan, rates: Rates, interconnect: Interconnect, width: int
) -> tuple[float, float]:
    """Of the network, and of its exchanges (not overlapped)."""
    layers = model.settings.layers
    network = layers * (part.bonds * rates.message + part.atoms * rates.atom) + part.decoded * rates.pair
    sent = layers * part.message_ghosts * width + part.ghosts * width + 16.0 * part.shared
    exchanges = (layers + 3) * part.neighbours * interconnect.latency + sent / interconnect.bandwidth
    return network, exchanges
