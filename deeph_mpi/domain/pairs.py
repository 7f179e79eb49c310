"""Which rank decodes which pair, and how the other owner gets the transpose.

Each undirected pair {ij, R} is decoded once, in one direction that depends on nothing but i, j and R: from the smaller
atom if i + j is even, from the larger if it is odd, and for an atom and its image with the first non-zero R positive.
The rank that owns the atom it starts from decodes it. H_ji(−R) = H_ij(R)† then holds to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.block_rows import copy_blocks, put_blocks, transpose_blocks
from deeph_mpi.domain.domain import Domain
from deeph_mpi.domain.messages import post_messages
from deeph_mpi.domain.neighbours import pair_order
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World

__all__ = ["PairPlan", "decoded_from_i", "global_pairs", "onsite_blocks", "pairs_global"]

TAG = 7201
CHUNK = 1 << 20  # pairs


@dataclass(frozen=True)
class PairPlan:
    """Decoding rule of one rank's pairs. "Rows" below are those of `domain.pairs`, directed pairs.

    Attributes:
        world: the ranks.
        domain: of this rank.
        decode: (n,) int32, rows of the pairs decoded here, ascending.
        send: rank → (n,) int64, decoded rows whose transposes go there, in the receiver's order.
        receive: rank → (n,) int64, rows that come from there, ascending.
    """

    world: World
    domain: Domain
    decode: np.ndarray
    send: dict[int, np.ndarray]
    receive: dict[int, np.ndarray]

    @classmethod
    def build(cls, world: World, partition: Partition, domain: Domain) -> PairPlan:
        """Plan for one domain. Collective; no indices are exchanged, only a count and a checksum of each list.

        Raises:
            DeephError: on all ranks, when two ranks disagree on the pairs between them.
        """
        pairs = domain.pairs
        decode = [np.empty(0, dtype=np.int32)]
        for part in pairs.chunks():
            here = decoded_from_i(*global_pairs(domain, part))
            decode.append((np.flatnonzero(here) + part.start).astype(np.int32))
        shared = np.flatnonzero(pairs.j >= domain.n_owned)
        i, j, R = global_pairs(domain, shared)
        here, partner = decoded_from_i(i, j, R), partition.owner[j]
        send = _split(np.flatnonzero(here), partner)
        send = {rank: k[pair_order(j[k], i[k], -R[k])] for rank, k in send.items()}
        receive = _split(np.flatnonzero(~here), partner)
        sent = _fingerprints(world.size, send, j, i, -R)
        _verify(world, sent, _fingerprints(world.size, receive, i, j, R))
        return cls(
            world, domain, np.concatenate(decode),
            {rank: shared[k] for rank, k in send.items()}, {rank: shared[k] for rank, k in receive.items()},
        )  # fmt: skip

    def blocks(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64, the block of each pair in a BlockSet over `pairs_global`."""
        return rows + self.domain.pairs.i[rows].astype(np.int64) + _after_onsite(*global_pairs(self.domain, rows))

    def reverse(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64, rows of the reverse pairs (j, i, −R), for pairs whose j is owned."""
        pairs = self.domain.pairs
        starts = pairs.j[rows]
        i, _, R = global_pairs(self.domain, rows)
        low, high = (np.searchsorted(pairs.i, ends) for ends in (starts, starts + 1))
        wanted = _codes(i, -R)
        while (low < high).any():  # bisection of all at once, within the rows of one atom each
            middle = np.minimum((low + high) // 2, len(pairs) - 1)
            below = (_codes(self.domain.atoms[pairs.j[middle]], pairs.R[middle]) < wanted) & (low < high)
            low, high = np.where(below, middle + 1, low), np.where(below | (low >= high), high, middle)
        return low

    def put(self, rows: np.ndarray, matrices: Sequence[BlockSet], blocks: Sequence[np.ndarray]) -> None:
        """Write blocks of pairs decoded here, and their (conjugate) transposes where this rank owns the other atom as well.

        Args:
            rows: (n,) decoded pairs, of two elements.
            matrices: over the same `pairs_global`; changed in place.
            blocks: for each, (n, orbitals of i, orbitals of j).
        """
        own = np.flatnonzero(self.domain.pairs.j[rows] < self.domain.n_owned)
        here, there = self.blocks(rows), self.blocks(self.reverse(rows[own]))
        for target, values in zip(matrices, blocks, strict=True):
            size = values.shape[1] * values.shape[2]
            put_blocks(target.entries, target.offsets[here], values.reshape(-1, size))
            back = (values if len(own) == len(values) else values[own]).swapaxes(1, 2).conj()
            put_blocks(target.entries, target.offsets[there], back.reshape(-1, size))

    def exchange_transposes(self, blocks: BlockSet, orbitals: np.ndarray) -> None:
        """Fill the rows of other ranks with the transposes of blocks decoded here. Collective among neighbours.

        Args:
            blocks: over `pairs_global`, all decoded blocks in place; changed in place. Of one dtype on all ranks.
            orbitals: (N,) rows of every atom's blocks.
        """
        from mpi4py import MPI

        outgoing, incoming = [], []
        landing: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for rank, rows in self.receive.items():
            at, heights, widths = self._shapes(rows, orbitals)
            offsets = _offsets(heights * widths)
            buffer = np.empty(offsets[-1], dtype=blocks.entries.dtype)
            incoming.append((rank, buffer))
            landing.append((buffer, offsets, at))
        for rank, rows in self.send.items():
            at, heights, widths = self._shapes(rows, orbitals)
            offsets = _offsets(heights * widths)
            buffer = np.empty(offsets[-1], dtype=blocks.entries.dtype)
            transpose_blocks(blocks.entries, blocks.offsets[at], buffer, offsets[:-1], heights, widths)
            outgoing.append((rank, buffer))
        MPI.Request.Waitall(post_messages(self.world.comm, outgoing, incoming, TAG))
        for buffer, offsets, at in landing:
            copy_blocks(buffer, offsets[:-1], blocks.entries, blocks.offsets[at], np.diff(offsets))

    def _shapes(self, rows: np.ndarray, orbitals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        i, j, _ = global_pairs(self.domain, rows)
        return self.blocks(rows), orbitals[i], orbitals[j]


def global_pairs(domain: Domain, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global indices i, j (n,) int64 and cells R (n, 3) of rows of `domain.pairs`."""
    pairs = domain.pairs
    return domain.atoms[pairs.i[rows]], domain.atoms[pairs.j[rows]], pairs.R[rows]


def decoded_from_i(i: np.ndarray, j: np.ndarray, R: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a pair is decoded in the direction (i, j, R), for global indices (n,) and cells (n, 3)."""
    leading = np.where(R[:, 0] != 0, R[:, 0], np.where(R[:, 1] != 0, R[:, 1], R[:, 2]))
    return np.where(i == j, leading > 0, (i < j) == ((i + j) % 2 == 0))


def pairs_global(domain: Domain, out: np.ndarray | None = None) -> np.ndarray:
    """(n_owned + n_pairs, 5) int64, columns R1, R2, R3, i, j of this rank's blocks, onsite included, by (i, j, R).

    Args:
        out: where they are written; a new array by default.
    """
    pairs = domain.pairs
    found = np.empty((domain.n_owned + len(pairs), 5), dtype=np.int64) if out is None else out
    first = np.searchsorted(pairs.i, np.arange(domain.n_owned + 1, dtype=pairs.i.dtype))  # else all of `i` is copied
    step = max(CHUNK // max(int(np.diff(first).max(initial=1)), 1), 1)
    for start in range(0, domain.n_owned, step):
        stop = min(start + step, domain.n_owned)
        rows = np.arange(first[start], first[stop])
        i, j, R = global_pairs(domain, rows)
        at = rows + pairs.i[rows] + _after_onsite(i, j, R)
        onsite = np.ones(stop - start + len(rows), dtype=bool)
        base = first[start] + start
        onsite[at - base] = False
        piece = np.zeros((len(onsite), 5), dtype=np.int64)
        piece[onsite, 3] = piece[onsite, 4] = domain.owned[start:stop]
        piece[~onsite] = np.column_stack([R, i, j])
        found[base : base + len(piece)] = piece
    return found


def onsite_blocks(domain: Domain) -> np.ndarray:
    """(n_owned,) int64, the place of every owned atom's onsite block in the order of `pairs_global`."""
    pairs = domain.pairs
    before = np.zeros(domain.n_owned, dtype=np.int64)
    for part in pairs.chunks():
        i, j, R = global_pairs(domain, part)
        ahead = pairs.i[part][~_after_onsite(i, j, R)]
        before += np.bincount(ahead, minlength=domain.n_owned)
    owned = np.arange(domain.n_owned, dtype=pairs.i.dtype)
    return np.searchsorted(pairs.i, owned) + owned + before


def _split(index: np.ndarray, partner: np.ndarray) -> dict[int, np.ndarray]:
    # pairs `index` by the rank that owns j
    order = np.argsort(partner[index], kind="stable")
    ranks, starts = np.unique(partner[index][order], return_index=True)
    parts = np.split(index[order], starts[1:])
    return {int(r): part for r, part in zip(ranks, parts, strict=False)}


def _after_onsite(i: np.ndarray, j: np.ndarray, R: np.ndarray) -> np.ndarray:
    # (n,) bool: pairs that come after their atom's onsite block; of an atom's own images, those with R > 0
    return (j > i) | ((i == j) & decoded_from_i(i, j, R))


def _codes(j: np.ndarray, R: np.ndarray) -> np.ndarray:
    # one number for (j, R1, R2, R3), in their order: cells of fewer than 2¹¹ images, atoms of fewer than 2³⁰
    R = R.astype(np.int64) + 1024
    return ((j.astype(np.int64) << 33) | (R[:, 0] << 22)) + ((R[:, 1] << 11) | R[:, 2])


def _fingerprints(size: int, lists: dict[int, np.ndarray], i: np.ndarray, j: np.ndarray, R: np.ndarray) -> np.ndarray:
    # (size, 2): for each rank the number of pairs and a sum of hashes of (i, j, R)
    prints = np.zeros((size, 2), dtype=np.uint64)
    primes = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
    for rank, k in lists.items():
        cells = (R[k].astype(np.int64).astype(np.uint64) * primes).sum(axis=1, dtype=np.uint64)
        hashes = (i[k].astype(np.uint64) * primes[0] ^ j[k].astype(np.uint64) * primes[1]) + cells
        hashes = (hashes ^ (hashes >> np.uint64(31))) * primes[2]
        prints[rank] = len(k), hashes.sum(dtype=np.uint64)
    return prints


def _verify(world: World, sent: np.ndarray, expected: np.ndarray) -> None:
    announced = np.empty_like(sent)
    world.comm.Alltoall(sent, announced)
    wrong = np.flatnonzero((announced != expected).any(axis=1))
    with world.together():
        if len(wrong):
            raise DeephError(
                f"ranks {world.rank} and {wrong[0]} disagree on the pairs between their atoms "
                f"({expected[wrong[0], 0]} and {announced[wrong[0], 0]}): structure, radii or partition differ"
            )


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])
