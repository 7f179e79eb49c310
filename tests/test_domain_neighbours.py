"""Neighbour lists against loops over images, ASE, and their own reversal."""

from __future__ import annotations

import itertools

import ase.neighborlist
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from deeph_mpi.domain.domain import local_atoms
from deeph_mpi.domain.neighbours import PairList, neighbour_pairs
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import StructureError
from deeph_mpi.structure.structure import Structure

SKEWED = np.array([[3.0, 0.2, -0.1], [1.4, 2.8, 0.3], [-1.7, 0.9, 3.3]])


def structure_of(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers.astype(np.int64), atoms.positions.copy(), np.array(atoms.cell), atoms.pbc.copy())


def bilayer(n: int, seed: int = 0) -> Structure:
    """Two graphene sheets of n × n cells, corrugated, vacuum above; the slab straddles the cell's face."""
    rng = np.random.default_rng(seed)
    a = 2.46
    cell = np.array([[a, 0, 0], [a / 2, a * np.sqrt(0.75), 0], [0, 0, 20.0]])
    cells = np.array(list(itertools.product(range(n), range(n))))
    layers = []
    for z, shift in ((-1.7, 0.0), (1.7, 1 / 3)):
        for s in (0.0, 1 / 3):
            sheet = np.zeros((len(cells), 3))
            sheet[:, :2] = cells + s + shift
            layers.append(sheet @ cell + [0, 0, z])
    positions = np.concatenate(layers) + rng.normal(0, 0.03, (4 * n * n, 3))
    return Structure(np.full(len(positions), 6), positions, cell * [[n], [n], [1]], np.array([True, True, True]))


def two_species(n: int, seed: int = 1) -> Structure:
    """Cubic SiC, n³ conventional cells, displaced at random."""
    atoms = bulk("SiC", "zincblende", 4.36, cubic=True) * (n, n, n)
    atoms.rattle(0.05, seed=seed)
    return structure_of(atoms)


def one_atom() -> Structure:
    return Structure(np.array([6]), np.array([[0.3, -9.0, 4.0]]), SKEWED, np.array([True, True, True]))


def two_atoms() -> Structure:
    positions = np.array([[0.0, 0.0, 0.0], [1.1, 0.7, -8.0]])
    return Structure(np.array([6, 14]), positions, SKEWED, np.array([True, True, False]))


def keys(pairs: PairList) -> list[tuple[int, ...]]:
    return list(map(tuple, np.column_stack([pairs.i, pairs.j, pairs.R]).tolist()))


def all_pairs(structure: Structure, cutoff: float) -> list[tuple[int, ...]]:
    """Every (i, j, R1, R2, R3) within the cutoff, by loops over atoms and a generous range of cells."""
    reciprocal = np.linalg.norm(np.linalg.inv(structure.cell), axis=0)
    spread = np.ptp(structure.positions @ np.linalg.inv(structure.cell), axis=0)
    most = np.where(structure.pbc, np.ceil(cutoff * reciprocal + spread) + 1, 0).astype(int)
    found = []
    for i, j in itertools.product(range(len(structure)), repeat=2):
        for R in itertools.product(*(range(-m, m + 1) for m in most)):
            d = structure.positions[j] + R @ structure.cell - structure.positions[i]
            if (i != j or any(R)) and d @ d <= cutoff**2:
                found.append((i, j, *R))
    return sorted(found)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_small_cells_hold_every_image(pbc: tuple[bool, ...]) -> None:
    unwrapped = np.array([[0.1, 0.2, 0.3], [9.7, -8.1, 1.2], [-4.0, 5.0, 12.6]])
    structure = Structure(np.array([6, 14, 1]), unwrapped, SKEWED, np.array(pbc))
    expected = all_pairs(structure, 6.5)
    assert keys(neighbour_pairs(structure, np.arange(3), 6.5)) == expected


def test_one_atom_sees_many_images_of_itself() -> None:
    structure = one_atom()
    expected = all_pairs(structure, 11.0)
    assert len(expected) > 150
    assert keys(neighbour_pairs(structure, np.array([0]), 11.0)) == expected


def test_molecule_without_cell() -> None:
    positions = np.array([[0.0, 0, 0], [0, 0, 1.1], [0, 5.0, 0]])
    structure = Structure(np.array([6, 8, 1]), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
    assert keys(neighbour_pairs(structure, np.arange(3), 2.0)) == [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)]


@pytest.mark.parametrize("structure", [bilayer(9), two_species(3)], ids=["bilayer", "bulk"])
def test_agrees_with_ase(structure: Structure) -> None:
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    i, j, R, D = ase.neighborlist.neighbor_list("ijSD", atoms, 6.1)
    order = np.lexsort((R[:, 2], R[:, 1], R[:, 0], j, i))
    pairs = neighbour_pairs(structure, np.arange(len(structure)), 6.1)
    assert keys(pairs) == list(map(tuple, np.column_stack([i, j, R])[order].tolist()))
    np.testing.assert_allclose(pairs.vectors, D[order], atol=1e-11)
    np.testing.assert_allclose(pairs.distances, np.linalg.norm(D[order], axis=1), atol=1e-11)


def test_reversal_is_exact_even_at_the_radius() -> None:
    structure = two_species(3)
    everyone = np.arange(len(structure))
    # a radius that equals one distance to the last bit, so that the comparison itself is on trial
    radius = float(neighbour_pairs(structure, everyone, 6.0).distances[4321])
    parts = [neighbour_pairs(structure, centres, radius) for centres in np.array_split(everyone, 7)]
    vectors = {key: tuple(v) for part in parts for key, v in zip(keys(part), part.vectors.tolist(), strict=True)}
    assert any(radius == d for part in parts for d in part.distances)
    for (i, j, *R), v in vectors.items():
        assert vectors[j, i, *(-r for r in R)] == tuple(-x for x in v)


def test_centres_do_not_change_what_is_found() -> None:
    structure = bilayer(8)
    whole = neighbour_pairs(structure, np.arange(len(structure)), 7.0)
    some = np.array([5, 3, 200, 77])
    part = neighbour_pairs(structure, some, 7.0)
    mine = np.isin(whole.i, some)
    assert keys(part) == [key for key, yes in zip(keys(whole), mine, strict=True) if yes]
    np.testing.assert_array_equal(part.vectors, whole.vectors[mine])


def test_radius_per_pair_of_elements() -> None:
    structure = two_species(2)
    table = {(6, 6): 3.2, (14, 6): 2.0, (14, 14): 4.5}
    pairs = neighbour_pairs(structure, np.arange(len(structure)), table)
    whole = neighbour_pairs(structure, np.arange(len(structure)), 4.5)
    z = structure.numbers
    radius = np.array([table[max(z[i], z[j]), min(z[i], z[j])] for i, j in zip(whole.i, whole.j, strict=True)])
    inside = whole.distances <= radius
    assert keys(pairs) == [key for key, yes in zip(keys(whole), inside, strict=True) if yes]


def test_no_centres() -> None:
    assert len(neighbour_pairs(bilayer(2), np.zeros(0, dtype=np.int64), 5.0)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__(7, x[2] + [0, 0, 0.1]), r"atoms 2 \(\w+\) and 7 \(\w+\) are only 0.100 Å apart"),
        (
            lambda x: x.__setitem__(7, x[2] + bilayer(3).cell[0]),
            r"atoms 2 \(\w+\) and 7 \(\w+\) are only 0.000 Å apart",
        ),
        (lambda x: x.__setitem__((4, 1), np.nan), "the position of atom 4 is not a finite number"),
    ],
)
def test_senseless_positions_are_named(change: object, message: str) -> None:
    structure = bilayer(3)
    change(structure.positions)  # type: ignore[operator]
    with pytest.raises(StructureError, match=message):
        neighbour_pairs(structure, np.arange(len(structure)), 5.0)


def test_senseless_cells_and_radii_are_named() -> None:
    flat = Structure(np.array([6]), np.zeros((1, 3)), np.ones((3, 3)), np.ones(3, dtype=bool))
    with pytest.raises(StructureError, match="linearly dependent"):
        neighbour_pairs(flat, np.array([0]), 5.0)
    thin = Structure(np.array([6]), np.zeros((1, 3)), np.diag([0.3, 4, 4]), np.ones(3, dtype=bool))
    with pytest.raises(StructureError, match=r"atom 0 \(C\) and its own periodic image are only 0\.300"):
        neighbour_pairs(thin, np.array([0]), 0.1)
    with pytest.raises(StructureError, match="no radius is known for pairs C-Si"):
        neighbour_pairs(two_species(1), np.arange(8), {(6, 6): 3.0, (14, 14): 3.0})
    with pytest.raises(StructureError, match="two different radii"):
        neighbour_pairs(two_species(1), np.arange(8), {(6, 6): 3.0, (14, 14): 3.0, (6, 14): 3.0, (14, 6): 4.0})


@pytest.mark.parametrize("structure", [bilayer(5), two_species(2), two_atoms()], ids=["bilayer", "bulk", "two"])
@pytest.mark.parametrize("together", [1, 3])
def test_pairs_found_piece_by_piece_are_the_same(
    structure: Structure, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where shells of several pieces are cut out of one."""
    partition = Partition((np.arange(len(structure)) % 3 == 1).astype(np.int32), 2)
    whole = [local_atoms(structure, partition, rank, 2.6, 5.1) for rank in (0, 1)]
    monkeypatch.setattr("deeph_mpi.domain.domain.SEARCH", 7)
    monkeypatch.setattr("deeph_mpi.domain.neighbours.TOGETHER", together)
    for rank, expected in enumerate(whole):
        found = local_atoms(structure, partition, rank, 2.6, 5.1)
        np.testing.assert_array_equal(found.atoms, expected.atoms)
        for edges, others in ((found.pairs, expected.pairs), (found.messages, expected.messages)):
            for name in ("i", "j", "R"):
                np.testing.assert_array_equal(getattr(edges, name), getattr(others, name))
