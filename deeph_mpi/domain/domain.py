"""What one rank knows of a structure: its atoms, the ghosts around them, and the pairs between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.neighbours import PairList, neighbour_pairs
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.radii import Radii, RadiusTable
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["Domain", "Edges", "LocalAtoms", "build_domain", "local_atoms"]


@dataclass(frozen=True)
class Edges:
    """Directed edges from owned atoms, by local index and sorted by global (i, j, R).

    Attributes:
        i: (n,) int32, below `n_owned`.
        j: (n,) int32, owned or ghost; all periodic images of an atom share one row.
        R: (n, 3) int32 cells.
        vectors: (n, 3) float64, Å, r_j + R·cell − r_i.
        distances: (n,) float64, Å.
    """

    i: np.ndarray
    j: np.ndarray
    R: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.i)


@dataclass(frozen=True)
class LocalAtoms:
    """The geometric part of a domain, which needs no communication.

    Attributes:
        atoms: (n_local,) int64 global indices: owned (ascending), then ghosts within the message radius, then those
            within the pair radii only; ghosts by owner, then by index.
        n_owned: number of owned atoms.
        n_message: number of owned atoms and message ghosts.
        pairs: edges within the pair radii, those of the Hamiltonian.
        messages: edges within the message radius, those of the network.
    """

    atoms: np.ndarray
    n_owned: int
    n_message: int
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
        numbers: (n_local,) int64 atomic numbers.
        i, j, R, vectors, distances: directed pairs from owned atoms within the pair radii, see `Edges`.
        messages: directed edges from owned atoms within the message radius; `j` is below `n_message`.
        message_halo: exchange that fills rows `n_owned` … `n_message`.
        pair_halo: exchange that fills rows `n_owned` … `n_local`.
    """

    atoms: np.ndarray
    n_owned: int
    n_message: int
    numbers: np.ndarray
    i: np.ndarray
    j: np.ndarray
    R: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray
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


def build_domain(world: World, structure: Structure, partition: Partition, r_message: float, r_pair: Radii) -> Domain:
    """Find this rank's ghosts and pairs and plan the halo exchanges. Collective.

    With `World.alone()` and a partition of size 1 there are no ghosts.

    Args:
        structure: the atoms, replicated.
        partition: ownership, the same on all ranks; its size is that of the world.
        r_message: radius of the network's messages, Å.
        r_pair: radius of the Hamiltonian's pairs, Å: one, or one per pair of atomic numbers.

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
    pairs = local.pairs
    return Domain(
        atoms=local.atoms,
        n_owned=local.n_owned,
        n_message=local.n_message,
        numbers=structure.numbers[local.atoms],
        i=pairs.i,
        j=pairs.j,
        R=pairs.R,
        vectors=pairs.vectors,
        distances=pairs.distances,
        messages=local.messages,
        message_halo=HaloExchange(world, partition, local.atoms[local.n_owned : local.n_message]),
        pair_halo=HaloExchange(world, partition, local.atoms[local.n_owned :]),
    )


def local_atoms(structure: Structure, partition: Partition, rank: int, r_message: float, r_pair: Radii) -> LocalAtoms:
    """Ghosts and pairs of one domain of a partition. Not collective; arguments and errors as for `build_domain`."""
    owned = partition.atoms(rank)
    table = RadiusTable.build(r_pair, structure.numbers)
    z = structure.numbers
    elements = np.flatnonzero(table.species >= 0).tolist()
    reach = {(a, b): max(r_message, table.radii[m, n]) for m, a in enumerate(elements) for n, b in enumerate(elements)}
    found = neighbour_pairs(structure, owned, reach)
    in_pair = found.distances <= table.of(z[found.i], z[found.j])
    in_message = found.distances <= r_message
    message_ghosts = _ghosts(found.j[in_message], partition, rank)
    pair_ghosts = _ghosts(found.j[in_pair], partition, rank)
    atoms = np.concatenate([owned, message_ghosts, pair_ghosts[~np.isin(pair_ghosts, message_ghosts)]])
    order = np.argsort(atoms)
    return LocalAtoms(
        atoms=atoms,
        n_owned=len(owned),
        n_message=len(owned) + len(message_ghosts),
        pairs=_edges(found, in_pair, atoms, order),
        messages=_edges(found, in_message, atoms, order),
    )


def _ghosts(j: np.ndarray, partition: Partition, rank: int) -> np.ndarray:
    ghosts = np.unique(j)
    owner = partition.owner[ghosts]
    ghosts, owner = ghosts[owner != rank], owner[owner != rank]
    return ghosts[np.argsort(owner, kind="stable")]


def _edges(found: PairList, which: np.ndarray, atoms: np.ndarray, order: np.ndarray) -> Edges:
    pairs = found if which.all() else found[which]
    ascending = atoms[order]
    i, j = (order[np.searchsorted(ascending, ids)].astype(np.int32) for ids in (pairs.i, pairs.j))
    return Edges(i, j, pairs.R, pairs.vectors, pairs.distances)
