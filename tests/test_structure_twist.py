"""Twisted bilayers: counts and angles of the closed form, and every atom where the crystal puts it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from deeph_mpi.errors import StructureError
from deeph_mpi.structure.coincidence import coincidence
from deeph_mpi.structure.structure import Structure
from deeph_mpi.structure.twist import graphene, twisted_bilayer


def neighbours(structure: Structure, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """i, j, distances and vectors of all directed pairs."""
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    return neighbor_list("ijdD", atoms, cutoff)


@pytest.mark.parametrize(("m", "r", "atoms"), [(3, 1, 148), (4, 1, 244), (1, 1, 28), (30, 1, 11164), (31, 1, 11908)])
def test_graphene_counts(m: int, r: int, atoms: int) -> None:
    made = twisted_bilayer(graphene(), m, r)
    cosine = (3 * m * m + 3 * m * r + r * r / 2) / (3 * m * m + 3 * m * r + r * r)
    assert len(made.structure) == atoms == 4 * (3 * m * m + 3 * m * r + r * r)
    assert made.upper.sum() == atoms // 2
    assert math.cos(math.radians(made.angle)) == pytest.approx(cosine, abs=1e-14)


@pytest.mark.parametrize(("m", "r"), [(1, 1), (3, 1), (2, 3), (1, 3), (5, 2), (7, 6)])
@pytest.mark.parametrize("stacking", ["AA", "AB"])
def test_graphene_geometry(m: int, r: int, stacking: str) -> None:
    """Each layer is graphene at its density, turned by the angle; the cell has the literature's side."""
    made = twisted_bilayer(graphene(), m, r, distance=3.4, vacuum=18.0, stacking=stacking, translation=(0.3, -7.0))
    structure = made.structure
    count = 4 * (3 * m * m + 3 * m * r + r * r) // (3 if r % 3 == 0 else 1)
    assert len(structure) == count
    i, j, distance, bonds = neighbours(structure, 1.6)
    np.testing.assert_array_equal(np.bincount(i, minlength=count), 3)
    np.testing.assert_allclose(distance, 2.46 / math.sqrt(3), atol=1e-9)
    np.testing.assert_array_equal(made.upper[i], made.upper[j])

    a, b, c = structure.cell
    side = 2.46 * math.sqrt(count / 4)
    assert np.linalg.norm(a) == pytest.approx(side)
    assert np.linalg.norm(b) == pytest.approx(side)
    assert a @ b / side**2 == pytest.approx(0.5)  # 60°, as in the literature
    assert c[2] == pytest.approx(3.4 + 18.0)
    heights = structure.positions[:, 2]
    assert np.ptp(heights[~made.upper]) == np.ptp(heights[made.upper]) == 0
    assert heights[made.upper][0] - heights[~made.upper][0] == pytest.approx(3.4)

    directions = np.degrees(np.arctan2(bonds[:, 1], bonds[:, 0]))
    turn = (directions[made.upper[i]][0] - directions[~made.upper[i]][0]) % 60
    angle = made.angle % 60
    assert min(abs(turn - angle), abs(turn - angle - 60), abs(turn - angle + 60)) < 1e-6


@pytest.mark.parametrize("stacking", ["AA", "AB"])
def test_center_of_a_hexagon(stacking: str) -> None:
    """The same layers at the same twist, with the axis where no atom is; of AA both layers have a hexagon there."""
    atom, hexagon = (twisted_bilayer(graphene(), 3, 1, stacking=stacking, centre=c) for c in ("origin", "hexagon"))
    assert hexagon.angle == atom.angle
    np.testing.assert_allclose(hexagon.structure.cell, atom.structure.cell)
    _, _, distance, _ = neighbours(hexagon.structure, 1.6)
    np.testing.assert_allclose(distance, 2.46 / math.sqrt(3), atol=1e-9)
    cell = hexagon.structure.cell[:2, :2]
    for upper in (False, True):
        flat = hexagon.structure.positions[hexagon.upper == upper, :2] @ np.linalg.inv(cell)
        nearest = np.linalg.norm((flat - np.round(flat)) @ cell, axis=1).min()
        on_atom = stacking == "AB" and upper
        assert nearest == pytest.approx(0.0 if on_atom else 2.46 / math.sqrt(3), abs=1e-9)


def test_center_of_a_hexagon_needs_one() -> None:
    square = Structure(np.array([26]), np.zeros((1, 3)), np.diag([3.0, 3.0, 12.0]), np.ones(3, dtype=bool))
    with pytest.raises(StructureError, match="hexagonal lattice"):
        twisted_bilayer(square, 1, 1, distance=3.0, centre="hexagon")


def test_angle_of_magic_graphene() -> None:
    assert twisted_bilayer(graphene(), 31, 1).angle == pytest.approx(1.0501, abs=1e-4)


def hexagonal_bn(degrees: float, noise: float) -> Structure:
    cell = np.diag([2.504, 2.504, 15.0])
    cell[1, :2] = 2.504 * np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    sites = (
        np.array([[0, 0, 0.5], [1 / 3, 1 / 3, 0.5]]) if degrees == 60 else np.array([[0, 0, 0.5], [1 / 3, 2 / 3, 0.5]])
    )
    return Structure(np.array([5, 7]), sites @ cell, np.round(cell, 6) if noise else cell, np.ones(3, dtype=bool))


@pytest.mark.parametrize("degrees", [60, 120])
def test_vectors_at_either_angle_give_the_same_crystal(degrees: float) -> None:
    made = twisted_bilayer(hexagonal_bn(degrees, 1e-6), 2, 1)
    numbers = made.structure.numbers
    assert len(numbers) == 4 * 19
    np.testing.assert_array_equal(numbers, np.repeat([5, 7], 38))  # grouped, as POSCAR wants
    i, j, _, _ = neighbours(made.structure, 1.6)
    np.testing.assert_array_equal(np.bincount(i, minlength=76), 3)
    assert (numbers[i] != numbers[j]).all()


def test_square_lattice_gives_pythagorean_rotation() -> None:
    cell = np.diag([3.0, 3.0, 12.0])
    made = twisted_bilayer(
        Structure(np.array([26]), np.zeros((1, 3)), cell, np.ones(3, dtype=bool)), 1, 1, distance=3.0
    )
    assert len(made.structure) == 2 * 5
    assert math.cos(math.radians(made.angle)) == pytest.approx(4 / 5)
    i, _, distance, _ = neighbours(made.structure, 3.0 + 1e-6)
    in_layer = made.structure.positions[:, 2]
    assert (np.bincount(i) >= 4).all()
    assert np.abs(np.linalg.det(made.structure.cell[:2, :2])) == pytest.approx(5 * 9.0)
    assert len(np.unique(in_layer)) == 2
    assert distance.min() > 2.9


def test_rectangular_lattice() -> None:
    """b/a = √2: m·a ± r·b, cos θ = (m² − 2r²)/(m² + 2r²)."""
    cell = np.diag([3.0, 3.0 * math.sqrt(2), 12.0])
    made = twisted_bilayer(Structure(np.array([26]), np.zeros((1, 3)), cell, np.ones(3, dtype=bool)), 1, 1)
    assert math.cos(math.radians(made.angle)) == pytest.approx(-1 / 3)
    assert len(made.structure) == 2 * 3
    for upper in (False, True):
        layer = made.structure.positions[made.upper == upper]
        sheet = Structure(np.full(len(layer), 26), layer, made.structure.cell, np.ones(3, dtype=bool))
        i, _, distance, _ = neighbours(sheet, 3.0 * math.sqrt(2) + 1e-6)
        np.testing.assert_array_equal(np.bincount(i), 4)
        np.testing.assert_allclose(np.sort(distance), np.repeat([3.0, 3.0 * math.sqrt(2)], len(distance) // 2))


def test_centred_rectangular_lattice_is_rhombic() -> None:
    vectors = np.array([[2.0, 0.0], [1.0, 3.0 * math.sqrt(2)]])
    found = coincidence(vectors, 1, 1)
    assert np.linalg.det(found.lower) == pytest.approx(np.linalg.det(found.upper))
    basis = found.basis @ vectors
    assert np.linalg.norm(basis[0]) == pytest.approx(np.linalg.norm(basis[1]))
    turn = np.array([[math.cos(found.angle), math.sin(found.angle)], [-math.sin(found.angle), math.cos(found.angle)]])
    np.testing.assert_allclose(found.lower @ basis, found.upper @ basis @ turn, atol=1e-9)


def test_layers_coincide_exactly() -> None:
    """The same vectors from the lower lattice and, turned, from the upper one."""
    vectors = graphene().cell[:2, :2]
    for m, r in [(1, 1), (4, 1), (31, 1), (2, 3), (7, 12)]:
        found = coincidence(vectors, m, r)
        basis = found.basis @ vectors
        turn = np.array(
            [[math.cos(found.angle), math.sin(found.angle)], [-math.sin(found.angle), math.cos(found.angle)]]
        )
        np.testing.assert_allclose(found.lower @ basis, found.upper @ basis @ turn, atol=1e-8)


@pytest.mark.parametrize(
    ("cell", "m", "r", "message"),
    [
        ([[3.0, 0.0], [0.7, 4.0]], 1, 1, "no mirror lines"),
        ([[3.0, 0.0], [0.0, 3.9]], 1, 1, "not a fraction"),
        ([[2.46, 0.0], [1.23, 2.1304]], 2, 2, "common divisor"),
        ([[2.46, 0.0], [1.23, 2.1304]], 0, 1, "positive"),
    ],
)
def test_what_cannot_be_built_is_an_error(cell: list[list[float]], m: int, r: int, message: str) -> None:
    full = np.diag([0.0, 0.0, 12.0])
    full[:2, :2] = cell
    with pytest.raises(StructureError, match=message):
        twisted_bilayer(Structure(np.array([6]), np.zeros((1, 3)), full, np.ones(3, dtype=bool)), m, r)
