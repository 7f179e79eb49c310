"""Which rank decodes which pair, and how the other owner gets the transpose.

Each undirected pair {ij, R} is decoded once, in one direction that depends on nothing but i, j and R: from the smaller
atom if i + j is even, from the larger if it is odd, and for an atom and its image with the first non-zero R positive.
The rank that owns the atom it starts from decodes it. H_ji(−R) = H_ij(R)† then holds to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.block_rows import copy_blocks, transpose_blocks
from deeph_mpi.domain.domain import Domain
from deeph_mpi.domain.messages import post_messages
from deeph_mpi.domain.neighbours import pair_order
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World

__all__ = ["PairPlan", "decoded_from_i", "pair_blocks", "pairs_global"]

TAG = 7201


@dataclass(frozen=True)
class PairPlan:
    """Decoding rule of one rank's pairs. `index` below means a directed pair of the domain.

    Attributes:
        world: the ranks.
        decode: (n,) int64, indices of the pairs decoded here, ascending.
        reverse_local: (n,) int64, index of the reverse of each of them where this rank owns that too, else −1.
        send: rank → (n,) int64, indices of decoded pairs whose transposes go there, in the receiver's order.
        receive: rank → (n,) int64, indices of pairs that come from there, ascending.
        blocks: (n_pairs,) int64, the block of each pair in a BlockSet over `pairs_global`.
    """

    world: World
    decode: np.ndarray
    reverse_local: np.ndarray
    send: dict[int, np.ndarray]
    receive: dict[int, np.ndarray]
    blocks: np.ndarray

    @classmethod
    def build(cls, world: World, partition: Partition, domain: Domain) -> PairPlan:
        """Plan for one domain. Collective; no indices are exchanged, only a count and a checksum of each list.

        Raises:
            DeephError: on all ranks, when two ranks disagree on the pairs between them.
        """
        i, j = domain.atoms[domain.i], domain.atoms[domain.j]
        here = decoded_from_i(i, j, domain.R)
        partner = partition.owner[j]
        decode = np.flatnonzero(here)
        send = _split(decode, partner, world.rank)
        send = {rank: k[pair_order(j[k], i[k], -domain.R[k])] for rank, k in send.items()}
        receive = _split(np.flatnonzero(~here), partner, world.rank)
        sent = _fingerprints(world.size, send, j, i, -domain.R)
        _verify(world, sent, _fingerprints(world.size, receive, i, j, domain.R))
        reverse = _reverse(i, j, domain.R, partner == world.rank)
        return cls(world, decode, reverse[decode], send, receive, pair_blocks(domain))

    def scatter_transposes(self, blocks: BlockSet, orbitals: np.ndarray) -> None:
        """Fill the blocks that are not decoded here with the (conjugate) transposes of those that are. Collective.

        Args:
            blocks: over `pairs_global`, with the decoded blocks in place; changed in place. Of one dtype on all ranks.
            orbitals: (N,) rows of every atom's blocks (twice its orbitals for spinors).
        """
        sizes = np.diff(blocks.offsets)
        rows, columns = orbitals[blocks.pairs[:, 3]], orbitals[blocks.pairs[:, 4]]
        outgoing, incoming = [], []
        landing: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for rank, pairs in self.receive.items():
            at = self.blocks[pairs]
            offsets = _offsets(sizes[at])
            buffer = np.empty(offsets[-1], dtype=blocks.entries.dtype)
            incoming.append((rank, buffer))
            landing.append((buffer, offsets, at))
        for rank, pairs in self.send.items():
            at = self.blocks[pairs]
            offsets = _offsets(sizes[at])
            buffer = np.empty(offsets[-1], dtype=blocks.entries.dtype)
            transpose_blocks(blocks.entries, blocks.offsets[at], buffer, offsets[:-1], rows[at], columns[at])
            outgoing.append((rank, buffer))
        requests = post_messages(self.world.comm, outgoing, incoming, TAG)
        both = self.reverse_local >= 0
        source, target = self.blocks[self.decode[both]], self.blocks[self.reverse_local[both]]
        start = blocks.offsets
        transpose_blocks(blocks.entries, start[source], blocks.entries, start[target], rows[source], columns[source])
        from mpi4py import MPI

        MPI.Request.Waitall(requests)
        for buffer, offsets, at in landing:
            copy_blocks(buffer, offsets[:-1], blocks.entries, start[at], sizes[at])


def decoded_from_i(i: np.ndarray, j: np.ndarray, R: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a pair is decoded in the direction (i, j, R), for global indices (n,) and cells (n, 3)."""
    leading = np.where(R[:, 0] != 0, R[:, 0], np.where(R[:, 1] != 0, R[:, 1], R[:, 2]))
    return np.where(i == j, leading > 0, (i < j) == ((i + j) % 2 == 0))


def pairs_global(domain: Domain) -> np.ndarray:
    """(n_owned + n_pairs, 5) int64, columns R1, R2, R3, i, j of this rank's blocks, onsite included, by (i, j, R)."""
    pairs = np.zeros((domain.n_owned + len(domain.i), 5), dtype=np.int64)
    at = pair_blocks(domain)
    onsite = np.ones(len(pairs), dtype=bool)
    onsite[at] = False
    pairs[onsite, 3] = pairs[onsite, 4] = domain.owned
    pairs[at, :3] = domain.R
    pairs[at, 3] = domain.atoms[domain.i]
    pairs[at, 4] = domain.atoms[domain.j]
    return pairs


def pair_blocks(domain: Domain) -> np.ndarray:
    """(n_pairs,) int64, the place of every directed pair of the domain in the order of `pairs_global`."""
    i, j = domain.atoms[domain.i], domain.atoms[domain.j]
    after = (j > i) | ((i == j) & decoded_from_i(i, j, domain.R))  # of an atom's own images, those with R > 0
    return np.arange(len(i)) + domain.i + after


def _split(index: np.ndarray, partner: np.ndarray, rank: int) -> dict[int, np.ndarray]:
    # pairs `index` by the rank that owns j, those of `rank` itself left out
    order = np.argsort(partner[index], kind="stable")
    ranks, starts = np.unique(partner[index][order], return_index=True)
    parts = np.split(index[order], starts[1:])
    return {int(r): part for r, part in zip(ranks, parts, strict=False) if r != rank}


def _reverse(i: np.ndarray, j: np.ndarray, R: np.ndarray, local: np.ndarray) -> np.ndarray:
    # The local pairs are closed under reversal and sorted, so sorting their reverses pairs the two lists up.
    reverse = np.full(len(i), -1, dtype=np.int64)
    pairs = np.flatnonzero(local)
    reverse[pairs[pair_order(j[pairs], i[pairs], -R[pairs])]] = pairs
    return reverse


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
