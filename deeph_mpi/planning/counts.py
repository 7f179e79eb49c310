"""What every part of a real partition holds and sends, counted without running a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.domain.domain import GROUP, Domain, LocalAtoms, local_atoms
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.domain.partition import Partition
from deeph_mpi.model.chunks import bond_groups, pair_zones
from deeph_mpi.model.decoder import BOTH, FAR, NEAR, NONE
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["PartPlan", "counts", "plan_parts"]


@dataclass(frozen=True)
class PartPlan:
    """One rank's share of a job.

    Attributes:
        atoms, message_ghosts, ghosts: owned atoms, ghosts of the messages, all ghosts.
        neighbours: ranks it exchanges features with.
        bonds: messages evaluated in a layer.
        group, around: atoms of the largest group of messages, and with those around it.
        kept: atoms of which former features are kept for other groups.
        pairs: directed pairs in its rows.
        decoded: pairs it decodes.
        near, far: of these, those that the wide decoder evaluates, and the lean one.
        orbitals: rows of the matrices.
        exchanged: pairs in its rows whose other atom is another rank's.
        elements: matrix elements of its blocks, onsite included.
        shared: elements of transposes that it receives.
        upper: elements of its blocks on and above the diagonal, atoms in the order of ranks: those that are sorted.
        nonzeros: of its rows of H or S at Γ, where images of an atom share a block.
    """

    atoms: int
    message_ghosts: int
    ghosts: int
    neighbours: int
    bonds: int
    group: int
    around: int
    kept: int
    pairs: int
    decoded: int
    near: int
    far: int
    orbitals: int
    exchanged: int
    elements: int
    shared: int
    upper: int
    nonzeros: int


def plan_parts(
    world: World, model: HamiltonianModel, structure: Structure, partition: Partition, orbitals: np.ndarray
) -> list[PartPlan]:
    """Counts of every part; the ranks that are there take them in turn. Collective."""
    mine: dict[int, PartPlan] = {}
    with world.together():
        for part in range(world.rank, partition.size, world.size):
            local = local_atoms(structure, partition, part, model.settings.r_message, model.radii)
            mine[part] = counts(model, local, partition, part, structure.numbers, orbitals)
    everything: dict[int, PartPlan] = {}
    for found in world.comm.allgather(mine):
        everything |= found
    return [everything[part] for part in range(partition.size)]


def counts(
    model: HamiltonianModel,
    local: LocalAtoms | Domain,
    partition: Partition,
    part: int,
    numbers: np.ndarray,
    orbitals: np.ndarray,
) -> PartPlan:
    """Counts of one part of a partition, from its domain, and the `numbers` and `orbitals` (N,) of all atoms. Not
    collective."""
    rows = orbitals[local.atoms]
    elements = shared = upper = decoded = exchanged = blocks = 0
    species, zones = model.species(numbers[local.atoms]), np.zeros(NONE + 1, dtype=np.int64)
    owner = partition.owner[local.atoms]
    for some in local.pairs.chunks():
        i, j = local.pairs.i[some], local.pairs.j[some]
        here = decoded_from_i(local.atoms[i], local.atoms[j], local.pairs.R[some])
        each = rows[i] * rows[j]
        away = j >= local.n_owned
        elements += int(each.sum())
        shared += int(each[away & ~here].sum())
        upper += int(each[np.where(away, owner[j] > part, local.atoms[i] <= local.atoms[j])].sum())
        exchanged += int(np.count_nonzero(away))
        decoded += int(np.count_nonzero(here))
        decoding = np.flatnonzero(here) + some.start
        zones += np.bincount(pair_zones(model, local, species, decoding), minlength=len(zones))
    first = np.searchsorted(local.pairs.i, np.arange(local.n_owned + 1))
    for start in range(0, local.n_owned, GROUP):
        stop = min(start + GROUP, local.n_owned)
        some = slice(int(first[start]), int(first[stop]))
        code = (local.pairs.i[some].astype(np.int64) - start) * len(local.atoms) + local.pairs.j[some]
        own = np.arange(stop - start) * len(local.atoms) + np.arange(start, stop)
        places, partners = np.divmod(np.unique(np.concatenate([code, own])), len(local.atoms))
        blocks += int((rows[start + places] * rows[partners]).sum())
    onsite = int((rows[: local.n_owned].astype(np.int64) ** 2).sum())
    groups = bond_groups(local)
    return PartPlan(
        atoms=local.n_owned,
        message_ghosts=local.n_message - local.n_owned,
        ghosts=len(local.atoms) - local.n_owned,
        neighbours=len(np.setdiff1d(partition.owner[local.atoms], part)),
        bonds=sum(len(group.within) + len(group.across) for group in groups),
        group=max(len(group.atoms) for group in groups),
        around=max(len(group.around) for group in groups),
        kept=sum(len(group.keep) for group in groups),
        pairs=len(local.pairs),
        decoded=decoded,
        near=int(zones[NEAR] + zones[BOTH]),
        far=int(zones[BOTH] + zones[FAR]),
        orbitals=int(rows[: local.n_owned].sum()),
        exchanged=exchanged,
        elements=elements + onsite,
        shared=shared,
        upper=upper + onsite,
        nonzeros=blocks,
    )
