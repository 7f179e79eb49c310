"""Structures from and to files: what is read is what was written, and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from deeph_mpi.cli.main import main
from deeph_mpi.errors import StructureError
from deeph_mpi.structure.read import read_structure, write_structure
from deeph_mpi.structure.structure import Structure, element_order

CELL = np.array([[3.0, 0.0, 0.0], [0.5, 4.0, 0.0], [0.1, 0.2, 5.0]])


def sample(pbc: tuple[bool, bool, bool] = (True, True, True)) -> Structure:
    positions = np.array([[0.1, 0.2, 0.3], [1.6, 0.1, -1.0], [7.0, 2.0, 2.5]])  # two of them outside the cell
    return Structure(np.array([6, 7, 6]), positions, CELL, np.array(pbc))


@pytest.mark.parametrize("name", ["POSCAR", "a.vasp", "a.extxyz"])
def test_round_trip_keeps_order_and_images(tmp_path: Path, name: str) -> None:
    write_structure(tmp_path / name, sample())
    read = read_structure(tmp_path / name)
    np.testing.assert_array_equal(read.numbers, [6, 7, 6])
    atol = 1e-7 if name.endswith("xyz") else 1e-14
    np.testing.assert_allclose(read.positions, sample().positions, atol=atol)
    np.testing.assert_allclose(read.cell, CELL, atol=atol)
    assert read.pbc.all()
    assert read.numbers.dtype == np.int64
    assert read.positions.dtype == read.cell.dtype == np.float64
    assert not list(tmp_path.glob("*.tmp"))


def test_cif_keeps_the_crystal(tmp_path: Path) -> None:
    """CIF knows lengths and angles only: distances are the same."""
    write_structure(tmp_path / "a.cif", sample())
    read = read_structure(tmp_path / "a.cif")
    distances = []
    for one in (read, sample()):
        found = neighbor_list("d", Atoms(one.numbers, one.positions, cell=one.cell, pbc=one.pbc), 5.0)
        distances.append(np.sort(found))
    np.testing.assert_allclose(*distances, atol=1e-5)


def test_last_or_chosen_frame(tmp_path: Path) -> None:
    for number in (0, 1):
        moved = sample().positions + number
        write_structure(tmp_path / f"{number}.extxyz", Structure(sample().numbers, moved, CELL, sample().pbc))
    (tmp_path / "both.extxyz").write_text("".join((tmp_path / f"{n}.extxyz").read_text() for n in (0, 1)))
    assert read_structure(tmp_path / "both.extxyz").positions[0, 0] == pytest.approx(1.1)
    assert read_structure(tmp_path / "both.extxyz", index=0).positions[0, 0] == pytest.approx(0.1)
    with pytest.raises(StructureError, match="cannot read"):
        read_structure(tmp_path / "both.extxyz", index=7)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False), (False, True, False)])
def test_missing_vectors_are_padded(tmp_path: Path, pbc: tuple[bool, bool, bool]) -> None:
    """The cell is never singular, pads are orthogonal to the rest and clear the atoms, pbc stays."""
    cell = CELL * np.array(pbc)[:, None]
    write_structure(tmp_path / "a.extxyz", Structure(sample().numbers, sample().positions, cell, np.array(pbc)))
    read = read_structure(tmp_path / "a.extxyz")
    np.testing.assert_array_equal(read.pbc, pbc)
    np.testing.assert_allclose(read.cell[list(pbc)], CELL[list(pbc)], atol=1e-7)
    for axis in np.flatnonzero(~np.array(pbc)):
        others = np.delete(read.cell, axis, axis=0)
        np.testing.assert_allclose(others @ read.cell[axis], 0, atol=1e-6)
        along = read.positions @ (read.cell[axis] / np.linalg.norm(read.cell[axis]))
        assert np.linalg.norm(read.cell[axis]) > np.ptp(along) + 10
    assert np.linalg.det(read.cell) > 1.0


def test_plain_xyz_is_a_molecule(tmp_path: Path) -> None:
    (tmp_path / "h2.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    read = read_structure(tmp_path / "h2.xyz")
    assert not read.pbc.any()
    assert np.linalg.det(read.cell) > 0


POSCAR = "x\n1.0\n{cell}\nC\n2\nCartesian\n{atoms}\n"
GOOD = "3 0 0\n0 3 0\n0 0 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (POSCAR.format(cell=GOOD, atoms="0 0 0\nnan 1 1"), "position of atom 1 is not finite"),
        (POSCAR.format(cell=GOOD.replace("3", "nan", 1), atoms="0 0 0\n1 1 1"), "lattice vector 0 is not finite"),
        (POSCAR.format(cell="3 0 0\n6 0 0\n0 0 3", atoms="0 0 0\n1 1 1"), "singular"),
        (POSCAR.format(cell=GOOD, atoms="0 0 0\n0 0 0.3"), r"atoms 0 \(C\) and 1 \(C\) are only 0\.300 Å apart"),
        (POSCAR.format(cell=GOOD, atoms="0 0 0\n0 0 2.9"), r"atoms 0 \(C\) and 1 \(C\) are only 0\.100 Å"),
        (POSCAR.format(cell="0.4 0 0\n0 3 0\n0 0 3", atoms="0 0 0\n0 1 1"), r"0\.400 Å apart"),
        (POSCAR.format(cell=GOOD, atoms="0 0 0"), "cannot read"),
        ("", "cannot read"),
        ("what is this\n", "cannot read"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "POSCAR").write_text(text)
    with pytest.raises(StructureError, match=message) as caught:
        read_structure(tmp_path / "POSCAR")
    assert str(tmp_path / "POSCAR") in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="does not exist"):
        read_structure(tmp_path / "nope.vasp")
    with pytest.raises(StructureError, match="does not exist"):
        read_structure(tmp_path)
    (tmp_path / "no.xyz").write_text("0\n\n")
    with pytest.raises(StructureError, match=r"no atoms|cannot read"):
        read_structure(tmp_path / "no.xyz")
    with pytest.raises(StructureError, match="format"):
        write_structure(tmp_path / "a.dat", sample())


def test_images_closer_than_half_an_angstrom_only_where_periodic(tmp_path: Path) -> None:
    near = Structure(
        np.array([6, 6]), np.array([[0, 0, 0.1], [0, 0, 4.8]]), np.diag([4.0, 4.0, 5.0]), np.array([True] * 3)
    )
    write_structure(tmp_path / "a.extxyz", near)
    with pytest.raises(StructureError, match="apart"):
        read_structure(tmp_path / "a.extxyz")
    open_end = Structure(near.numbers, near.positions, near.cell, np.array([True, True, False]))
    write_structure(tmp_path / "a.extxyz", open_end)
    assert not read_structure(tmp_path / "a.extxyz").pbc[2]


def test_element_order_is_stable() -> None:
    np.testing.assert_array_equal(element_order(np.array([7, 5, 7, 6, 5])), [0, 2, 1, 4, 3])


def run(*arguments: str) -> int:
    """The command line in this process; returns its exit code."""
    try:
        main(["build", "twist", *arguments])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_build_twist_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "moire.vasp"
    assert run("--m", "4", "--r", "1", "--distance", "3.4", "--vacuum", "10", "--out", str(out)) == 0
    assert "244 atoms, twist 7.3410°" in capsys.readouterr().out
    assert len(read_structure(out)) == 244
    assert read_structure(out).cell[2, 2] == pytest.approx(13.4)
    mono, twisted = tmp_path / "mono.vasp", tmp_path / "twisted.extxyz"
    cell = np.array([[2.504, 0, 0], [1.252, 2.504 * 0.75**0.5, 0], [0, 0, 10.0]])
    places = np.array([[0, 0, 5.0], [0, 2.504 / 3**0.5, 5.0]])
    write_structure(mono, Structure(np.array([5, 7]), places, cell, np.ones(3, bool)))
    assert run("--m", "1", "--r", "1", "--monolayer", str(mono), "--stacking", "AB", "--out", str(twisted)) == 0
    assert np.bincount(read_structure(twisted).numbers)[[5, 7]].tolist() == [14, 14]
    assert run("--m", "4", "--r", "2", "--out", str(out)) == 1
    assert "common divisor" in capsys.readouterr().err
    assert run("--m", "4", "--r", "1", "--monolayer", str(tmp_path / "no"), "--out", str(out)) == 1
    assert run("--m", "4", "--r", "1", "--distance", "-3", "--out", str(out)) == 1
