"""The plan of a job counts what the job then holds and sends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import SolveSection
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.fill import FactorTree, factor_fill, factor_tree
from deeph_mpi.domain.pairs import PairPlan, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import SolverError
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.parallel import World
from deeph_mpi.planning.assembling import assembly_rates, assembly_seconds
from deeph_mpi.planning.counts import plan_parts
from deeph_mpi.planning.rates import Interconnect, Rates, calibrate, network_seconds
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
    inside = np.count_nonzero(domain.messages.j < domain.n_owned)  # one group: from both ends in the list
    assert part.bonds == inside // 2 + len(domain.messages) - inside
    assert (part.group, part.around, part.kept) == (domain.n_owned, domain.n_message, 0)
    assert part.decoded == len(plan.decode)
    ij = np.unique(blocks.pairs[:, 3:], axis=0)
    assert part.nonzeros == (orbitals[ij[:, 0]] * orbitals[ij[:, 1]]).sum()
    received = sum((orbitals[domain.atoms[domain.pairs.i[rows]]] * orbitals[domain.atoms[domain.pairs.j[rows]]]).sum()
                   for rows in plan.receive.values())  # fmt: skip
    assert part.shared == received
    place = RowMap(partition, orbitals).place
    i, j = blocks.pairs[:, 3:].T
    assert part.upper == (orbitals[i] * orbitals[j])[place[i] <= place[j]].sum()
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


def test_ranks_share_a_factorization() -> None:
    """Two branches below one separator, by hand: the separator's own unknowns are eliminated by one rank."""
    tree = FactorTree(np.array([-1, 0, 0]), np.array([30.0, 60.0, 60.0]), np.array([0.0, 30.0, 30.0]))
    branch = 60**3 / 3 + 60**2 * 30 + 60 * 30**2
    assert tree.flops == pytest.approx(30**3 / 3 + 2 * branch)
    assert tree.slowest(1) == pytest.approx(tree.flops)
    assert tree.slowest(2) == pytest.approx(30**3 / 3 + branch)
    assert tree.slowest(4) == pytest.approx(30**3 / 3 + 60**3 / 3 + (branch - 60**3 / 3) / 2)


def test_more_ranks_are_not_slower(world: World) -> None:
    structure = STRUCTURES["slab"]
    tree = factor_tree(structure, np.full(len(structure), 5), 2.5)
    assert factor_fill(structure, np.full(len(structure), 5), 2.5) == (tree.elements, tree.flops)
    times = [tree.slowest(ranks) for ranks in (1, 2, 3, 4, 64)]
    assert times[0] == pytest.approx(tree.flops)
    assert (np.diff(times) <= 0).all()
    assert times[-1] >= tree.own[0] ** 3 / 3


def test_seconds_of_the_solver() -> None:
    tree, nonzeros, rate = FactorTree(np.array([-1]), np.array([3000.0]), np.array([0.0])), 1e7, 1e10
    proved = solve_seconds(SolveSection(states=40), tree, nonzeros, rate, 1e-9, 3, 1)
    quick = solve_seconds(SolveSection(states=40, prove=False), tree, nonzeros, rate, 1e-9, 3, 1)
    assert (proved.factorizations, quick.factorizations) == (4, 1)
    np.testing.assert_allclose(proved.total - quick.total, 3 * 3 * proved.factorization)
    dense = solve_seconds(SolveSection(states=40), tree, nonzeros, rate, 1e-9, 3, 8)  # one front: nothing to share
    assert 0.8 < dense.speedup < 1.0
    assert dense.factorization > proved.factorization
    assert solve_seconds(SolveSection(states=40), tree, nonzeros, rate, 1e-8, 3, 1).once > proved.once > 0.0
    assert solve_seconds(SolveSection(window=[-1, 1]), tree, nonzeros, rate, 1e-9, 1, 1).vectors == 0.0
    assert 1e9 < dense_rate() < 1e13


def test_seconds_of_assembly_and_network(world: World) -> None:
    """Rates are positive, side by side too, and a rank without atoms takes no time."""
    petsc = pytest.importorskip("deeph_mpi.solvers.petsc")
    try:
        petsc.load()
    except SolverError as error:
        pytest.skip(str(error))
    structure, model = STRUCTURES["bulk"], random_model()
    rates = Rates.slowest(world.comm.allgather(calibrate(model, structure, 1.0, assemble=True)))
    assert min(rates.search, rates.message, rates.pair, rates.fresh, rates.checked) > 0
    assert rates.sorted >= 0
    orbitals = ORBITALS.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    part = plan_parts(world, model, structure, partition, orbitals)[world.rank]
    fresh = 16 * part.upper * rates.fresh
    assert assembly_seconds(part, rates) == pytest.approx(
        part.elements * rates.checked + part.upper * rates.sorted + fresh
    )
    bare, _ = network_seconds(model, part, rates, Interconnect())
    kept, _ = network_seconds(model, part, rates, Interconnect(), rows=True)
    assert kept - bare == pytest.approx(16 * part.elements * rates.fresh)
    alone, whole = World.alone(), Partition(np.zeros(len(structure), dtype=np.int32), 1)
    counted = plan_parts(alone, model, structure, whole, orbitals)[0]
    checked, others = assembly_rates(alone, whole, orbitals, predict_alone(model, structure), counted)
    assert 0 < counted.elements * checked + counted.upper * others < 10
