"""The plan of a job counts what the job then holds and sends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import SolveSection
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.fill import factor_fill
from deeph_mpi.domain.pairs import PairPlan, pairs_global
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.model.chunks import bond_groups
from deeph_mpi.parallel import World
from deeph_mpi.planning.counts import plan_parts
from deeph_mpi.planning.solving import dense_rate, solve_seconds
from tests.models import ORBITALS, random_model
from tests.parallel.test_predict import STRUCTURES


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_counts_are_those_of_the_job(world: World, name: str) -> None:
    structure, model = STRUCTURES[name], random_model()
    orbitals = ORBITALS.orbitals(structure.numbers)
    weights = pair_weights(world, structure, orbitals, model.radii)
    partition = partition_atoms(structure, weights, world.size)
    part = plan_parts(world, model, structure, partition, orbitals)[world.rank]
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    blocks = BlockSet.allocate(pairs_global(domain), orbitals, np.float64)
    assert part.atoms == domain.n_owned
    assert (part.message_ghosts, part.ghosts) == (domain.message_halo.n_ghost, domain.pair_halo.n_ghost)
    assert part.neighbours == len(domain.pair_halo.neighbours)
    assert part.pairs == len(domain.pairs)
    assert part.elements == len(blocks.entries)
    assert part.orbitals == orbitals[domain.owned].sum()
    assert part.bonds == sum(len(group.within) + len(group.across) for group in bond_groups(domain))
    assert part.decoded == len(plan.decode)
    ij = np.unique(blocks.pairs[:, 3:], axis=0)
    assert part.nonzeros == (orbitals[ij[:, 0]] * orbitals[ij[:, 1]]).sum()
    received = sum((orbitals[domain.atoms[domain.pairs.i[rows]]] * orbitals[domain.atoms[domain.pairs.j[rows]]]).sum()
                   for rows in plan.receive.values())  # fmt: skip
    assert part.shared == received
    assert part.exchanged == sum(map(len, plan.send.values())) + sum(map(len, plan.receive.values()))


def test_fill_of_a_dense_matrix_is_all_of_it(world: World) -> None:
    """Every atom sees every other: no ordering can save anything."""
    structure = STRUCTURES["bulk"]
    orbitals = ORBITALS.orbitals(structure.numbers)
    n = orbitals.sum()
    entries, flops = factor_fill(structure, orbitals, 30.0)
    assert entries == n * (n + 1) / 2
    assert flops == pytest.approx(n**3 / 3, rel=0.02)


def test_fill_is_near_that_of_the_band(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long strip: nested dissection must not lose to the band of the matrix by more than a factor."""
    monkeypatch.setattr("deeph_mpi.domain.fill.LEAF", 4)
    structure = STRUCTURES["slab"]
    orbitals = np.ones(len(structure), dtype=np.int64)
    entries, _ = factor_fill(structure, orbitals, 2.5)
    lower = np.zeros((48, 48))
    from deeph_mpi.domain.neighbours import neighbour_pairs

    pairs = neighbour_pairs(structure, np.arange(48), 2.5)
    lower[pairs.i, pairs.j] = -1.0
    np.fill_diagonal(lower, 20.0)
    own = np.count_nonzero(np.abs(scipy.linalg.cholesky(lower, lower=True)) > 1e-300)
    assert np.count_nonzero(np.tril(lower)) < entries <= 48 * 49 / 2
    assert entries < 1.5 * own


def test_seconds_of_the_solver() -> None:
    fill, nonzeros, rate = (1e8, 1e12), 1e7, 1e10
    proved = solve_seconds(SolveSection(states=40), fill, nonzeros, rate, 3, 2)
    quick = solve_seconds(SolveSection(states=40, prove=False), fill, nonzeros, rate, 3, 2)
    assert (proved.factorizations, quick.factorizations) == (4, 1)
    np.testing.assert_allclose(proved.total - quick.total, 3 * 3 * proved.factorization)
    np.testing.assert_allclose(
        2 * proved.total, solve_seconds(SolveSection(states=40), fill, nonzeros, rate, 3, 1).total
    )
    assert solve_seconds(SolveSection(window=[-1, 1]), fill, nonzeros, rate, 1, 1).vectors == 0.0
    assert 1e9 < dense_rate() < 1e13
