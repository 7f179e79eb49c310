"""Bytes sent as counted, against what follows from the structure, the owners and the sizes of the blocks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeph_mpi.data.deeph import write_system
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.handover import spread
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import Stages, World
from deeph_mpi.parallel.traffic import bytes_sent
from tests.systems import carbon_system
from tests.test_domain_neighbours import bilayer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_halo_exchange_sends_every_neighbour_the_atoms_that_it_sees(world: World, dtype: torch.dtype) -> None:
    structure, radius, width = bilayer(5), 5.5, 7
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    domain = build_domain(world, structure, partition, 3.0, radius)
    pairs = neighbour_pairs(structure, np.arange(len(structure)), radius)  # of all atoms, without any domain
    i, j = partition.owner[pairs.i], partition.owner[pairs.j]
    seen = {(int(rank), int(atom)) for rank, atom in zip(i[i != j], pairs.j[i != j], strict=True)}
    mine = sum(partition.owner[atom] == world.rank for _, atom in seen)
    assert mine or world.size == 1
    stages = Stages(world)
    rows = torch.ones(domain.n_owned, width, dtype=dtype)
    with stages("exchange"):
        domain.pair_halo.exchange(rows)
    with stages("nothing"):
        pass
    expected = world.comm.allgather(mine * width * dtype.itemsize)
    table = {row.name: row for row in stages.table()}
    assert table["exchange"].sent == (max(expected), sum(expected) / world.size, min(expected))
    assert table["total"].sent == table["exchange"].sent
    assert table["nothing"].sent == (0, 0, 0)


def test_reading_sends_blocks_to_their_owners_and_averages_partners(world: World, shared_path: Path) -> None:
    system = carbon_system()
    folder = shared_path / "system"
    world.on_root(write_system, folder, system)
    owner = np.array([0, 1, 2, 3, 2, 1, 0]) % world.size
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    before = bytes_sent()
    read_rows(world, folder / "hamiltonian.h5", owner, orbitals)
    sent = bytes_sent() - before
    with h5py.File(folder / "hamiltonian.h5") as file:
        pairs = file["atom_pairs"][:]
    i, j = pairs[:, 3], pairs[:, 4]
    size = 8 * (5 + orbitals[i] * orbitals[j])  # of a block with its indices
    slices = [len(pairs) * rank // world.size for rank in range(world.size + 1)]
    reader = np.repeat(np.arange(world.size), np.diff(slices))
    # Of two partners the one with i < j travels to the owner of j, is averaged there, and comes back.
    meets = (i < j) & (owner[i] != owner[j])
    # Tables are sent ahead: the indices of a block travel twice to the owner of i.
    expected = (size + 8 * 5)[(reader == world.rank) & (owner[i] != world.rank)].sum()
    expected += size[meets & (owner[i] == world.rank)].sum() + size[meets & (owner[j] == world.rank)].sum()
    assert sent == expected
    assert (sent == 0) == (world.size == 1)


def test_rows_spread_over_pools_count_once_for_every_other_rank(world: World) -> None:
    system = carbon_system()
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    h = system.hamiltonian
    assert h is not None
    own = h if world.is_root else type(h).allocate(h.pairs[:0], orbitals, np.float64)
    target = np.arange(7) % world.size
    before = bytes_sent()
    spread(world, own, target[None], orbitals)
    away = target[h.pairs[:, 3]] != 0
    elements = orbitals[h.pairs[:, 3]] * orbitals[h.pairs[:, 4]]
    expected = int((away * (5 + elements)).sum()) * 8 if world.is_root else 0
    assert bytes_sent() - before == expected
