"""Orders and signs of orbitals: polynomials, the bond-frame test on real overlaps, and round trips of the legacy layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.linalg import block_diag

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.conventions import CONVENTIONS, orbital_change
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import in_users_order, read_system, write_system
from deeph_mpi.data.legacy import read_legacy, write_legacy
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure
from tests.mpi import DATA, SHARED
from tests.systems import random_system

LEGACY = SHARED / "fixtures" / "legacy_MoTe2"
ABACUS = SHARED / "fixtures" / "abacus_MoS2"


pytestmark = pytest.mark.usefixtures("in_double")


def rotations_onto_z(vectors: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations that take each vector onto the z axis."""
    z = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    x = np.cross(z, np.eye(3)[np.argmin(np.abs(z), axis=1)])
    x /= np.linalg.norm(x, axis=1)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=1)


def off_diagonal(structure: Structure, orbital_map: OrbitalMap, overlap: BlockSet) -> float:
    """Largest overlap between different m in the frame of the bond, over all bonds.

    Wigner matrices are e3nn's, whose basis becomes ours when Cartesian axes are renamed (y, z, x).
    """
    orbitals = orbital_map.orbitals(structure.numbers)
    images, i, j = overlap.pairs[:, :3], overlap.pairs[:, 3], overlap.pairs[:, 4]
    bonds = structure.positions[j] + images @ structure.cell - structure.positions[i]
    hopping = np.flatnonzero(np.linalg.norm(bonds, axis=1) > 0.1)
    turns = torch.tensor(rotations_onto_z(bonds[hopping])[:, [1, 2, 0]][:, :, [1, 2, 0]])
    angles = o3.matrix_to_angles(turns)
    wigner = [o3.Irrep(li, 1).D_from_angles(*angles).numpy() for li in range(orbital_map.l_max + 1)]
    worst = 0.0
    for row, index in enumerate(hopping):
        shells = [orbital_map.shells[int(structure.numbers[atom])] for atom in (i[index], j[index])]
        left, right = (block_diag(*(wigner[li][row] for li in ls)) for ls in shells)
        turned = left @ overlap.block(index, orbitals) @ right.T
        m_left, m_right = (np.concatenate([np.arange(-li, li + 1) for li in ls]) for ls in shells)
        worst = max(worst, np.abs(turned[m_left[:, None] != m_right]).max(initial=0))
    return worst


# What OpenMX's manual calls its orbitals, up to positive factors.
OPENMX: dict[int, list[Callable[..., np.ndarray]]] = {
    1: [lambda x, y, z: x, lambda x, y, z: y, lambda x, y, z: z],
    2: [
        lambda x, y, z: 3 * z * z - 1,
        lambda x, y, z: x * x - y * y,
        lambda x, y, z: x * y,
        lambda x, y, z: x * z,
        lambda x, y, z: y * z,
    ],
    3: [
        lambda x, y, z: z * (5 * z * z - 3),
        lambda x, y, z: x * (5 * z * z - 1),
        lambda x, y, z: y * (5 * z * z - 1),
        lambda x, y, z: z * (x * x - y * y),
        lambda x, y, z: x * y * z,
        lambda x, y, z: x * (x * x - 3 * y * y),
        lambda x, y, z: y * (3 * x * x - y * y),
    ],
}


@pytest.mark.parametrize("li", [1, 2, 3])
def test_openmx_order_by_its_polynomials(li: int) -> None:
    """Our orbital q is their polynomial number order[q], with a positive factor."""
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=1, keepdim=True)
    ours = o3.spherical_harmonics(li, points[:, [1, 2, 0]], normalize=False).numpy()
    x, y, z = points.numpy().T
    table = CONVENTIONS["openmx"]
    for q, (position, sign) in enumerate(zip(table.order[li], table.sign[li], strict=True)):
        theirs = sign * OPENMX[li][position](x, y, z)
        np.testing.assert_allclose(ours[:, q] / theirs, (ours[:, q] / theirs)[0], rtol=1e-9)
        assert (ours[:, q] / theirs)[0] > 0


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_is_a_signed_permutation(name: str) -> None:
    table = CONVENTIONS[name]
    for li, order in table.order.items():
        assert sorted(order) == list(range(2 * li + 1))
        assert set(table.sign[li]) <= {1, -1}
        assert len(table.sign[li]) == 2 * li + 1


@pytest.mark.skipif(not LEGACY.is_dir(), reason="needs the shared fixtures")
def test_legacy_overlaps_in_bond_frames() -> None:
    system = read_legacy(LEGACY)
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < 1e-9
    assert system.info.fermi_energy_eV == pytest.approx(-4.19347529)
    # the test can fail: with OpenMX's order left as it is, p and d do not turn like vectors and tensors
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    shuffled = BlockSet(system.overlap.pairs, system.overlap.offsets, system.overlap.entries.copy())
    changes = [orbital_change("openmx", system.info.orbital_map, int(z))[0] for z in system.structure.numbers]
    for index, (i, j) in enumerate(shuffled.pairs[:, 3:]):
        shuffled.block(index, orbitals)[np.ix_(changes[i], changes[j])] = system.overlap.block(index, orbitals)
    assert off_diagonal(system.structure, system.info.orbital_map, shuffled) > 0.1


@pytest.mark.parametrize("name", ["hbn_primitive", "hbn_c"])
def test_cp2k_overlaps_in_bond_frames(name: str) -> None:
    """CP2K's orbitals are in our order and signs (float32 data: rounding of elements up to 1)."""
    system = read_system(DATA / name, hamiltonian=False)
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < (1e-8 if "prim" in name else 3e-7)


@pytest.mark.skipif(not ABACUS.is_dir(), reason="needs the shared fixtures")
def test_abacus_overlaps_in_bond_frames() -> None:
    """ABACUS's own overlap matrix, with orbitals reordered by its convention."""
    shells = OrbitalMap.from_symbols({"Mo": [0] * 4 + [1] * 2 + [2] * 2 + [3], "S": [0] * 2 + [1] * 2 + [2]})
    structure = _abacus_structure()
    orbitals = shells.orbitals(structure.numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    changes = [orbital_change("abacus", shells, int(z)) for z in structure.numbers]
    pairs, entries = [], []
    for image, matrix in _abacus_overlaps(first[-1]):
        for i in range(3):
            for j in range(3):
                (rows, row_signs), (columns, column_signs) = changes[i], changes[j]
                block = matrix[first[i] : first[i + 1], first[j] : first[j + 1]][np.ix_(rows, columns)]
                if np.abs(block).max() > 0:
                    pairs.append([*image, i, j])
                    entries.append((row_signs[:, None] * block * column_signs).ravel())
    offsets = np.append(0, np.cumsum([len(part) for part in entries]))
    overlap = BlockSet(np.array(pairs), offsets, np.concatenate(entries))
    assert len(overlap) > 100
    assert off_diagonal(structure, shells, overlap) < 1e-6


def _abacus_structure() -> Structure:
    """From the log and STRU: vectors and Cartesian atoms in units of the lattice constant."""
    lines = (ABACUS / "OUT.ABACUS" / "running_scf.log").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if "Lattice vectors" in line) + 1
    constant = 5.9716 * 0.529177210903
    cell = np.array([line.split() for line in lines[at : at + 3]], dtype=float) * constant
    places = [line.split() for line in (ABACUS / "STRU").read_text().splitlines() if line.endswith(" 0 0 0")]
    positions = np.array([words[:3] for words in places], dtype=float) * constant
    return Structure(np.array([42, 16, 16]), positions, cell, np.ones(3, dtype=bool))


def _abacus_overlaps(size: int) -> list[tuple[list[int], np.ndarray]]:
    lines = (ABACUS / "OUT.ABACUS" / "data-SR-sparse_SPIN0.csr").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if "Matrix number" in line) + 1
    matrices = []
    while at < len(lines):
        *image, count = map(int, lines[at].split())
        at += 1
        if count == 0:
            continue
        values, columns, rows = (np.array(lines[at + n].split()) for n in range(3))
        at += 3
        matrix = np.zeros((size, size))
        matrix[np.repeat(np.arange(size), np.diff(rows.astype(int))), columns.astype(int)] = values.astype(float)
        matrices.append((image, matrix))
    return matrices


@pytest.mark.skipif(not LEGACY.is_dir(), reason="needs the shared fixtures")
def test_legacy_to_deeph_and_back(tmp_path: Path) -> None:
    """Files written from what was read hold the same blocks, up to the asymmetry of OpenMX's own."""
    write_system(tmp_path / "deeph", read_legacy(LEGACY))
    write_legacy(tmp_path / "legacy", read_system(tmp_path / "deeph"))
    for name in ("overlaps.h5", "hamiltonians.h5"):
        with h5py.File(LEGACY / name) as ours, h5py.File(tmp_path / "legacy" / name) as theirs:
            assert set(ours) == set(theirs)
            assert max(np.abs(ours[key][()] - theirs[key][()]).max() for key in ours) < 1e-8
    for name in ("element.dat", "lat.dat", "rlat.dat", "site_positions.dat", "orbital_types.dat"):
        np.testing.assert_allclose(np.loadtxt(tmp_path / "legacy" / name), np.loadtxt(LEGACY / name), atol=1e-9)


@pytest.mark.parametrize("spinful", [False, True])
def test_round_trip_to_the_bit(tmp_path: Path, spinful: bool) -> None:
    system = random_system(1, spinful=spinful)
    write_system(tmp_path / "deeph", system)
    write_legacy(tmp_path / "legacy", read_system(tmp_path / "deeph"))
    back = in_users_order(read_legacy(tmp_path / "legacy"))
    np.testing.assert_array_equal(back.structure.numbers, system.structure.numbers)
    np.testing.assert_allclose(back.structure.positions, system.structure.positions, atol=1e-14)
    for ours, theirs in ((system.overlap, back.overlap), (system.hamiltonian, back.hamiltonian)):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.pairs, theirs.pairs)
        np.testing.assert_array_equal(ours.entries, theirs.entries)
    assert (tmp_path / "legacy" / "orbital_types.dat").read_text().splitlines()[0] == "0 0 1 1 2"
    with h5py.File(tmp_path / "legacy" / "overlaps.h5") as file:
        assert system.hamiltonian is not None
        sizes = system.info.orbital_map.orbitals(system.structure.numbers)
        ours = system.overlap.block(int(np.flatnonzero((system.overlap.pairs == 0).all(axis=1))[0]), sizes)
        theirs = file["[0, 0, 0, 1, 1]"][()]
    np.testing.assert_array_equal(theirs[2, 2:5], ours[4, [4, 2, 3]])  # p: (x, y, z) there, (y, z, x) here


def _drop(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["[0, 0, 0, 2, 2]"]


def _put(path: Path, key: str, values: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        file[key] = values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "lat.dat").unlink(), "no lat.dat"),
        (lambda p: (p / "site_positions.dat").write_text("1 2\n3 4\n5 6\n"), "3 rows of 7"),
        (lambda p: (p / "site_positions.dat").write_text("1 2\n3\n"), "cannot read"),
        (lambda p: (p / "orbital_types.dat").write_text("0 1\n"), "1 lines for 7 atoms"),
        (lambda p: (p / "info.json").write_text(json.dumps({})), "isspinful"),
        (lambda p: (p / "hamiltonians.h5").write_text("x"), "not an HDF5 file"),
        (lambda p: (p / "overlaps.h5").unlink(), "does not exist"),
        (lambda p: _put(p / "overlaps.h5", "[0, 0, 0, 1, 9]", np.zeros((13, 9))), "atom outside 1…7"),
        (lambda p: _put(p / "overlaps.h5", "[0, 0, 1]", np.zeros((13, 9))), "not of the form"),
        (lambda p: _put(p / "overlaps.h5", "[0, 0, 0, 1, 1]", np.zeros((13, 9))), "has shape"),
        (lambda p: _put(p / "overlaps.h5", "[0, 0, 0, 1, 1]", np.full((13, 13), np.nan)), "finite"),
        (lambda p: _put(p / "hamiltonians.h5", "[0, 0, 5, 1, 1]", np.eye(13)), "no Hermitian partner"),
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_legacy(tmp_path, random_system(2))
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        read_legacy(tmp_path)
