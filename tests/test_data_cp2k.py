"""CP2K's real-space files against the bands that CP2K itself prints, and files written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigh

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.cli.main import main
from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.cp2k_files import HARTREE, basis_shells, vacuum_level
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.errors import DataError
from tests.mpi import DATA, SHARED, deeph_mpi
from tests.systems import bloch

HBN = SHARED / "data" / "cp2k_raw" / "hbn"
DZVP = OrbitalMap.from_symbols({element: [0, 0, 1, 1, 2] for element in ("B", "N", "C")})
needs_shared = pytest.mark.skipif(not HBN.is_dir(), reason="needs the shared data")


def printed_bands(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(nk, 3) k-points and (nk, n) energies in eV of CP2K's band file."""
    kpoints: list[list[float]] = []
    energies: list[list[float]] = []
    for line in path.read_text().splitlines():
        if line.startswith("#  Point"):
            kpoints.append([float(word) for word in line.split(":")[1].split()[:3]])
            energies.append([])
        elif not line.startswith("#"):
            energies[-1].append(float(line.split()[1]))
    return np.array(kpoints), np.array(energies)


@needs_shared
def test_bands_are_those_cp2k_prints() -> None:
    system = read_cp2k(HBN, shells=DZVP)
    kpoints, energies = printed_bands(HBN / "bands.bs")
    assert len(kpoints) == 25
    found = [eigh(bloch(system, "hamiltonian", k), bloch(system, "overlap", k), eigvals_only=True) for k in kpoints]
    deviation = np.abs(np.array(found) - energies)
    assert deviation[:, :10].max() < 8e-5
    assert deviation.max() < 1e-3  # states at 200 eV magnify the print threshold
    assert system.info.occupation == 8
    assert system.info.fermi_energy_eV == pytest.approx(-0.0135850284)


@needs_shared
def test_cutoff_gives_the_test_data() -> None:
    made, kept = read_cp2k(HBN, shells=DZVP, cutoff=8.0), read_system(DATA / "hbn_primitive")
    assert made.hamiltonian is not None
    assert kept.hamiltonian is not None
    np.testing.assert_array_equal(made.hamiltonian.pairs, kept.hamiltonian.pairs)
    np.testing.assert_array_equal(made.hamiltonian.entries, kept.hamiltonian.entries)
    pairs = made.overlap.pairs
    ends = made.structure.positions
    lengths = np.linalg.norm(ends[pairs[:, 4]] + pairs[:, :3] @ made.structure.cell - ends[pairs[:, 3]], axis=1)
    assert 7.5 < lengths.max() <= 8.0


def write_run(directory: Path, system: DeephSystem, moved: np.ndarray | None = None, matrices: bool = True) -> None:
    """Files as CP2K writes them for `system`, its atoms moved by lattice vectors `moved` (N, 3) in the input."""
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    images = np.unique(system.overlap.pairs[:, :3], axis=0)
    directory.mkdir()
    listing = "\n".join(f"  {n + 1} {a} {b} {c}" for n, (a, b, c) in enumerate(images))
    tables = "\n".join(
        f" {name} CSR write|  {len(images)} periodic images\n  Number X Y Z\n{listing}" for name in ("KS", "S")
    )
    header = f" Number of electrons:  8\n Number of orbital functions: {first[-1]}\n  Fermi energy:  -0.25\n"
    (directory / "run.out").write_text(header + tables + "\n")
    for name, blocks, unit in (("KS", system.hamiltonian, HARTREE), ("S", system.overlap, 1.0)) if matrices else ():
        assert blocks is not None
        files: dict[tuple[int, ...], list[str]] = {tuple(image): [] for image in images.tolist()}
        for index, (*image, i, j) in enumerate(blocks.pairs.tolist()):
            for (row, column), value in np.ndenumerate(blocks.block(index, orbitals) / unit):
                if abs(value) > 1e-10:
                    files[tuple(image)].append(f"{first[i] + row + 1} {first[j] + column + 1} {value:.17e}")
        for n, image in enumerate(files):
            (directory / f"run-{name}_SPIN_1_R_{n + 1}-1_0.csr").write_text("\n".join(files[image]))
    positions = system.structure.positions + (0 if moved is None else moved @ system.structure.cell)
    symbols = {5: "B", 7: "N", 6: "C"}
    atoms = "\n".join(
        f"{symbols[z]} {x} {y} {h}"
        for z, (x, y, h) in zip(system.structure.numbers.tolist(), positions.tolist(), strict=True)
    )
    vectors = "\n".join(
        f"{name} {x} {y} {z}" for name, (x, y, z) in zip("ABC", system.structure.cell.tolist(), strict=True)
    )
    kinds = "".join(f"&KIND {symbol}\nBASIS_SET DZVP-TEST\n&END\n" for symbol in ("B", "N"))
    (directory / "in.inp").write_text(
        f"&FORCE_EVAL\n&DFT\nBASIS_SET_FILE_NAME MY_BASIS\n&END\n&SUBSYS\n&CELL\n{vectors}\n&END CELL\n"
        f"&COORD\n{atoms}\n&END\n{kinds}&END\n&END\n"
    )
    (directory / "MY_BASIS").write_text(
        "".join(
            f"{symbol} DZVP-TEST  # comment\n 1\n 2 0 2 2 2 2 1\n 1.0 1 1 1 1 1\n 0.5 1 1 1 1 1\n"
            for symbol in ("B", "N")
        )
    )


@pytest.fixture
def hbn(tmp_path: Path) -> DeephSystem:
    """The test data, atoms wrapped into the centred cell as CP2K counts images."""
    return read_system(DATA / "hbn_primitive")


def test_files_written_by_hand_are_read_back(tmp_path: Path, hbn: DeephSystem) -> None:
    """Basis file, geometry, hartree, 1-based indices, atoms given outside the centred cell."""
    write_run(tmp_path / "run", hbn, moved=np.array([[2, -1, 0], [0, 3, 1]]))
    system = read_cp2k(tmp_path / "run")
    assert system.hamiltonian is not None
    assert hbn.hamiltonian is not None
    bond, expected = (one.structure.positions[1] - one.structure.positions[0] for one in (system, hbn))
    np.testing.assert_allclose(bond, expected, atol=1e-12)
    np.testing.assert_array_equal(system.hamiltonian.pairs, hbn.hamiltonian.pairs)
    np.testing.assert_allclose(system.hamiltonian.entries, hbn.hamiltonian.entries, atol=1e-8)
    np.testing.assert_allclose(system.overlap.entries, hbn.overlap.entries, atol=1e-8)
    assert system.info.orbital_map == hbn.info.orbital_map
    assert system.info.fermi_energy_eV == pytest.approx(-0.25 * HARTREE)


@pytest.mark.parametrize("noise", [-1e-12, 1e-12])
def test_atoms_on_the_face_of_the_cell(tmp_path: Path, hbn: DeephSystem, noise: float) -> None:
    """At z = c/2 rounding decides to which side CP2K wraps each atom: the overlaps tell, whatever the input's digits."""
    positions = hbn.structure.positions.copy()
    assert np.abs(np.abs(positions[:, 2] / hbn.structure.cell[2, 2]) - 0.5).max() < 1e-9
    positions[0, 2] += noise
    write_run(tmp_path / "run", replace(hbn, structure=replace(hbn.structure, positions=positions)))
    system = read_cp2k(tmp_path / "run")
    assert abs(system.structure.positions[0, 2] - system.structure.positions[1, 2]) < 1e-6


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "output": (lambda p: (p / "run.out").unlink(), "no output file"),
    "input": (lambda p: (p / "in.inp").unlink(), "exactly one .inp"),
    "basis": (lambda p: (p / "MY_BASIS").unlink(), "was not found in"),
    "file": (lambda p: (p / "run-S_SPIN_1_R_3-1_0.csr").unlink(), "S file of image 3 is missing"),
    "csr": (lambda p: (p / "run-S_SPIN_1_R_3-1_0.csr").write_text("1 2\n"), "row, column, value"),
    "text": (lambda p: (p / "run-S_SPIN_1_R_3-1_0.csr").write_text("a b c\n"), "cannot read"),
    "index": (lambda p: (p / "run-S_SPIN_1_R_3-1_0.csr").write_text("1 27 0.5\n"), "indices in 1…26"),
    "spin": (lambda p: (p / "run-KS_SPIN_2_R_1-1_0.csr").write_text(""), "spin-polarized"),
    "scf": (lambda p: _edit(p / "run.out", "Fermi", "*** SCF run NOT converged ***\nFermi"), "did not converge"),
    "images": (lambda p: _edit(p / "run.out", " S CSR write", "nothing"), "lists no images of S"),
    "orbitals": (lambda p: _edit(p / "run.out", "functions: 26", "functions: 30"), "30 orbitals"),
    "atom": (lambda p: _edit(p / "in.inp", "\nB -", "\nXy -"), "unknown elements"),
    "cell": (lambda p: _edit(p / "in.inp", "\nB 1", "\nQ 1"), "vectors A, B and C"),
}


def _edit(path: Path, pattern: str, text: str) -> None:
    before = path.read_text()
    after = re.sub(pattern, text, before, count=1)
    assert after != before
    path.write_text(after)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(tmp_path: Path, hbn: DeephSystem, damage: str) -> None:
    write_run(tmp_path / "run", hbn)
    act, message = DAMAGES[damage]
    act(tmp_path / "run")
    with pytest.raises(DataError, match=message):
        read_cp2k(tmp_path / "run")


def test_geometry_of_another_run_is_refused(tmp_path: Path, hbn: DeephSystem) -> None:
    """Images counted from atoms one cell away from where the input has them."""
    positions = hbn.structure.positions.copy()
    positions[1] += hbn.structure.cell[0] * 0.8
    write_run(tmp_path / "run", replace(hbn, structure=replace(hbn.structure, positions=positions)))
    with pytest.raises(DataError, match="not point along their bond"):
        read_cp2k(tmp_path / "run")


def test_shells_follow_sets_then_l(tmp_path: Path) -> None:
    (tmp_path / "B").write_text(
        "C OTHER\n 1\n 1 0 0 1 1\n 1 1\nC TWO-SETS ALIAS\n 2\n 2 0 1 1 2 1\n 1 1 1 1\n 3 2 2 1 1\n 1 1\n"
    )
    assert basis_shells("C", "ALIAS", [tmp_path / "none", tmp_path / "B"]) == [0, 0, 1, 2]


def write_cube(path: Path, cell: np.ndarray, values: np.ndarray, atoms: np.ndarray) -> None:
    bohr = 0.529177210903
    lines = ["", "", f"{len(atoms)} 0 0 0"]
    lines += [
        f"{n} {x} {y} {z}"
        for n, (x, y, z) in zip(values.shape, cell / bohr / np.array(values.shape)[:, None], strict=True)
    ]
    lines += [f"6 4.0 {x} {y} {z}" for x, y, z in atoms / bohr]
    lines += [" ".join(f"{value:.8e}" for value in row) for row in values.reshape(-1, values.shape[-1])]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("height", [0.0, 7.5])
def test_vacuum_level_is_the_plane_farthest_from_the_sheet(tmp_path: Path, height: float) -> None:
    cell = np.diag([3.0, 3.0, 20.0])
    z = np.arange(40) / 40
    potential = np.cos(2 * np.pi * (z - height / 20))  # lowest half a cell from the sheet
    values = potential + np.random.default_rng(0).normal(0, 1e-3, (4, 4, 1)) * 0
    write_cube(tmp_path / "a.cube", cell, np.broadcast_to(values, (4, 4, 40)), np.array([[0, 0, height]]))
    level = vacuum_level(tmp_path / "a.cube", np.array([[0, 0, height / 20]]))
    assert level == pytest.approx(-HARTREE)
    assert vacuum_level(tmp_path / "a.cube", np.array([[0, 0, 0], [0, 0, 0.33], [0, 0, 0.66]])) is None
    (tmp_path / "b.cube").write_text((tmp_path / "a.cube").read_text()[:-100])
    with pytest.raises(DataError, match="cube"):
        vacuum_level(tmp_path / "b.cube", np.zeros((1, 3)))


def run(*arguments: str) -> int:
    """The command line in this process; returns its exit code."""
    try:
        main(list(arguments))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_command_converts(tmp_path: Path, hbn: DeephSystem, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path / "run", hbn)
    raw, out, legacy, again = (str(tmp_path / name) for name in ("run", "out", "legacy", "again"))
    assert run("convert", "cp2k", raw, out, "--cutoff", "6", "--dtype", "float32", "--compress") == 0
    assert "2 atoms, 26 orbitals" in capsys.readouterr().out
    system = read_system(out)
    assert system.overlap.entries.dtype == np.float32
    assert run("convert", "to-legacy", out, legacy) == 0
    assert run("convert", "legacy", legacy, again) == 0
    np.testing.assert_array_equal(read_system(again).overlap.entries, system.overlap.entries)
    (tmp_path / "run" / "MY_BASIS").unlink()
    assert run("convert", "cp2k", raw, out) != 0
    shells = ("--shells", "B=0,0,1,1,2", "--shells", "N=0,0,1,1,2")
    assert run("convert", "cp2k", raw, out, *shells) == 0
    np.testing.assert_array_equal(read_system(out).overlap.pairs, hbn.overlap.pairs)
    capsys.readouterr()
    assert run("convert", "cp2k", raw, out, "--shells", "B=s,p") == 2
    assert run("convert", "cp2k", raw, out, "--cutoff", "-1") == 2
    assert "--cutoff must be positive" in capsys.readouterr().err


def test_command_fails_with_one_message_on_three_ranks(tmp_path: Path) -> None:
    done = deeph_mpi(3, "convert", "cp2k", str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert done.returncode != 0
    assert done.stdout.count("does not exist") == 1
    assert "Traceback" not in done.stdout
