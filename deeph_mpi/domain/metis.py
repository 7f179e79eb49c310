"""Partition by METIS, on a graph of compact bins of atoms."""

from __future__ import annotations

import numpy as np

from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.radii import Radii
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import ConfigError
from deeph_mpi.structure.structure import Structure

__all__ = ["partition_atoms_metis"]

BIN_ATOMS = 50
BINS_PER_PART = 8  # at least, so that METIS can still balance a small system


def partition_atoms_metis(structure: Structure, weights: np.ndarray, size: int, cutoff: Radii) -> Partition:
    """Divide the atoms into `size` domains of nearly equal weight with few pairs between them.

    Bins of some 50 atoms are the vertices; the number of pairs within `cutoff` between two bins, all periodic images
    together, is the weight of their edge. METIS is serial: call this on one rank and broadcast the result.

    Args:
        structure: the atoms.
        weights: (N,) non-negative.
        size: number of domains.
        cutoff: Å.

    Raises:
        ConfigError: when pymetis is not installed.
        StructureError: as `neighbour_pairs`.
    """
    try:
        import pymetis
    except ImportError as error:
        raise ConfigError(
            "METIS partitions need pymetis: pip install pymetis, or use the built-in bisection"
        ) from error
    n = len(structure)
    n_bins = min(n, max(n // BIN_ATOMS, BINS_PER_PART * size))
    if size == 1 or n_bins <= size:
        return partition_atoms(structure, weights, size)
    bins = partition_atoms(structure, np.ones(n), n_bins).owner
    starts, neighbours, edges = _bin_graph(structure, bins, n_bins, cutoff)
    load = np.bincount(bins, weights=weights, minlength=n_bins)
    load = np.rint(load * (1e9 / max(load.sum(), 1e-300))).astype(np.int64)  # METIS sums in int32
    graph = pymetis.CSRAdjacency(adj_starts=starts, adjacent=neighbours)
    _, part = pymetis.part_graph(size, graph, vweights=load, eweights=edges, recursive=size <= 8)
    return Partition(np.asarray(part, dtype=np.int32)[bins], size)


def _bin_graph(
    structure: Structure, bins: np.ndarray, n_bins: int, cutoff: Radii
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Compressed rows of the graph; symmetric because pairs are.
    members = np.split(np.argsort(bins, kind="stable"), np.cumsum(np.bincount(bins, minlength=n_bins))[:-1])
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for first in range(0, n_bins, 100):  # neighbouring bins together, for memory
        pairs = neighbour_pairs(structure, np.concatenate(members[first : first + 100]), cutoff)
        across = bins[pairs.i] != bins[pairs.j]
        key, count = np.unique(bins[pairs.i[across]] * np.int64(n_bins) + bins[pairs.j[across]], return_counts=True)
        keys.append(key)
        counts.append(count)
    key, count = np.concatenate(keys), np.concatenate(counts)
    starts = np.concatenate([[0], np.cumsum(np.bincount(key // n_bins, minlength=n_bins))])
    return starts, key % n_bins, count
