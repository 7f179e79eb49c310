"""What the network costs on this machine, measured on a piece of the structure, and what follows for one part."""

from __future__ import annotations

import gc
import math
import mmap
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.partition import Partition
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import allocate_rows, predict
from deeph_mpi.model.ranges import check_ranges
from deeph_mpi.model.timing import timed_methods
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory, resident_memory, return_freed_memory
from deeph_mpi.planning.assembling import assembly_rates
from deeph_mpi.planning.bytes import feature_bytes, list_bytes, network_bytes, row_bytes
from deeph_mpi.planning.counts import PartPlan, counts
from deeph_mpi.structure.structure import Structure

__all__ = ["Interconnect", "Rates", "calibrate", "network_seconds"]

SAMPLE = 600  # atoms of the piece
_TOUCHED = 1 << 28  # bytes of fresh memory that are written to


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
    """Seconds and bytes on one rank, measured.

    Attributes:
        search: seconds per directed pair, to find it and to look at its distance.
        searched: bytes per directed pair of the atoms that are searched at a time.
        message: seconds per bond and layer.
        atom: seconds per atom and layer.
        pair: seconds per undirected pair, from tables to both blocks in their rows, without the network.
        near, far: seconds per pair of the wide decoder and of the lean one.
        program: bytes of the program, its libraries and the checkpoint.
        temporaries: bytes of the bonds that are worked on at a time.
        fresh: seconds per byte of memory that is written to for the first time.
        checked: seconds per element of H and S, to check them for assembly; NaN where nothing is assembled.
        sorted: seconds per element of their triangles, to number, sort and copy it in memory that is there; NaN likewise.
    """

    search: float
    searched: float
    message: float
    atom: float
    pair: float
    near: float
    far: float
    program: float
    temporaries: float
    fresh: float
    checked: float = math.nan
    sorted: float = math.nan

    @classmethod
    def slowest(cls, ranks: Sequence[Rates]) -> Rates:
        """The largest of each, of rates measured side by side."""
        return cls(*map(max, zip(*map(astuple, ranks), strict=True)))


def calibrate(model: HamiltonianModel, structure: Structure, memory_gb: float, *, assemble: bool = False) -> Rates:
    """Measure the rates on one process with a compact piece of the structure. Not collective.

    The piece is cut out, its atoms at the rim have fewer neighbours; what counts is the time per bond, atom and pair. What
    is not spent in messages, updates of atoms and decoders counts for the pairs; the fastest of three runs is taken. Where
    ranks of one machine do this side by side, as they will in the job, they share caches and memory as there.

    Args:
        assemble: measure that as well.
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
    search, fresh = math.inf, _fresh()
    return_freed_memory()
    reset_peak_memory()
    before = resident_memory()
    for _ in range(2):
        start = time.perf_counter()
        domain = build_domain(world, piece, partition, model.settings.r_message, model.radii)
        plan = PairPlan.build(world, partition, domain)
        check_ranges(world, model, domain)
        search = min(search, time.perf_counter() - start)
    searched = peak_memory() - before
    part = counts(model, domain, partition, 0, piece.numbers, orbitals)
    rows = allocate_rows(domain, orbitals)
    layers = list(model.network.layers)
    kernels = [(layer, "finish", "atoms") for layer in layers] + [(layer, "messages", "messages") for layer in layers]
    decoders = zip(model.network.corrections.decoders, ("near", "far"), strict=False)
    kernels += [(decoder, "forward", name) for decoder, name in decoders]
    best: dict[str, float] = {}
    return_freed_memory()
    reset_peak_memory()
    for _ in range(3):
        with timed_methods(kernels) as spent:
            begin = time.perf_counter()
            predict(world, model, domain, plan, orbitals, rows, memory_gb)
            total = time.perf_counter() - begin
        for name, value in (*spent.items(), ("pairs", total - sum(spent.values()))):
            best[name] = min(value, best.get(name, value))
    peak = peak_memory()
    assembling = assembly_rates(world, partition, orbitals, rows, part) if assemble else (math.nan, math.nan)
    del domain, plan, rows
    gc.collect()
    return_freed_memory()
    program = resident_memory()
    held = network_bytes(model, part) + list_bytes(part) + row_bytes(part)
    return Rates(
        search / max(part.pairs, 1),
        searched / max(part.pairs, 1),
        best["messages"] / max(part.bonds * len(layers), 1),
        best["atoms"] / (len(piece) * len(layers)),
        best["pairs"] / max(part.decoded, 1),
        best["near"] / max(part.near, 1),
        best.get("far", 0.0) / max(part.far, 1),
        float(program),
        float(max(peak - program - held, 0.0)),
        fresh,
        *assembling,
    )


def _fresh() -> float:
    """Seconds per byte of memory that the system has yet to give; once, as what was given back a moment ago is cheaper."""
    return_freed_memory()
    memory = np.empty(_TOUCHED, dtype=np.uint8)
    begin = time.perf_counter()
    memory[:: mmap.PAGESIZE] = 1
    return (time.perf_counter() - begin) / _TOUCHED


def network_seconds(
    model: HamiltonianModel, part: PartPlan, rates: Rates, interconnect: Interconnect, *, rows: bool = False
) -> tuple[float, float]:
    """Seconds of the network and of its exchanges (not overlapped) for one part.

    Args:
        rows: H and S are kept in memory, which is written to for the first time.
    """
    layers, width = model.settings.layers, feature_bytes(model)
    network = layers * (part.bonds * rates.message + part.atoms * rates.atom)
    network += part.decoded * rates.pair + part.near * rates.near + part.far * rates.far
    network += rates.fresh * row_bytes(part, tables=0) if rows else 0.0
    sent = (layers - 1) * part.message_ghosts * width + part.ghosts * width + 16.0 * part.shared
    exchanges = (layers + 2) * part.neighbours * interconnect.latency + sent / interconnect.bandwidth
    return network, exchanges
