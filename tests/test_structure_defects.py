"""Vacancies and substitutions: as many as asked for, apart, reproducible; layers of stacked structures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import get_distances
from ase.io import read

from deeph_mpi.errors import ConfigError, StructureError
from deeph_mpi.structure.defects import DefectKind, make_defects, parse_defect, repeated
from deeph_mpi.structure.layers import stacking
from deeph_mpi.structure.read import write_structure
from deeph_mpi.structure.structure import Structure
from deeph_mpi.structure.twist import graphene, twisted_bilayer
from tests.mpi import deeph_mpi

SIDE = 2.504


def hexagonal_bn(times: int) -> Structure:
    """A sheet of times × times cells, vectors at 60°."""
    cell = np.diag([SIDE, SIDE, 15.0])
    cell[1, :2] = SIDE / 2, SIDE * math.sqrt(3) / 2
    sites = np.array([[0, 0, 0.5], [1 / 3, 1 / 3, 0.5]]) @ cell
    return repeated(Structure(np.array([5, 7]), sites, cell, np.ones(3, dtype=bool)), (times, times, 1))


def kinds(*words: str) -> list[DefectKind]:
    return [parse_defect(word, vacancy="=" not in word) for word in words]


def test_supercell_is_that_of_ase() -> None:
    unit = hexagonal_bn(1)
    host = repeated(unit, (3, 2, 1))
    expected = Atoms(unit.numbers, unit.positions, cell=unit.cell, pbc=True).repeat((3, 2, 1))
    np.testing.assert_allclose(host.cell, expected.cell)
    np.testing.assert_array_equal(host.numbers, np.repeat([5, 7], 6))
    _, distances = get_distances(host.positions, expected.positions, cell=host.cell, pbc=True)
    assert (distances.min(axis=1) < 1e-10).all()
    np.testing.assert_array_equal(expected.numbers[distances.argmin(axis=1)], host.numbers)


def test_counts_densities_and_distances() -> None:
    host = hexagonal_bn(12)
    made = make_defects(host, kinds("B:0.02", "N=C:3", "B-N=C-C:2"), min_distance=6.0, seed=4)
    assert made.counts == [3, 3, 2]  # 2 % of 144
    b, c, n = (int((made.structure.numbers == z).sum()) for z in (5, 6, 7))
    assert (b, c, n) == (144 - 3 - 2, 3 + 4, 144 - 3 - 2)
    np.testing.assert_array_equal(np.diff(made.structure.numbers) != 0, np.diff(made.structure.numbers) > 0)
    groups = [site for sites in made.sites for site in sites]
    smallest = np.inf
    for one in range(len(groups)):
        for other in range(one):
            _, d = get_distances(host.positions[groups[one]], host.positions[groups[other]], cell=host.cell, pbc=True)
            smallest = min(smallest, d.min())
    assert smallest >= 6.0
    assert made.closest == pytest.approx(smallest)
    for b_site, n_site in made.sites[2]:
        assert (host.numbers[b_site], host.numbers[n_site]) == (5, 7)
        _, d = get_distances(host.positions[b_site], host.positions[n_site], cell=host.cell, pbc=True)
        assert d.item() == pytest.approx(SIDE / math.sqrt(3))


def test_a_single_defect_is_as_far_from_its_images_as_the_cell_is_wide() -> None:
    assert make_defects(hexagonal_bn(4), kinds("B:1")).closest == pytest.approx(4 * SIDE)
    assert make_defects(hexagonal_bn(9), kinds("B:1"), 20.0).closest == pytest.approx(9 * SIDE)  # 15 Å of vacuum


def test_seeds(tmp_path: Path) -> None:
    host = hexagonal_bn(8)
    first, again, other = (make_defects(host, kinds("N=C:0.1"), 3.0, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.structure.positions, again.structure.positions)
    assert not np.array_equal(first.sites[0], other.sites[0])
    write_structure(tmp_path / "host.vasp", hexagonal_bn(1))
    asked = ("host.vasp", "--repeat", "8", "8", "1", "--substitute", "N=C:0.1", "--min-distance", "3", "--seed", "1")
    run = deeph_mpi(1, "build", "defects", *asked, "--out", "made.vasp", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert "6 × C on N (9.375% of 64 sites)" in run.stdout
    np.testing.assert_allclose(read(tmp_path / "made.vasp").positions, first.structure.positions, atol=1e-8)


def test_places_are_all_alike() -> None:
    """Over many seeds every site is hit about equally often: 400 draws of 4 from 16, expected 100 ± 9."""
    host = hexagonal_bn(4)
    hits = np.bincount(
        np.concatenate([make_defects(host, kinds("B:4"), seed=seed).sites[0].ravel() for seed in range(400)]),
        minlength=32,
    )
    assert hits[16:].sum() == 0
    assert hits[:16].min() > 65
    assert hits[:16].max() < 135


@pytest.mark.parametrize(
    ("words", "distance", "message"),
    [
        (("B:0.5",), 4.0, "at most .* of 18 defects found room 4 Å apart"),
        (("B:1",), 16.0, "meets its own image closer than 16 Å"),
        (("B:37",), 0.0, "36 sites for 'vacancy of B', not 37"),
        (("B:0.001",), 0.0, "less than one defect"),
        (("C=B:1",), 0.0, "the host has no C"),
    ],
)
def test_impossible_demands_are_refused(words: tuple[str, ...], distance: float, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        make_defects(hexagonal_bn(6), kinds(*words), distance)


@pytest.mark.parametrize(
    "word", ["B", "B:0", "B:-1", "B:1.5", "B:x", "B=C", "X=C:1", "B-N=C:1", "B-N-B=C-C-C:1", "B=C:nan"]
)
def test_words_without_meaning_are_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        kinds(word)


def test_the_densest_arrangement_is_found() -> None:
    """One site in three is as dense as it gets at this distance."""
    made = make_defects(hexagonal_bn(3), kinds("B:3"), 4.0)
    assert made.closest == pytest.approx(math.sqrt(3) * SIDE)


@pytest.mark.parametrize("shift", [0.0, 11.0, -6.5])
def test_layers_whatever_the_origin(shift: float) -> None:
    made = twisted_bilayer(graphene(), 2, 1)
    moved = made.structure.positions + np.array([0.3, 0.1, shift])
    found = stacking(Structure(made.structure.numbers, moved, made.structure.cell, made.structure.pbc))
    assert found.axis == 2
    np.testing.assert_array_equal(found.layer, 1 + made.upper)
    assert np.ptp(found.heights) == pytest.approx(3.35)


def test_layers_across_another_vector() -> None:
    made = twisted_bilayer(graphene(), 2, 1)
    turn = [2, 0, 1]  # z becomes the second direction
    structure = Structure(
        made.structure.numbers,
        made.structure.positions[:, [1, 2, 0]],
        made.structure.cell[:, [1, 2, 0]][turn],
        np.ones(3, bool),
    )
    found = stacking(structure)
    assert found.axis == 0
    np.testing.assert_array_equal(found.layer, 1 + made.upper)


def test_a_bulk_crystal_is_one_layer() -> None:
    assert (
        stacking(
            Structure(
                np.full(2, 14),
                np.array([[0.0] * 3, [1.36] * 3]),
                5.43 * (np.ones((3, 3)) - np.eye(3)) / 2,
                np.ones(3, bool),
            )
        ).count
        == 1
    )
