"""What one rank knows of a structure: its atoms, the ghosts around them, and the pairs between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.neighbours import neighbour_pairs, pair_vectors, reach_of, shells_around
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.radii import Radii, RadiusTable
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["Domain", "Edges", "LocalAtoms", "build_domain", "local_atoms"]

GROUP = 3_000  # atoms whose sums of messages are held at a time; bonds between groups are evaluated twice
SEARCH = 2_000  # atoms whose pairs are looked for at a time, some 200 bytes a pair
CHUNK_EDGES = 1 << 18


@dataclass(frozen=True)
class Edges:
    """Directed edges from owned atoms, by local index and sorted by global (i, j, R).

    Their vectors are computed when asked for: kept, they would be most of a domain's memory.

    Attributes:
        i: (n,) int32, below the number of owned atoms.
        j: (n,) int32, owned or ghost; all periodic images of an atom share one row.
        R: (n, 3) int8 or int16 cells.
        positions: (n_local, 3) float64, Å.
        cell: (3, 3) float64, Å.
    """

    i: np.ndarray
    j: np.ndarray
    R: np.ndarray
    positions: np.ndarray
    cell: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def vectors(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """r_j + R·cell − r_i of some edges, (n, 3) float64, Å."""
        return pair_vectors(self.positions, self.cell, self.i[which], self.j[which], self.R[which])

    def distances(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Lengths of their vectors, (n,) float64, Å."""
        return np.linalg.norm(self.vectors(which), axis=1)

    def chunks(self) -> Iterator[slice]:
        """All edges, a bounded number at a time."""
        return (slice(start, start + CHUNK_EDGES) for start in range(0, len(self), CHUNK_EDGES))


@dataclass(frozen=True)
class LocalAtoms:
    """The geometric part of a domain, which needs no communication.

    Attributes:
        atoms: (n_local,) int64 global indices: owned (ascending), then ghosts within the message radius, then those
            within the pair radii only; ghosts by owner, then by index.
        n_owned: number of owned atoms.
        n_message: number of owned atoms and message ghosts.
        groups: the owned rows in compact groups of bounded size, each ascending; at least one.
        pairs: edges within the pair radii, those of the Hamiltonian.
        messages: edges within the message radius, those of the network.
    """

    atoms: np.ndarray
    n_owned: int
    n_message: int
    groups: list[np.ndarray]
    pairs: Edges
    messages: Edges


@dataclass(frozen=True)
class Domain:
    """One rank's part of a structure.

    Attributes:
        atoms: (n_local,) int64 global indices: owned (ascending), then ghosts within the message radius, then those
            within the pair radii only; ghosts by owner, then by index.
        n_owned: number of owned atoms.
        n_message: number of owned atoms and message ghosts.
        groups: the owned rows in compact groups of bounded size, each ascending; at least one.
        numbers: (n_local,) int64 atomic numbers.
        pairs: directed pairs from owned atoms within the pair radii, those of the Hamiltonian.
        messages: directed edges from owned atoms within the message radius; `j` is below `n_message`.
        message_halo: exchange that fills rows `n_owned` … `n_message`.
        pair_halo: exchange that fills rows `n_owned` … `n_local`.
    """

    atoms: np.ndarray
    n_owned: int
    n_message: int
    groups: list[np.ndarray]
    numbers: np.ndarray
    pairs: Edges
    messages: Edges
    message_halo: HaloExchange
    pair_halo: HaloExchange

    @property
    def n_local(self) -> int:
        """Number of owned atoms and all ghosts."""
        return len(self.atoms)

    @property
    def owned(self) -> np.ndarray:
        """(n_owned,) int64 global indices of the owned atoms, ascending."""
        return self.atoms[: self.n_owned]


def build_domain(
    world: World,
    structure: Structure,
    partition: Partition,
    r_message: float,
    r_pair: Radii,
    cuda_aware: bool = False,
) -> Domain:
    """Find this rank's ghosts and pairs and plan the halo exchanges. Collective.

    With `World.alone()` and a partition of size 1 there are no ghosts.

    Args:
        structure: the atoms, replicated.
        partition: ownership, the same on all ranks; its size is that of the world.
        r_message: radius of the network's messages, Å.
        r_pair: radius of the Hamiltonian's pairs, Å: one, or one per pair of atomic numbers.
        cuda_aware: MPI takes addresses of a GPU's memory, see `Staging`.

    Raises:
        StructureError: on all ranks, for overlapping atoms, a cell without volume or a pair of elements without radius.
        ValueError: when the partition does not fit the world or the structure.
    """
    if partition.size != world.size or len(partition.owner) != len(structure):
        raise ValueError(
            f"a partition of {len(partition.owner)} atoms over {partition.size} ranks "
            f"does not fit {len(structure)} atoms on {world.size}"
        )
    with world.together():
        local = local_atoms(structure, partition, world.rank, r_message, r_pair)
    return Domain(
        atoms=local.atoms,
        n_owned=local.n_owned,
        n_message=local.n_message,
        groups=local.groups,
        numbers=structure.numbers[local.atoms],
        pairs=local.pairs,
        messages=local.messages,
        message_halo=HaloExchange(world, partition, local.atoms[local.n_owned : local.n_message], cuda_aware),
        pair_halo=HaloExchange(world, partition, local.atoms[local.n_owned :], cuda_aware),
    )


def local_atoms(structure: Structure, partition: Partition, rank: int, r_message: float, r_pair: Radii) -> LocalAtoms:
    """Ghosts and pairs of one domain of a partition. Not collective; arguments and errors as for `build_domain`."""
    owned = partition.atoms(rank)
    table = RadiusTable.build(r_pair, structure.numbers)
    z = structure.numbers
    elements = np.flatnonzero(table.species >= 0).tolist()
    reach = {(a, b): max(r_message, table.radii[m, n]) for m, a in enumerate(elements) for n, b in enumerate(elements)}
    wrapped = wrap(structure)
    pairs, messages = _Found(), _Found()
    pieces = _groups(structure, owned, SEARCH)
    shells = shells_around(wrapped, [owned[rows] for rows in pieces], reach_of(RadiusTable.build(reach, z)))
    for rows, shell in zip(pieces, shells, strict=True):
        found = neighbour_pairs(structure, owned[rows], reach, wrapped, shell)
        starts = rows[np.searchsorted(owned[rows], found.i)]
        in_pair = found.distances <= table.of(z[found.i], z[found.j])
        for kept, which in ((pairs, in_pair), (messages, found.distances <= r_message)):
            kept.add(starts[which], found.j[which], found.R[which])
    message_ghosts, pair_ghosts = (_ghosts(kept.partners(), partition, rank) for kept in (messages, pairs))
    atoms = np.concatenate([owned, message_ghosts, pair_ghosts[~np.isin(pair_ghosts, message_ghosts)]])
    local = np.full(len(structure), -1, dtype=np.int32)
    local[atoms] = np.arange(len(atoms))
    positions = structure.positions[atoms]
    return LocalAtoms(
        atoms=atoms,
        n_owned=len(owned),
        n_message=len(owned) + len(message_ghosts),
        groups=_groups(structure, owned, GROUP),
        pairs=Edges(*pairs.ordered(local), positions, structure.cell),
        messages=Edges(*messages.ordered(local), positions, structure.cell),
    )


class _Found:
    """Edges found piece by piece: rows of the owned atoms, global partners, cells."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, i: np.ndarray, j: np.ndarray, R: np.ndarray) -> None:
        """Edges of atoms that come in no other piece, sorted."""
        small = np.int8 if np.abs(R).max(initial=0) < 128 else np.int16
        self.parts.append((i.astype(np.int32), j.astype(np.int32), R.astype(small)))

    def partners(self) -> np.ndarray:
        """Each once, ascending."""
        return np.unique(np.concatenate([np.unique(j) for _, j, _ in self.parts])).astype(np.int64)

    def ordered(self, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All by (i, j, R), with local rows of j; gives up the parts."""
        i, j, R = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        several = len(self.parts) > 1
        self.parts = []
        j = local[j]
        if several:  # each atom's edges are in one piece, in order
            order = np.argsort(i, kind="stable")
            i, j, R = i[order], j[order], R[order]
        return i, j, R


def _groups(structure: Structure, owned: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows of `owned` in compact groups of about `size`, each ascending; at least one. Groups in a row lie together."""
    count = -(-len(owned) // size)
    if count <= 1:
        return [np.arange(len(owned))]
    part = Structure(structure.numbers[owned], structure.positions[owned], structure.cell, structure.pbc)
    owner = partition_atoms(part, np.ones(len(owned)), count).owner
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=count))[:-1])


def _ghosts(j: np.ndarray, partition: Partition, rank: int) -> np.ndarray:
    owner = partition.owner[j]
    ghosts, owner = j[owner != rank], owner[owner != rank]
    return ghosts[np.argsort(owner, kind="stable")]
