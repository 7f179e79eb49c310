"""How many pools of ranks solve k-points side by side, and the rows that each pool needs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.assembly.lattice_sum import is_time_reversal_invariant
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import SolveSection
from deeph_mpi.domain.fill import OVER_FACTOR, factor_fill
from deeph_mpi.domain.handover import spread
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel.available import available_memory
from deeph_mpi.parallel.team import Team
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.pools import Pools, pool_counts
from deeph_mpi.structure.structure import Structure

if TYPE_CHECKING:
    from deeph_mpi.solve import SpectrumPlan

__all__ = ["check_pools", "divide_ranks", "spread_rows"]

_GATHERED = 50_000  # atoms: a larger graph is not built on one rank, and its factor needs all ranks anyway


def check_pools(solve: SolveSection, ranks: int, kpoints: int, per_node: int | None = None) -> None:
    """Check that `solve.pools` can be done, with `factorization.ranks_per_node`.

    Raises:
        ConfigError: with the numbers that can.
    """
    if solve.pools == "auto" or solve.pools == 1:
        return
    if per_node is not None:
        raise ConfigError("solve.pools divides all ranks: leave out factorization.ranks_per_node, or the pools")
    possible = pool_counts(ranks, kpoints, parts=solve.window is not None)
    if solve.pools not in possible:
        raise ConfigError(
            f"solve.pools = {solve.pools} is not possible with {ranks} ranks and {kpoints} k-points: pools are of equal "
            f"size and have a k-point each, or an equal part of a window. Possible: {', '.join(map(str, sorted(possible)))}"
        )
    if solve.eigenvectors:
        raise ConfigError("eigenvectors are kept by one pool only: solve.pools must be 1 or left out")


def divide_ranks(team: Team, plan: SpectrumPlan | None, structure: Structure, sizes: np.ndarray, h: BlockSet) -> Pools:
    """The pools asked for, or as many as have memory for a factor each; one where not all ranks work. Collective.

    Args:
        team: the ranks that work.
        plan: what is solved; None: nothing is, by pools.
        structure: the atoms.
        sizes: (N,) matrix rows of every atom.
        h: blocks of this rank's rows; their longest pair bounds the pattern.
    """
    world = team.everyone
    if not team.is_whole:
        return Pools.single(team.members or World.alone())
    if plan is None:
        return Pools.single(world)
    if plan.pools != "auto":
        return Pools.divide(world, plan.pools)
    possible = pool_counts(world.size, len(plan.kpoints))
    if possible[0] == 1 or plan.options.eigenvectors:
        return Pools.single(world)
    free = available_memory(world)
    if free is None or len(structure) > _GATHERED:
        return Pools.single(world)
    general = not all(is_time_reversal_invariant(k) for k in plan.kpoints)
    doubled = (general and plan.gauge is None) or np.iscomplexobj(h.entries)
    radius = world.max(_longest(structure, h.pairs))
    elements, _ = world.on_root(factor_fill, structure, sizes * (2 if doubled else 1), radius)
    count = next((n for n in possible if OVER_FACTOR * 8 * elements <= free * world.size / n), 1)
    return Pools.divide(world, count)


def spread_rows(
    team: Team,
    pools: Pools,
    structure: Structure,
    weights: np.ndarray,
    sizes: tuple[np.ndarray, np.ndarray],
    blocks: list[BlockSet],
) -> tuple[RowMap, list[BlockSet]]:
    """Rows of the matrices divided anew, among the ranks that work and once in each of their pools. Collective over all ranks.

    Args:
        team: the ranks that work.
        pools: of them.
        structure: the atoms.
        weights: (N,) of the rows of every atom.
        sizes: (N,) each, rows of an atom in the blocks of H and of S.
        blocks: those of H and S of this rank's rows; the list is emptied, so that they are freed one by one.
    """
    partition = partition_atoms(structure, weights, len(team.ranks) // pools.count)
    members = [pools.ranks(n) for n in range(pools.count)] if team.is_whole else [team.ranks]
    owners = np.stack([ranks[partition.owner] for ranks in members])
    result = []
    for size in sizes:
        result.append(spread(team.everyone, blocks.pop(0), owners, size))
    return RowMap(partition, sizes[0]), result


def _longest(structure: Structure, pairs: np.ndarray) -> float:
    """Length of the longest of `pairs` (n, 5), Å."""
    longest = 0.0
    for begin in range(0, len(pairs), 2**20):
        part = pairs[begin : begin + 2**20]
        vectors = structure.positions[part[:, 4]] + part[:, :3] @ structure.cell - structure.positions[part[:, 3]]
        longest = max(longest, float(np.sqrt((vectors**2).sum(axis=1).max(initial=0.0))))
    return longest
