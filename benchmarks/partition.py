"""Balance, ghosts and time of the partition of a twisted bilayer, 4,000 atoms per domain.

    python benchmarks/partition.py [--parts 64] [--atoms-per-part 4000] [--r-message 5] [--r-pair 8]

Serial: every domain is built in turn, without the halo exchange.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import resource
import time
from collections.abc import Callable

import numpy as np

from deeph_mpi.domain.domain import local_atoms
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

ORBITALS = 13


def twisted_bilayer(m: int, a: float = 2.46, distance: float = 3.4, vacuum: float = 16.0) -> Structure:
    """Graphene twisted by the commensurate angle (m, m + 1): 4 (3m² + 3m + 1) atoms, corrugated by the registry."""
    lattice = a * np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    area = 3 * m * m + 3 * m + 1
    cell = np.zeros((3, 3))
    cell[:2, :2] = np.array([[m, m + 1], [-(m + 1), 2 * m + 1]]) @ lattice
    cell[2, 2] = distance + vacuum
    sheets = []
    for rows, side in (([[m, m + 1], [-(m + 1), 2 * m + 1]], -1), ([[m + 1, m], [-m, 2 * m + 1]], 1)):
        (p, q), (r, s) = rows
        x, y = np.meshgrid(np.arange(-m - 1, 2 * m + 2), np.arange(0, 3 * m + 3), indexing="ij")
        u, v = x * s - y * r, y * p - x * q  # integer coordinates in the moiré cell, in units of 1 / area
        inside = (u >= 0) & (u < area) & (v >= 0) & (v < area)
        points = np.stack([u[inside], v[inside]], axis=-1) / area
        shift = np.array([s - r, p - q]) / (3 * area)
        for sublattice in (0, 1):
            f = points + sublattice * shift
            bulge = 0.06 * np.cos(2 * np.pi * f).sum(axis=1)
            sheets.append(np.column_stack([f @ cell[:2, :2], side * (distance / 2 + bulge)]))
    positions = np.concatenate(sheets)
    return Structure(np.full(len(positions), 6), positions, cell, np.ones(3, dtype=bool))


def measure(name: str, make: Callable[[], Partition], structure: Structure, weights: np.ndarray, radii: list) -> None:
    """Print one line of the table."""
    start = time.perf_counter()
    partition = make()
    seconds = time.perf_counter() - start
    load = np.bincount(partition.owner, weights=weights, minlength=partition.size)
    start = time.perf_counter()
    domains = []
    for rank in range(partition.size):
        local = local_atoms(structure, partition, rank, *radii)
        ghosts = len(local.atoms) - local.n_owned
        neighbours = len(np.unique(partition.owner[local.atoms])) - 1
        domains.append((local.n_message - local.n_owned, ghosts, neighbours, len(local.pairs)))
    each = (time.perf_counter() - start) / partition.size
    message, ghosts, neighbours, pairs = np.array(domains).T
    print(
        f"{name:8s} {seconds:8.2f} {load.max() / load.mean():10.4f} {message.mean():9.0f} {message.max():6d} "
        f"{ghosts.mean():9.0f} {ghosts.max():6d} {neighbours.mean():8.1f} {neighbours.max():4d} "
        f"{each:10.2f} {1e6 * each / pairs.mean():10.2f}"
    )


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--atoms-per-part", type=int, default=4000)
    parser.add_argument("--r-message", type=float, default=5.0)
    parser.add_argument("--r-pair", type=float, default=8.0)
    options = parser.parse_args()
    structure = twisted_bilayer(round(np.sqrt(options.parts * options.atoms_per_part / 12) - 0.5))
    start = time.perf_counter()
    weights = pair_weights(World.alone(), structure, np.full(len(structure), ORBITALS), options.r_pair)
    print(f"{len(structure)} atoms, {options.parts} parts, {weights.sum() / ORBITALS**2:.4g} directed pairs and atoms")
    print(f"weights, one rank: {time.perf_counter() - start:.2f} s")
    print("            cut s   max/mean   message ghosts     all ghosts     neighbours    lists s    µs/pair")
    print("                     weight     mean    max       mean    max     mean  max  per domain")
    radii = [options.r_message, options.r_pair]
    measure("rcb", functools.partial(partition_atoms, structure, weights, options.parts), structure, weights, radii)
    if importlib.util.find_spec("pymetis") is not None:
        cut = options.r_message
        measure(
            "metis", lambda: partition_atoms_metis(structure, weights, options.parts, cut), structure, weights, radii
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
