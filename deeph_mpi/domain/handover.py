"""Rows go from the ranks that ran the network, or read them, to the ranks that solve."""

from __future__ import annotations

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.messages import post_messages
from deeph_mpi.domain.partition import Partition
from deeph_mpi.parallel import World

__all__ = ["hand_over", "led_partition", "spread"]

COUNT_TAG, ROWS_TAG = 7301, 7302


def led_partition(partition: Partition, leaders: np.ndarray) -> Partition:
    """All atoms of every rank with its leader; the other ranks own nothing. `leaders` (size,): see `network_leaders`."""
    return Partition(leaders.astype(np.int32)[partition.owner], partition.size)


def hand_over(
    world: World, blocks: BlockSet, partition: Partition, leaders: np.ndarray, orbitals: np.ndarray
) -> BlockSet:
    """Blocks of the atoms that this rank owns, from its leader, which holds those of its whole group. Collective in groups.

    Args:
        blocks: of a leader the rows of all atoms of its followers and its own, by (i, j, R); of others none.
        partition: ownership after the exchange.
        leaders: (size,) for every rank the one that holds its rows.
        orbitals: (N,) rows of every atom's blocks.
    """
    from mpi4py import MPI

    rank, leader = world.rank, int(leaders[world.rank])
    if leader != rank:
        count = np.empty(2, dtype=np.int64)
        MPI.Request.Waitall(post_messages(world.comm, [], [(leader, count)], COUNT_TAG))
        pairs, entries = np.empty((count[0], 5), dtype=np.int64), np.empty(count[1], dtype=blocks.entries.dtype)
        MPI.Request.Waitall(post_messages(world.comm, [], [(leader, pairs), (leader, entries)], ROWS_TAG))
        return _with_offsets(pairs, entries, orbitals)
    owner = partition.owner[blocks.pairs[:, 3]]
    own = blocks
    for follower in np.flatnonzero(leaders == rank).tolist():  # one at a time: no second copy of all rows
        chosen = np.flatnonzero(owner == follower)
        pairs = np.ascontiguousarray(blocks.pairs[chosen])
        entries = _entries(blocks, chosen)
        if follower == rank:
            own = _with_offsets(pairs, entries, orbitals)
            continue
        count = np.array([len(pairs), len(entries)], dtype=np.int64)
        MPI.Request.Waitall(post_messages(world.comm, [(follower, count)], [], COUNT_TAG))
        MPI.Request.Waitall(post_messages(world.comm, [(follower, pairs), (follower, entries)], [], ROWS_TAG))
    return own


def spread(world: World, blocks: BlockSet, owners: np.ndarray, orbitals: np.ndarray) -> BlockSet:
    """Copies of all rows, one set for each of several pools of ranks; this rank gets its part of its pool's. Collective.

    Args:
        blocks: rows of this rank, from anywhere.
        owners: (pools, N) rank, among all of `world`, that gets the rows of an atom in each pool.
        orbitals: (N,) rows of every atom's blocks.
    """
    from mpi4py import MPI

    pairs: list[np.ndarray] = []
    entries: list[np.ndarray] = []
    for owner in owners:  # one pool at a time: no copy for all of them at once
        target = owner[blocks.pairs[:, 3]]
        out = []
        for rank in range(world.size):
            chosen = np.flatnonzero(target == rank)
            out.append((np.ascontiguousarray(blocks.pairs[chosen]), _entries(blocks, chosen)))
        counts = np.array([(len(p), len(e)) for p, e in out], dtype=np.int64)
        expected = np.empty_like(counts)
        world.comm.Alltoall(counts, expected)
        parts = [(np.empty((n, 5), dtype=np.int64), np.empty(m, dtype=blocks.entries.dtype)) for n, m in expected]
        for column in (0, 1):
            sends = [(rank, part[column]) for rank, part in enumerate(out)]
            receives = [(rank, part[column]) for rank, part in enumerate(parts)]
            MPI.Request.Waitall(post_messages(world.comm, sends, receives, ROWS_TAG))
        pairs += [p for p, _ in parts]
        entries += [e for _, e in parts]
    return _with_offsets(np.concatenate(pairs), np.concatenate(entries), orbitals)


def _entries(blocks: BlockSet, chosen: np.ndarray) -> np.ndarray:
    """Entries of some blocks, which come in long runs: the rows of one atom are together."""
    if not len(chosen):
        return blocks.entries[:0].copy()
    ends = np.flatnonzero(np.diff(chosen) != 1)
    first, last = chosen[np.append(0, ends + 1)], chosen[np.append(ends, len(chosen) - 1)] + 1
    runs = [blocks.entries[blocks.offsets[a] : blocks.offsets[b]] for a, b in zip(first, last, strict=True)]
    return np.concatenate(runs)


def _with_offsets(pairs: np.ndarray, entries: np.ndarray, orbitals: np.ndarray) -> BlockSet:
    sizes = orbitals[pairs[:, 3]] * orbitals[pairs[:, 4]]
    return BlockSet(pairs, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), entries)
