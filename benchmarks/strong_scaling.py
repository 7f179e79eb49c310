"""Strong scaling of inference on one structure, to where it breaks: the real partition, and rates measured here on one rank.

    python benchmarks/strong_scaling.py CHECKPOINT STRUCTURE [--ranks 1 2 4 … 1024] [--latency 2] [--bandwidth 12.5]
        [--faster 1]

Every part of every partition is counted. The time of a rank is what its bonds, atoms and pairs cost at the rates that
`deeph-mpi infer --plan` measures, plus the start of all kernels (measured on two atoms), plus its messages, none of them
overlapped; the slowest counts. `--faster` divides the rates, but not the starts, as for a GPU that is so many times as fast as
a core here. What every rank does for all atoms (cutting them into domains) is measured here and listed apart, as are the
losses: the slowest over the mean, and bonds between domains, which both sides evaluate.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import predict
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.planning.counts import plan_parts
from deeph_mpi.planning.rates import Interconnect, calibrate, network_seconds
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure


def start_seconds(model: HamiltonianModel, structure: Structure) -> float:
    """Of the network on the first atom and the one next to it, where hardly anything is to be computed."""
    from scipy.spatial import cKDTree

    near = cKDTree(structure.positions).query(structure.positions[0], 2)[1]
    positions = structure.positions[near] - structure.positions[near].min(axis=0)
    pair = Structure(structure.numbers[near], positions, 100.0 * np.eye(3), np.zeros(3, dtype=bool))
    world, partition = World.alone(), Partition(np.zeros(2, dtype=np.int32), 1)
    domain = build_domain(world, pair, partition, model.settings.r_message, model.radii)
    plan, orbitals = PairPlan.build(world, partition, domain), model.settings.orbitals.orbitals(pair.numbers)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        predict(world, model, domain, plan, orbitals, None)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2**n for n in range(11)])
    parser.add_argument("--latency", type=float, default=2.0, help="µs")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="GB/s")
    parser.add_argument("--faster", type=float, default=1.0, help="than a core here")
    arguments = parser.parse_args()
    keep_freed_memory()
    world, model = World.alone(), load_checkpoint(arguments.checkpoint)
    structure = read_structure(arguments.structure)
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    weights = pair_weights(world, structure, orbitals, model.radii)
    rates, start = calibrate(model, structure, 1.0), start_seconds(model, structure)
    fast = arguments.faster
    rates = replace(
        rates,
        message=rates.message / fast,
        atom=rates.atom / fast,
        pair=rates.pair / fast,
        near=rates.near / fast,
        far=rates.far / fast,
    )
    wires = Interconnect(1e-6 * arguments.latency, 1e9 * arguments.bandwidth)
    print(f"{len(structure)} atoms; {1e6 * rates.message:.2f} µs a bond and layer, {1e6 * rates.pair:.2f} µs a pair, "
          f"{1e3 * start:.1f} ms to start all kernels")  # fmt: skip
    print(f"{'ranks':>6}{'atoms':>8}{'ghosts':>8}{'near':>6}{'network s':>11}{'messages s':>12}{'cut s':>8}{'work/mean':>11}"
          f"{'bonds':>7}{'start':>7}{'efficiency':>12}")  # fmt: skip
    alone, bonds = 0.0, 0
    for ranks in arguments.ranks:
        begin = time.perf_counter()
        partition = partition_atoms(structure, weights, ranks)
        cut = time.perf_counter() - begin
        parts = plan_parts(world, model, structure, partition, orbitals)
        seconds = np.array([network_seconds(model, part, rates, wires) for part in parts])
        work, messages = seconds.T
        total = float((work + messages).max()) + start
        alone, bonds = alone or total, bonds or sum(part.bonds for part in parts)
        print(f"{ranks:6d}{len(structure) / ranks:8.0f}{np.mean([p.ghosts for p in parts]):8.0f}"
              f"{np.mean([p.neighbours for p in parts]):6.1f}{work.max() + start:11.4f}{messages.max():12.5f}{cut:8.3f}"
              f"{work.max() / work.mean():11.3f}{sum(p.bonds for p in parts) / bonds:7.2f}{start / total:7.1%}"
              f"{alone / (ranks * total):12.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
