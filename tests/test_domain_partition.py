"""Partitions: balance, compactness, independence of how the cell is placed, and the weights they balance."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from deeph_mpi.domain.domain import build_domain, local_atoms
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.report import report_partition
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import StructureError
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure
from tests.test_domain_neighbours import bilayer, one_atom, two_species


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16])
def test_weights_are_balanced(size: int) -> None:
    structure = bilayer(20)
    weights = np.random.default_rng(3).uniform(1, 4, len(structure))
    partition = partition_atoms(structure, weights, size)
    load = np.bincount(partition.owner, weights=weights, minlength=size)
    assert partition.size == size
    # each of the log2(size) cuts is off by half an atom at most
    assert np.abs(load - weights.sum() / size).max() <= 4 * np.log2(2 * size)


def test_few_atoms_give_empty_domains_and_never_two_in_one() -> None:
    structure = two_species(1)
    counts = np.bincount(partition_atoms(structure, np.ones(8), 13).owner, minlength=13)
    assert sorted(counts) == [0] * 5 + [1] * 8
    heavy = np.array([1e9, 1, 1, 1, 1, 1, 1, 1])
    assert np.bincount(partition_atoms(structure, heavy, 8).owner, minlength=8).tolist() == [1] * 8


def test_domains_are_compact() -> None:
    """Four domains of a square slab are its quarters: the ghosts number what the area of their rims says."""
    a, n, r = 2.0, 40, 6.0
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    positions = np.column_stack([grid * a, np.full(n * n, 29.9)])
    structure = Structure(np.full(n * n, 6), positions, np.diag([n * a, n * a, 30.0]), np.ones(3, dtype=bool))
    partition = partition_atoms(structure, np.ones(n * n), 4)
    rim = int(r / a)
    expected = 4 * 20 * rim + 4 * sum((x * x + y * y) * a * a <= r * r for x in range(1, 4) for y in range(1, 4))
    for rank in range(4):
        local = local_atoms(structure, partition, rank, r, r)
        assert local.n_owned == 400
        assert len(local.atoms) - local.n_owned == expected


def test_vacuum_and_the_origin_do_not_matter() -> None:
    """A slab across the cell's face (layers at ±1.7 Å) is cut as one in the middle of the cell."""
    structure = bilayer(12)
    moved = Structure(structure.numbers, structure.positions + np.array([0, 0, 8.3]), structure.cell, structure.pbc)
    weights = np.ones(len(structure))
    first, second = (partition_atoms(s, weights, 6).owner for s in (structure, moved))
    np.testing.assert_array_equal(first, second)


def test_weights_count_matrix_elements() -> None:
    structure = two_species(2)
    orbitals = np.where(structure.numbers == 6, 13, 4)
    table = {(6, 6): 4.0, (6, 14): 5.5, (14, 14): 0.0}
    pairs = neighbour_pairs(structure, np.arange(len(structure)), table)
    expected = orbitals.astype(float) ** 2
    np.add.at(expected, pairs.i, orbitals[pairs.i] * orbitals[pairs.j])
    np.testing.assert_array_equal(pair_weights(World.alone(), structure, orbitals, table), expected)


def test_one_rank_has_no_ghosts() -> None:
    structure = one_atom()
    domain = build_domain(World.alone(), structure, Partition(np.zeros(1, dtype=np.int32), 1), 4.0, 9.0)
    assert domain.n_local == domain.n_message == domain.n_owned == 1
    assert len(domain.pairs) == len(neighbour_pairs(structure, np.array([0]), 9.0))
    assert len(domain.messages) == len(neighbour_pairs(structure, np.array([0]), 4.0))
    x = np.arange(3.0).reshape(1, 3)
    np.testing.assert_array_equal(domain.pair_halo.exchange_array(x), x)


def test_messages_reach_beyond_short_pair_radii() -> None:
    structure = two_species(2)
    partition = partition_atoms(structure, np.ones(len(structure)), 2)
    local = local_atoms(structure, partition, 0, 4.0, {(6, 6): 6.0, (6, 14): 2.0, (14, 14): 3.2})
    whole = neighbour_pairs(structure, partition.atoms(0), 4.0)
    np.testing.assert_array_equal(local.atoms[local.messages.i], whole.i)
    np.testing.assert_array_equal(local.atoms[local.messages.j], whole.j)
    assert local.messages.j.max() < local.n_message


def test_misfits_are_refused() -> None:
    structure = two_species(1)
    with pytest.raises(ValueError, match="does not fit"):
        build_domain(World.alone(), structure, Partition(np.zeros(8, dtype=np.int32), 2), 3.0, 5.0)
    structure.positions[3] = structure.positions[1]
    with pytest.raises(StructureError, match=r"atoms 1 \(C\) and 3 \(C\)") as caught:
        build_domain(World.alone(), structure, Partition(np.zeros(8, dtype=np.int32), 1), 3.0, 5.0)
    assert caught.value.everywhere


@pytest.mark.skipif(importlib.util.find_spec("pymetis") is None, reason="pymetis is optional")
@pytest.mark.parametrize("size", [1, 3, 4])
def test_metis_balances_and_separates(size: int) -> None:
    structure = bilayer(20)
    weights = np.where(structure.positions[:, 0] > 20, 3.0, 1.0)
    partition = partition_atoms_metis(structure, weights, size, 4.0)
    load = np.bincount(partition.owner, weights=weights, minlength=size)
    assert load.max() < 1.15 * load.mean()
    pairs = neighbour_pairs(structure, np.arange(len(structure)), 4.0)
    cut = (partition.owner[pairs.i] != partition.owner[pairs.j]).mean()
    scattered = 1 - 1 / size
    assert cut <= 0.4 * scattered


def test_report_adds_up() -> None:
    structure = two_species(2)
    partition = Partition(np.zeros(len(structure), dtype=np.int32), 1)
    domain = build_domain(World.alone(), structure, partition, 3.0, 5.0)
    report = report_partition(World.alone(), partition, np.ones(len(structure)), domain)
    assert report.imbalance == 1.0
    assert report.pairs.tolist() == [len(domain.pairs)]
    assert "1 domains" in str(report)
