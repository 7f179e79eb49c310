"""Fewer ranks run the network than solve: the rows that arrive are those that every rank would have computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.handover import hand_over, led_partition
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.model.predict import allocate_rows, predict
from deeph_mpi.parallel import World
from deeph_mpi.parallel.nodes import leaders_of, network_leaders, rank_device
from deeph_mpi.structure.structure import Structure
from tests.models import ORBITALS, random_model
from tests.parallel.test_predict import STRUCTURES


def test_groups_of_neighbours() -> None:
    assert leaders_of(np.array([0, 1, 2, 3, 4]), 2).tolist() == [0, 0, 0, 3, 3]
    assert leaders_of(np.array([1, 3, 5]), 7).tolist() == [1, 3, 5]
    assert leaders_of(np.array([2, 3]), 1).tolist() == [2, 2]


def test_leaders_of_one_node(world: World) -> None:
    everyone = network_leaders(world, None)
    if not torch.cuda.is_available():
        np.testing.assert_array_equal(everyone, np.arange(world.size))
    np.testing.assert_array_equal(network_leaders(world, 1), np.zeros(world.size))
    assert len(np.unique(network_leaders(world, 2))) == min(2, world.size)
    if world.rank > 0:
        assert rank_device(world, network_leaders(world, 1)).type == "cpu"
    else:
        rank_device(world, network_leaders(world, 1))


def rows_of(world: World, structure: Structure, partition: Partition) -> tuple[BlockSet, BlockSet]:
    """H and S in the rows of a partition."""
    model, orbitals = random_model(), ORBITALS.orbitals(structure.numbers)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    rows = allocate_rows(domain, orbitals)
    predict(world, model, domain, PairPlan.build(world, partition, domain), orbitals, rows)
    return rows


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["bulk", "two atoms, many images"])
def test_rows_are_those_of_the_owners(world: World, name: str, count: int) -> None:
    structure = STRUCTURES[name]
    orbitals = ORBITALS.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    leaders = leaders_of(np.arange(world.size), count)
    led = led_partition(partition, leaders)
    assert set(led.owner) <= set(leaders)
    expected = rows_of(world, structure, partition)
    for whole, wanted in zip(rows_of(world, structure, led), expected, strict=True):
        found = hand_over(world, whole, partition, leaders, orbitals)
        np.testing.assert_array_equal(found.pairs, wanted.pairs)
        np.testing.assert_array_equal(found.offsets, wanted.offsets)
        assert np.abs(found.entries - wanted.entries).max(initial=0.0) < 1e-10
        assert world.max(np.abs(found.entries).max(initial=0.0)) > 0.1
