"""S of a structure from the two-centre table of a checkpoint, without running its network."""

from __future__ import annotations

import numpy as np
import torch

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.block_rows import put_blocks
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan, onsite_blocks, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.model.chunks import bonds_per_chunk
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import put_pairs
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["overlap_alone"]


@torch.no_grad()
def overlap_alone(model: HamiltonianModel, structure: Structure, memory_gb: float = 0.5) -> BlockSet:
    """All blocks of S, float64, on this process: those that `infer` predicts. Not collective.

    Args:
        memory_gb: bound on temporaries, GB.

    Raises:
        ModelError: elements that the checkpoint does not know, or bonds shorter than any in its training data.
        StructureError: for overlapping atoms or a cell without volume.
    """
    world = World.alone()
    species = model.species(structure.numbers)
    partition = Partition(np.zeros(len(structure), dtype=np.int32), 1)
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    rows = BlockSet.allocate(pairs_global(domain), orbitals, np.float64)
    chunk = bonds_per_chunk(model, memory_gb)
    for part in np.array_split(plan.decode, max(-(-len(plan.decode) // chunk), 1)):
        i, j = (torch.as_tensor(species[domain.atoms[ends[part]]]) for ends in (domain.pairs.i, domain.pairs.j))
        kinds = i * len(model.elements) + j
        blocks = model.pair_overlaps(torch.as_tensor(domain.pairs.vectors(part)), kinds)
        put_pairs(model, plan, part, kinds, [rows], [blocks])
    places, kinds = onsite_blocks(domain), species[domain.atoms[: domain.n_owned]]
    for number in np.unique(structure.numbers).tolist():
        own = torch.as_tensor(domain.numbers[: domain.n_owned] == number)
        _write(rows, places[own.numpy()], model.template.extract(model.overlap.onsite[kinds[own]], number, number))
    return rows


def _write(rows: BlockSet, places: np.ndarray, blocks: torch.Tensor) -> None:
    put_blocks(rows.entries, rows.offsets[places], blocks.flatten(1).numpy())
