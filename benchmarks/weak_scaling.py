"""Weak scaling of inference to many ranks: balance and halos of the real partition, time from stated rates.

    python benchmarks/weak_scaling.py GRAPHENE_CHECKPOINT HBN_CHECKPOINT [--ranks 1024] [--atoms 4000] [--sample 12]
        [--pairs-per-second 2e6] [--latency 2] [--bandwidth 12.5]

For a moiré bilayer of graphene, a slab of six graphene layers and bulk hBN with one atom in a hundred replaced by carbon, of
`atoms` × `ranks` atoms: the largest over the mean weight (matrix elements) of all domains, which all are counted; ghosts and
halo bytes of a sample of domains, the heaviest among them. Network time: directed pairs over the given rate, as a GPU might
have it (no GPU was measured). Exchanges are not overlapped and every rank is taken to wait for the slowest: the efficiency is
the mean work of a rank over the time of the slowest with all its messages.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from partition import twisted_bilayer

from deeph_mpi.domain.domain import local_atoms
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.planning.bytes import feature_bytes
from deeph_mpi.planning.counts import counts
from deeph_mpi.structure.structure import Structure


def moire(atoms: int) -> Structure:
    """Twisted bilayer of about so many atoms."""
    return twisted_bilayer(round(np.sqrt(atoms / 12) - 0.5))


def layered(atoms: int, a: float, layers: int, distance: float, vacuum: float, kinds: tuple[int, int]) -> Structure:
    """Honeycomb layers in AB (one element) or AA' (two) stacking, rattled by 0.02 Å."""
    n = max(round(np.sqrt(atoms / (2 * layers))), 2)
    i, j = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    lattice = a * np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    positions, numbers = [], []
    for layer in range(layers):
        shift = (layer % 2) / 3 if kinds[0] == kinds[1] else 0.0
        for sublattice in (0, 1):
            f = np.stack([i + sublattice / 3 + shift, j + sublattice / 3 + shift], axis=1)
            positions.append(np.column_stack([f @ lattice, np.full(len(f), layer * distance)]))
            numbers.append(np.full(len(f), kinds[(sublattice + layer) % 2]))
    cell = np.zeros((3, 3))
    cell[:2, :2] = n * lattice
    cell[2, 2] = layers * distance + vacuum
    xyz = np.concatenate(positions)
    xyz += np.random.default_rng(0).normal(0, 0.02, xyz.shape)
    return Structure(np.concatenate(numbers), xyz, cell, np.ones(3, dtype=bool))


def slab(atoms: int) -> Structure:
    """Six layers of graphene."""
    return layered(atoms, 2.46, 6, 3.35, 16.0, (6, 6))


def defects(atoms: int) -> Structure:
    """Bulk hBN, as deep as it is wide, with carbon."""
    layers = max(2 * round((atoms * 2.17 / 3.33**2 / 4) ** (1 / 3)), 2)
    host = layered(atoms, 2.504, layers, 3.33, 0.0, (5, 7))
    rng = np.random.default_rng(1)
    host.numbers[rng.choice(len(host), len(host) // 100, replace=False)] = 6
    return host


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphene", type=Path)
    parser.add_argument("hbn", type=Path)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--atoms", type=int, default=4000, help="of a rank")
    parser.add_argument("--sample", type=int, default=12, help="domains that are worked out")
    parser.add_argument("--pairs-per-second", type=float, default=2e6, help="directed pairs, of one rank")
    parser.add_argument("--latency", type=float, default=2.0, help="µs")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="GB/s")
    arguments = parser.parse_args()
    print(f"{'':10}{'atoms':>10}{'imbalance':>10}{'pairs/rank':>11}{'ghosts':>8}{'most':>7}{'near':>6}{'MB/layer':>10}"
          f"{'network s':>11}{'messages s':>12}{'efficiency':>11}{'cut s':>7}")  # fmt: skip
    graphene, hbn = load_checkpoint(arguments.graphene), load_checkpoint(arguments.hbn)
    for build, model in ((moire, graphene), (slab, graphene), (defects, hbn)):
        measure(build, model, arguments)


def measure(build: Callable[[int], Structure], model: HamiltonianModel, arguments: argparse.Namespace) -> None:
    """Print one line."""
    structure = build(arguments.ranks * arguments.atoms)
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    start = time.perf_counter()
    weights = pair_weights(World.alone(), structure, orbitals, model.radii)
    partition = partition_atoms(structure, weights, arguments.ranks)
    cut = time.perf_counter() - start
    load = np.bincount(partition.owner, weights=weights, minlength=arguments.ranks)
    chosen = np.random.default_rng(2).choice(arguments.ranks, min(arguments.sample, arguments.ranks), replace=False)
    parts = []
    for part in {int(load.argmax()), *chosen.tolist()}:
        local = local_atoms(structure, partition, part, model.settings.r_message, model.radii)
        parts.append(counts(model, local, partition, part, structure.numbers, orbitals))
    width = feature_bytes(model)
    mean = weights.sum() / arguments.ranks / load.max()
    pairs = np.array([part.pairs for part in parts])
    work = pairs / arguments.pairs_per_second
    layers = model.settings.layers
    sent = np.array(
        [(layers - 1) * p.message_ghosts * width + p.ghosts * width + 16.0 * p.shared for p in parts]
    ) / (1e9 * arguments.bandwidth)  # fmt: skip
    messages = sent + np.array([(layers + 2) * p.neighbours * 1e-6 * arguments.latency for p in parts])
    slowest = work.max() + messages.max()
    ghosts = np.array([part.ghosts for part in parts])
    print(f"{build.__name__:10}{len(structure):10d}{1 / mean:10.4f}{pairs.mean():11.0f}{ghosts.mean():8.0f}{ghosts.max():7d}"
          f"{np.mean([p.neighbours for p in parts]):6.1f}{width * np.mean([p.message_ghosts for p in parts]) / 1e6:10.2f}"
          f"{work.mean():11.3f}{messages.max():12.5f}{mean * work.max() / slowest:11.3f}{cut:7.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
