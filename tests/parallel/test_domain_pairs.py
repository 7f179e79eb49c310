"""Every pair is decoded once, and transposes fill the rest."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.block_rows import get_blocks
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan, onsite_blocks, pairs_global
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World
from tests.parallel.test_domain_exchange import CASES, domain_of, domains
from tests.test_domain_neighbours import two_species


def values(blocks: BlockSet, orbitals: np.ndarray) -> np.ndarray:
    """Entries of blocks that differ for every pair, with f(j, i, −R) = f(i, j, R)† to the last bit."""
    block = np.repeat(np.arange(len(blocks)), np.diff(blocks.offsets))
    i, j = blocks.pairs[block, 3], blocks.pairs[block, 4]
    a, b = np.divmod(np.arange(len(block)) - blocks.offsets[block], orbitals[j])
    R = blocks.pairs[block, :3] * np.array([0.31, 0.17, 0.05])
    odd = (R[:, 0] + R[:, 1] + R[:, 2]) + 0.01 * (j - i) + 0.1 * (np.sin(b + j) - np.sin(a + i))
    even = np.cos(odd) + (i + 1) * (j + 1) + np.sin(a + 1.7 * i) * np.sin(b + 1.7 * j)
    return (even + 1j * odd if np.iscomplexobj(blocks.entries) else even).astype(blocks.entries.dtype)


def test_every_undirected_pair_is_decoded_once(world: World) -> None:
    for _, domain, partition in domains(world):
        plan = PairPlan.build(world, partition, domain)
        directed = np.column_stack([domain.atoms[domain.pairs.i], domain.atoms[domain.pairs.j], domain.pairs.R])
        every = [tuple(row) for part in world.comm.allgather(directed.tolist()) for row in part]
        decoded = [tuple(row) for part in world.comm.allgather(directed[plan.decode].tolist()) for row in part]
        reverse = [(j, i, -a, -b, -c) for i, j, a, b, c in decoded]
        assert len(decoded) == len(set(decoded))
        assert sorted(decoded + reverse) == sorted(every)
        local = plan.decode[domain.pairs.j[plan.decode] < domain.n_owned]
        there = directed[plan.reverse(local)]
        here = directed[local]
        np.testing.assert_array_equal(there, np.column_stack([here[:, 1], here[:, 0], -here[:, 2:]]))


def test_decoding_is_shared_evenly(world: World) -> None:
    domain, partition = domain_of("bilayer", world)
    plan = PairPlan.build(world, partition, domain)
    assert abs(len(plan.decode) / (len(domain.pairs) / 2) - 1) < 0.1


def test_blocks_come_in_row_order_with_onsite(world: World) -> None:
    for _, domain, partition in domains(world):
        pairs = pairs_global(domain)
        rows = [(i, j, a, b, c) for a, b, c, i, j in pairs.tolist()]
        assert rows == sorted(rows)
        assert len(set(rows)) == domain.n_owned + len(domain.pairs)
        assert {(i, i, 0, 0, 0) for i in domain.owned.tolist()} <= set(rows)
        plan = PairPlan.build(world, partition, domain)
        blocks = plan.blocks(np.arange(len(domain.pairs)))
        np.testing.assert_array_equal(pairs[blocks, 3], domain.atoms[domain.pairs.i])
        np.testing.assert_array_equal(pairs[blocks, 4], domain.atoms[domain.pairs.j])
        np.testing.assert_array_equal(pairs[blocks, :3], domain.pairs.R)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_transposes_fill_every_block(world: World, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeph_mpi.domain.block_rows.CHUNK", 1000)
    monkeypatch.setattr("deeph_mpi.domain.messages.CHUNK", 10_000)
    for name, domain, partition in domains(world):
        plan = PairPlan.build(world, partition, domain)
        # blocks of 4, 9 and 13 orbitals in all combinations
        orbitals = np.array([4, 9, 13])[(np.arange(len(partition.owner)) * 7 + CASES[name][0].numbers) % 3]
        blocks = BlockSet.allocate(pairs_global(domain), orbitals, dtype)
        expected = values(blocks, orbitals)
        given = np.zeros(len(blocks), dtype=bool)
        given[onsite_blocks(domain)] = True
        assert given.sum() == domain.n_owned
        blocks.entries[:] = np.where(np.repeat(given, np.diff(blocks.offsets)), expected, np.nan)
        sizes = orbitals[domain.atoms]
        for part in np.array_split(plan.decode, 3):
            shapes = np.stack([sizes[domain.pairs.i[part]], sizes[domain.pairs.j[part]]], axis=1)
            for height, width in np.unique(shapes, axis=0).tolist():
                alike = part[(shapes == [height, width]).all(axis=1)]
                found = get_blocks(expected, blocks.offsets[plan.blocks(alike)], height * width)
                plan.put(alike, [blocks], [found.reshape(-1, height, width)])
        plan.exchange_transposes(blocks, orbitals)
        np.testing.assert_array_equal(blocks.entries, expected)


def test_ranks_that_disagree_are_told(world: World) -> None:
    """One rank with another radius must end in an error everywhere, not in a message that never comes."""
    if world.size == 1:
        return
    structure = two_species(2)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    domain = build_domain(world, structure, partition, 3.0, 5.0 if world.rank else 4.0)
    with pytest.raises(DeephError, match="disagree on the pairs") as caught:
        PairPlan.build(world, partition, domain)
    assert caught.value.everywhere
