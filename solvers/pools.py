"""Pools of ranks that solve different k-points, or parts of one, at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from deeph_mpi.errors import StopRequested
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.states import States

__all__ = ["Pools", "pool_counts"]

T = TypeVar("T")


def pool_counts(ranks: int, kpoints: int, *, parts: bool = False) -> list[int]:
    """Numbers of pools of equal size that have a k-point each, or with `parts` an equal part of one; the largest first."""
    return [n for n in range(ranks, 0, -1) if ranks % n == 0 and (n <= kpoints or (parts and n % kpoints == 0))]


@dataclass(frozen=True)
class Pools:
    """A division of the ranks into pools of neighbours.

    Attributes:
        everyone: all ranks.
        pool: the ranks of this pool.
        count: of pools.
        index: of this pool.
        across: one rank of each pool, those with the same place in it.
    """

    everyone: World
    pool: World
    count: int = 1
    index: int = 0
    across: World | None = None

    @classmethod
    def single(cls, world: World) -> Pools:
        """All ranks in one pool."""
        return cls(world, world)

    @classmethod
    def divide(cls, world: World, count: int) -> Pools:
        """`count` pools of equal size; it must divide the number of ranks. Collective."""
        if count == 1:
            return cls.single(world)
        size = world.size // count
        index, place = divmod(world.rank, size)
        return cls(world, world.split(index), count, index, world.split(place))

    def ranks(self, index: int) -> np.ndarray:
        """Ranks of pool `index` among everyone."""
        return index * self.pool.size + np.arange(self.pool.size)

    def mine(self, kpoints: int) -> range:
        """Indices of this pool's k-points: a stretch, as the next is easier with the former one known."""
        return range(kpoints * self.index // self.count, kpoints * (self.index + 1) // self.count)

    def parts(self, kpoints: int) -> int:
        """How many pools share each k-point."""
        return max(1, self.count // kpoints)

    def units(self, kpoints: int) -> range:
        """Indices of this pool's k-points, or, where several share each k-point, the index of its part among all."""
        return self.mine(kpoints) if self.parts(kpoints) == 1 else range(self.index, self.index + 1)

    def all_states(self, mine: dict[int, States]) -> list[States]:
        """The states of all k-points by index, those of other pools without vectors. Collective."""
        if self.across is None:
            return [mine[n] for n in sorted(mine)]
        bare = {n: states.without_vectors() for n, states in mine.items()}
        every = {n: states for part in self.gathered(bare) for n, states in part.items()}
        return [mine.get(n, every[n]) for n in sorted(every)]

    def agree(self, error: StopRequested | None) -> None:
        """Raise it on all ranks when one pool has been stopped by it. Collective."""
        for found in self.gathered(error):
            if found is not None:
                raise found

    def gathered(self, value: T) -> list[T]:
        """One value of each pool, in their order. Collective."""
        return [value] if self.across is None else self.across.comm.allgather(value)

    def sum(self, value: int) -> int:
        """Of a number that the ranks of a pool share, over pools. Collective."""
        return value if self.across is None else int(self.across.comm.allreduce(value))
