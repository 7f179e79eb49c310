"""Which inversions and twofold axes a crystal has, as far as k-points are concerned."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2

from deeph_mpi.domain.reversal import Reversal, find_reversals
from deeph_mpi.structure.structure import Structure
from deeph_mpi.structure.twist import graphene, twisted_bilayer


def of(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers.astype(np.int64), atoms.positions, np.array(atoms.cell), np.array(atoms.pbc))


def vacancy(atoms: Atoms, index: int) -> Atoms:
    del atoms[index]
    return atoms


def check(structure: Structure, found: Reversal) -> None:
    """Every atom lies where the operation takes its partner, and the operation undoes itself."""
    image = structure.positions * found.signs + found.translation
    there = structure.positions[found.partner] + found.shift @ structure.cell
    np.testing.assert_allclose(image, there, atol=1e-3)
    np.testing.assert_array_equal(structure.numbers, structure.numbers[found.partner])
    np.testing.assert_allclose(structure.cell * found.signs, found.lattice @ structure.cell, atol=1e-3)
    assert not (found.shift @ found.lattice + found.shift[found.partner]).any()


CASES = {
    "rotated about an atom, D3": (twisted_bilayer(graphene(), 2, 1).structure, {"C2x"}),
    "rotated about a hexagon, D6": (
        twisted_bilayer(graphene(), 2, 1, centre="hexagon").structure,
        {"C2x", "C2y", "C2z"},
    ),
    "shifted, without axes": (twisted_bilayer(graphene(), 2, 1, translation=(0.4, 0.1)).structure, set()),
    "AB rotated about a hexagon of the lower layer, D3": (
        twisted_bilayer(graphene(), 3, 1, centre="hexagon", stacking="AB").structure,
        {"C2x"},
    ),
    "MoS2": (of(mx2(vacuum=10)), {"C2y"}),
    "silicon": (of(bulk("Si")), {"inversion", "C2x", "C2y", "C2z"}),
    "silicon, one atom missing": (of(vacancy(bulk("Si", cubic=True) * (3, 3, 3), 100)), {"C2x", "C2y", "C2z"}),
    "magnesia, one atom missing": (
        of(vacancy(bulk("MgO", "rocksalt", a=4.2) * (3, 3, 3), 5)),
        {"inversion", "C2x", "C2y", "C2z"},
    ),
    "slab": (of(Atoms("CO2", [[0, 0, 5], [1, 0.3, 6], [-1, -0.3, 4]], cell=[4, 4, 0], pbc=(1, 1, 0))), {"inversion"}),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name: str) -> None:
    structure, expected = CASES[name]
    found = find_reversals(structure)
    assert {one.name for one in found} == expected
    for one in found:
        check(structure, one)


def test_moved_atoms_are_found_within_the_tolerance() -> None:
    structure = CASES["rotated about a hexagon, D6"][0]
    rng = np.random.default_rng(2)
    for scale, there in ((1e-4, True), (0.02, False)):
        moved = structure.positions + rng.normal(0, scale, structure.positions.shape)
        found = find_reversals(Structure(structure.numbers, moved, structure.cell, structure.pbc))
        assert any(one.name == "C2z" for one in found) == there


def test_no_screw_axis() -> None:
    """Twice a half-lattice shift is no identity: such an operation makes nothing real at the zone boundary."""
    structure = of(
        Atoms("CNCN", [[1, 0.5, 1], [0.3, 1.1, 1.4], [-1, -0.5, 4], [-0.3, -1.1, 4.4]], cell=[5, 6, 6], pbc=True)
    )
    assert "C2z" not in {one.name for one in find_reversals(structure)}
