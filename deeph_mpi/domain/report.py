"""How good a partition is: balance of weights, ghosts, neighbours and rows exchanged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.domain.domain import Domain
from deeph_mpi.domain.partition import Partition
from deeph_mpi.parallel import World

__all__ = ["PartitionReport", "report_partition"]


@dataclass(frozen=True)
class PartitionReport:
    """One value per rank, the same on all ranks.

    Attributes:
        weight: (size,) float64, sum of the weights of the owned atoms.
        owned, message_ghosts, pair_ghosts: (size,) int64 atoms; `pair_ghosts` counts all ghosts.
        neighbours: (size,) int64 ranks exchanged with.
        pairs: (size,) int64 directed pairs of the Hamiltonian.
    """

    weight: np.ndarray
    owned: np.ndarray
    message_ghosts: np.ndarray
    pair_ghosts: np.ndarray
    neighbours: np.ndarray
    pairs: np.ndarray

    @property
    def imbalance(self) -> float:
        """Largest weight over the mean: 1 is perfect."""
        return float(self.weight.max() / self.weight.mean()) if self.weight.any() else 1.0

    def __str__(self) -> str:
        lines = [f"{len(self.owned)} domains, largest over mean weight {self.imbalance:.3f}, {self.pairs.sum()} pairs"]
        names = ("owned", "message_ghosts", "pair_ghosts", "neighbours")
        for name in names:
            values = getattr(self, name)
            lines.append(f"  {name.replace('_', ' '):15s} mean {values.mean():10.1f}  max {values.max():8d}")
        return "\n".join(lines)


def report_partition(world: World, partition: Partition, weights: np.ndarray, domain: Domain) -> PartitionReport:
    """Gather the figures of all ranks. Collective."""
    counts = np.array(
        [
            domain.n_owned,
            domain.n_message - domain.n_owned,
            domain.n_local - domain.n_owned,
            len(domain.pair_halo.neighbours),
            len(domain.pairs),
        ],
        dtype=np.int64,
    )
    table = np.empty((world.size, len(counts)), dtype=np.int64)
    world.comm.Allgather(counts, table)
    weight = np.bincount(partition.owner, weights=weights, minlength=partition.size)
    return PartitionReport(weight, *table.T)
