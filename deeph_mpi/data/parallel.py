"""Blocks of the DeepH layout read by all ranks together, none of which ever holds a whole table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.blockfile import BlockFile, check_spin
from deeph_mpi.data.hermitian import (
    average_pairs,
    check_sorted,
    image_reach,
    largest_entry,
    missing_partner,
    tolerance,
)
from deeph_mpi.data.mapped import empty_blocks
from deeph_mpi.data.ragged import block_order, by_shape, find, gather_entries, pair_keys, reversed_pairs, spread
from deeph_mpi.errors import DataError
from deeph_mpi.parallel import World
from deeph_mpi.parallel.traffic import count_sent

__all__ = ["read_rows"]

# Entries that all ranks together move in one exchange: no rank can then receive more, so mpi4py's int32 counts hold
# and the buffers stay below 1 GB (complex128).
_ENTRIES_IN_FLIGHT = 2**26
_ENTRIES_OF_A_RANK = 2**22  # that it reads, sends or averages at a time
_PAIRS_OF_A_RANK = 2**17  # likewise of the tables


def read_rows(
    world: World,
    path: str | os.PathLike[str],
    owner: np.ndarray,
    orbitals: np.ndarray,
    spinful: bool = False,
    scratch: Path | None = None,
) -> BlockSet:
    """Read `overlap.h5` or `hamiltonian.h5`; every rank ends with the blocks (R, i, j) of its atoms i. Collective.

    Each rank reads a contiguous slice of the file, first the tables, then the blocks in bounded pieces, checks them, and sends
    every block to the owner of atom i. Then every block is compared with its Hermitian partner (−R, j, i) at the owner of j,
    and both become (H + H†)/2 to the bit: codes write the two with different roundings, while a factorization that reads one
    triangle and a product that applies both must see one matrix.

    Args:
        world: all ranks that share the matrix.
        path: the file; a single one or shards joined by `RowFile`.
        owner: (N,) the owning rank of every atom, in the order of the POSCAR beside the file; the same on all ranks.
        orbitals: (N,) int64 orbitals of every atom, without spin.
        spinful: whether these blocks are (2 n_i, 2 n_j) complex: H of a spinful directory; its overlap is not.
        scratch: folder for an unnamed file that holds the blocks; memory by default.

    Returns:
        This rank's blocks in the order (i, j, R1, R2, R3), in the dtype of the file. Empty on a rank without atoms.

    Raises:
        DataError: on all ranks, for everything that `deeph_mpi.data.deeph.read_system` refuses in this file.
    """
    path = Path(path)
    sizes = np.asarray(orbitals, dtype=np.int64) * (2 if spinful else 1)
    owner = np.asarray(owner, dtype=np.int64)
    count, dtype = world.on_root(_header, path, spinful)
    budget = max(min(_ENTRIES_IN_FLIGHT // world.size, _ENTRIES_OF_A_RANK), int(sizes.max()) ** 2)
    start, stop = count * world.rank // world.size, count * (world.rank + 1) // world.size
    step = max(1, budget // int(sizes.max()) ** 2)
    with world.together():
        file = BlockFile.open(path)
    try:
        pairs = _pairs_of_rows(world, file, start, stop, owner, sizes)
        reach = int(world.max(image_reach(pairs)))
        with world.together():
            blocks = empty_blocks(pairs, sizes, dtype, scratch)
            keys = pair_keys(pairs, len(owner), reach, str(path))
        for turn in range(int(world.max(-(-(stop - start) // step)))):
            first = min(start + turn * step, stop)
            with world.together():
                piece = file.read(first, min(first + step, stop), sizes)
            arrived = _to_owners(world, piece, owner[piece.pairs[:, 3]], sizes)
            places = find(keys, pair_keys(arrived.pairs, len(owner), reach))
            blocks.entries[spread(blocks.offsets[places], np.diff(arrived.offsets))] = arrived.entries
            blocks.release()
    finally:
        file.file.close()
    _symmetrize(world, blocks, owner, sizes, str(path), budget)
    return blocks


def _pairs_of_rows(
    world: World, file: BlockFile, start: int, stop: int, owner: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """(n, 5) pairs of this rank's rows, sorted; the rank reads those of blocks start…stop. Collective."""
    step = max(1, min(_ENTRIES_IN_FLIGHT // (5 * world.size), _PAIRS_OF_A_RANK))
    received = [np.empty((0, 5), dtype=np.int64)]
    for turn in range(int(world.max(-(-(stop - start) // step)))):
        first = min(start + turn * step, stop)
        with world.together():
            pairs, _ = file.tables(first, min(first + step, stop), sizes)
        target = owner[pairs[:, 3]]
        counts = np.bincount(target, minlength=world.size).astype(np.int64)
        arriving = np.empty_like(counts)
        world.comm.Alltoall(counts, arriving)
        sent = pairs[np.argsort(target, kind="stable")].ravel()
        received.append(_exchange(world, sent, 5 * counts, 5 * arriving).reshape(-1, 5))
    joined = np.concatenate(received)
    return joined[block_order(joined)]


def _header(path: Path, spinful: bool) -> tuple[int, np.dtype]:
    with BlockFile.open(path) as file:
        check_spin(file.dtype, spinful, path)
        return file.count, file.dtype


def _exchange(world: World, values: np.ndarray, counts: np.ndarray, arriving: np.ndarray) -> np.ndarray:
    """Alltoallv of a flat array whose parts for ranks 0, 1, … (`counts` each) follow one another. Collective."""
    received = np.empty(int(arriving.sum()), dtype=values.dtype)
    displacements = [np.concatenate([[0], np.cumsum(part)[:-1]]) for part in (counts, arriving)]
    count_sent((int(counts.sum()) - int(counts[world.rank])) * values.itemsize)
    world.comm.Alltoallv([values, (counts, displacements[0])], [received, (arriving, displacements[1])])
    return received


def _to_owners(world: World, blocks: BlockSet, target: np.ndarray, sizes: np.ndarray) -> BlockSet:
    """Send every block to its target rank; return those received, ordered by sender. Collective."""
    order = np.argsort(target, kind="stable")
    lengths = np.diff(blocks.offsets)
    counts = np.stack([np.bincount(target, weights, world.size) for weights in (None, lengths)], axis=1).astype(
        np.int64
    )
    arriving = np.empty_like(counts)
    world.comm.Alltoall(counts, arriving)
    pairs = _exchange(world, blocks.pairs[order].ravel(), counts[:, 0] * 5, arriving[:, 0] * 5).reshape(-1, 5)
    entries = _exchange(world, gather_entries(blocks, order), counts[:, 1], arriving[:, 1])
    lengths = sizes[pairs[:, 3:]].prod(axis=1)
    return BlockSet(pairs, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), entries)


def _symmetrize(world: World, blocks: BlockSet, owner: np.ndarray, sizes: np.ndarray, name: str, budget: int) -> None:
    """Check for duplicates, onsite blocks and Hermitian partners, and average partners in place. Collective.

    Of each pair of partners the one with the smaller (i, j, R) travels to the other's owner, is averaged with it there,
    and the mean travels back, so both ends hold the same bits and the memory for it stays bounded.
    """
    reach = int(world.max(image_reach(blocks.pairs)))
    limit = tolerance(blocks.entries.dtype, world.max(largest_entry(blocks)))
    atoms = np.flatnonzero(owner == world.rank)
    with world.together():
        keys = check_sorted(blocks, atoms, len(owner), reach, name)
    partner_keys = pair_keys(reversed_pairs(blocks.pairs), len(owner), reach)
    travelling = np.flatnonzero(keys <= partner_keys)
    met = np.zeros(len(blocks), dtype=bool)
    met[travelling] = True
    volume = np.cumsum(np.diff(blocks.offsets)[travelling])
    turns = int(world.max(int(volume[-1]) // budget + 1 if len(volume) else 0))
    cuts = np.searchsorted(volume, budget * np.arange(turns + 1), side="right")
    cuts[0] = 0
    for turn in range(turns):
        chosen = travelling[cuts[turn] : cuts[turn + 1]]
        target = owner[blocks.pairs[chosen, 4]]
        chosen = chosen[np.argsort(target, kind="stable")]
        target = np.sort(target)
        sent = _conjugates(blocks, chosen, sizes)
        arrived = _to_owners(world, sent, target, sizes)
        with world.together():
            here = find(keys, pair_keys(arrived.pairs, len(owner), reach))
            if (here < 0).any():
                raise DataError(missing_partner(reversed_pairs(arrived.pairs[[int(np.argmax(here < 0))]])[0], name))
            _average(blocks, here, arrived, sizes, limit, name)
        met[here] = True
        origin = _senders(world, target)
        back = _to_owners(world, arrived, origin, sizes)
        _take_conjugates(blocks, chosen, back, sizes)
        blocks.release()
    with world.together():
        if not met.all():
            raise DataError(missing_partner(blocks.pairs[int(np.argmin(met))], name))


def _senders(world: World, target: np.ndarray) -> np.ndarray:
    """For the blocks just received, in their order, the rank that sent each. Collective."""
    counts = np.bincount(target, minlength=world.size).astype(np.int64)
    arriving = np.empty_like(counts)
    world.comm.Alltoall(counts, arriving)
    return np.repeat(np.arange(world.size), arriving)


def _conjugates(blocks: BlockSet, chosen: np.ndarray, sizes: np.ndarray) -> BlockSet:
    """Chosen blocks as their partners would be: (−R, j, i) with conjugate-transposed entries."""
    result = BlockSet.allocate(reversed_pairs(blocks.pairs[chosen]), sizes, blocks.entries.dtype)
    _each_shape(blocks, chosen, result, sizes, lambda block: block.transpose(0, 2, 1).conj())
    return result


def _each_shape(
    blocks: BlockSet,
    chosen: np.ndarray,
    result: BlockSet,
    sizes: np.ndarray,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Write `change` of the chosen blocks, (n, r, c) at a time, into the blocks of `result`, in that order."""
    for (rows, columns), members in by_shape(blocks.pairs[chosen], sizes):
        flat = np.arange(rows * columns)
        own = blocks.entries[blocks.offsets[chosen[members], None] + flat].reshape(-1, rows, columns)
        result.entries[result.offsets[members, None] + flat] = change(own).reshape(len(members), -1)


def _average(blocks: BlockSet, here: np.ndarray, arrived: BlockSet, sizes: np.ndarray, limit: float, name: str) -> None:
    """Average blocks `here` with what arrived for them, in both places."""
    for (rows, columns), members in by_shape(arrived.pairs, sizes):
        there = arrived.offsets[members, None] + np.arange(rows * columns)
        conjugate = arrived.entries[there].reshape(-1, rows, columns)
        mean = average_pairs(blocks, here[members], conjugate, limit, name)
        arrived.entries[there] = mean.reshape(len(members), -1)


def _take_conjugates(blocks: BlockSet, chosen: np.ndarray, back: BlockSet, sizes: np.ndarray) -> None:
    """Store the means that came back as (−R, j, i) in the order of `chosen`."""
    means = _conjugates(back, np.arange(len(back)), sizes)
    lengths = np.diff(means.offsets)
    blocks.entries[spread(blocks.offsets[chosen], lengths)] = means.entries
