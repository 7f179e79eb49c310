"""SIESTA's files against what SIESTA prints, and sisl's Hamiltonians against sisl's own Bloch sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigh, eigvalsh

from deeph_mpi.data.deeph import DeephSystem, in_users_order, read_system, write_system
from deeph_mpi.data.elements import system_of
from deeph_mpi.data.siesta import read_siesta
from deeph_mpi.data.siesta_records import Records, check_hsx
from deeph_mpi.data.sisl_bridge import shells_of, split_sisl, to_sisl
from deeph_mpi.errors import DataError
from tests.faults.hand_written import write_siesta
from tests.faults.specimens import small_hbn
from tests.mpi import DATA, SHARED
from tests.systems import bloch, random_system
from tests.test_data_legacy import off_diagonal

sisl = pytest.importorskip("sisl")
SI = SHARED / "fixtures" / "siesta_Si"
needs_shared = pytest.mark.skipif(not SI.is_dir(), reason="needs the shared fixtures")


pytestmark = pytest.mark.usefixtures("in_double")


@pytest.fixture(scope="module")
def silicon() -> DeephSystem:
    return read_siesta(SI)


@needs_shared
def test_overlaps_in_bond_frames(silicon: DeephSystem) -> None:
    """Two zeta of s and p and a polarization d, all bonds; with a wrong sign it is 0.1 and more."""
    assert silicon.info.orbital_map.to_symbols() == {"Si": [0, 0, 1, 1, 2]}
    assert off_diagonal(silicon.structure, silicon.info.orbital_map, silicon.overlap) < 1e-8


@needs_shared
def test_eigenvalues_are_those_siesta_prints(silicon: DeephSystem) -> None:
    """At points of `.KP` (1/bohr); `.EIG` has ten digits of eV, SIESTA's own rounding included."""
    words = (SI / "Si.EIG").read_text().split()
    energies = np.array(words[4:], dtype=float).reshape(int(words[3]), -1)[:, 1:]
    wavevectors = np.loadtxt(SI / "Si.KP", skiprows=1)[:, 1:4]
    fractional = wavevectors @ silicon.structure.cell.T / 0.529177210903 / (2 * np.pi)
    for index in range(0, len(energies), 29):
        k = fractional[index]
        found = eigh(bloch(silicon, "hamiltonian", k), bloch(silicon, "overlap", k), eigvals_only=True)
        np.testing.assert_allclose(found, energies[index], atol=2e-4)
    assert silicon.info.fermi_energy_eV == pytest.approx(float(words[0]), abs=1e-6)
    assert silicon.info.occupation == 8


@needs_shared
def test_intels_logical_is_what_sisl_stumbles_over(tmp_path: Path) -> None:
    """Should sisl learn to read it, the copy made for it is no longer needed."""
    with pytest.raises(KeyError):
        sisl.get_sile(SI / "Si.HSX").read_hamiltonian()


@pytest.mark.parametrize("spinful", [False, True])
def test_to_sisl_and_back(spinful: bool) -> None:
    """sisl's H(k), S(k) have our eigenvalues, and taken apart again they are the same to the bit."""
    system = random_system(4, spinful=spinful)
    matrix = to_sisl(system)
    k = [0.13, -0.21, 0.4]
    theirs, ours = matrix.Hk(k, format="array"), bloch_spinor(system, k)
    np.testing.assert_allclose(eigvalsh(theirs), eigvalsh(ours), atol=1e-9)
    # the spectrum of H alone sees no exchange of S for another one
    theirs_s = matrix.Sk(k, format="array")
    ours_s = bloch(system, "overlap", k)
    np.testing.assert_allclose(
        eigvalsh(theirs_s), eigvalsh(np.kron(ours_s, np.eye(2)) if spinful else ours_s), atol=1e-9
    )
    parts = split_sisl(matrix)
    shells = shells_of(matrix.geometry.atoms)
    assert shells == system.info.orbital_map
    back = system_of(parts.structure, system.info, parts.overlap, parts.hamiltonian, convention="siesta", name="sisl")
    assert system.hamiltonian is not None
    assert back.hamiltonian is not None
    for one, other in ((system.overlap, back.overlap), (system.hamiltonian, back.hamiltonian)):
        np.testing.assert_array_equal(one.pairs, other.pairs)
        np.testing.assert_array_equal(one.entries, other.entries)


def bloch_spinor(system: DeephSystem, k: list[float]) -> np.ndarray:
    """H(k); for spinors the blocks are twice as large."""
    if not system.info.spinful:
        return bloch(system, "hamiltonian", k)
    assert system.hamiltonian is not None
    sizes = 2 * system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(sizes)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*image, i, j) in enumerate(system.hamiltonian.pairs):
        block = system.hamiltonian.block(index, sizes)
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += np.exp(2j * np.pi * np.dot(k, image)) * block
    return matrix


@needs_shared
def test_tshs_and_hsx_written_by_sisl_are_read(tmp_path: Path, silicon: DeephSystem) -> None:
    """The same matrices through both formats, shells from `.ORB_INDX` where the file has none."""
    matrix = to_sisl(silicon)
    (tmp_path / "a.ORB_INDX").write_text((SI / "Si.ORB_INDX").read_text())
    matrix.write(tmp_path / "a.TSHS")
    back = read_siesta(tmp_path)
    assert back.hamiltonian is not None
    assert silicon.hamiltonian is not None
    k = [0.1, 0.2, 0.3]
    for name in ("overlap", "hamiltonian"):
        np.testing.assert_allclose(bloch(back, name, k), bloch(silicon, name, k), atol=1e-8)


def as_version_0(newer: Records, path: Path) -> None:
    """An `.HSX` of version 2 in the layout of SIESTA to 4.0: single precision, distances instead of the geometry."""
    atoms, orbitals, spins, species, *cells = newer.read(2).tolist()
    images = int(np.prod(cells))
    cell = newer.read(3, np.float64)[:9].reshape(3, 3)
    offsets, places, kinds = np.split(newer.read(4, np.int8)[: 12 * images + 28 * atoms], [12 * images, -4 * atoms])
    offsets, places = offsets.view("i4").reshape(-1, 3), places.copy().view("f8").reshape(-1, 3)
    kinds = kinds.copy().view("i4")
    labels = newer.read(5, np.dtype("S20, f8, i4"))
    atom_of = np.repeat(np.arange(atoms), labels["f2"][kinds - 1])
    first = 7 + species
    counts, tables = newer.read(first), []
    for table, kind in enumerate(("i4", "f8", "f8")):
        tables.append([newer.read(first + 1 + table * orbitals + row, np.dtype(kind)) for row in range(orbitals)])
    columns, *matrices = tables
    records = [np.array([orbitals, orbitals * images, spins, counts.sum()], "i4"), np.array([0], "i4")]
    records += [(np.arange(orbitals * images) % orbitals + 1).astype("i4"), counts, *columns]
    records += [values.astype("f4") for matrix in matrices for values in matrix]
    records.append(np.array([8.0, 0.001]))
    for row, places_of in enumerate(columns):
        image, column = np.divmod(places_of - 1, orbitals)
        records.append((places[atom_of[column]] + offsets[image] @ cell - places[atom_of[row]]).astype("f4"))
    records += [np.array([species], "i4"), labels]
    records += [line for kind in range(species) for line in newer.read(6 + kind).reshape(-1, 3)]
    records += [np.array([atoms], "i4"), kinds]
    with path.open("wb") as file:
        for record in records:
            length = np.int32(record.nbytes).tobytes()
            file.write(length + record.tobytes() + length)


def test_version_0_of_hsx(tmp_path: Path) -> None:
    """Its layout is known; but sisl guesses cell and images from the distances, here wrongly, and the overlaps tell."""
    write_siesta(tmp_path / "new", read_system(DATA / "hbn_primitive"), "HSX")
    as_version_0(Records.of(tmp_path / "new" / "run.HSX"), tmp_path / "old.HSX")
    check_hsx(Records.of(tmp_path / "old.HSX"))
    with pytest.raises(DataError, match=r"old\.HSX.*does not point along their bond.*no geometry"):
        read_siesta(tmp_path / "old.HSX")


@pytest.mark.parametrize("ending", ["HSX", "TSHS"])
def test_damage_that_sisl_would_not_survive(tmp_path: Path, ending: str) -> None:
    """Bytes that are missing, a row that is too long, a column that does not exist."""
    write_siesta(tmp_path / "run", small_hbn(), ending)
    path = tmp_path / "run" / f"run.{ending}"
    whole, records = path.read_bytes(), Records.of(path)
    rows = int(np.flatnonzero(records.lengths == 4 * 26)[0])
    for at, number in ((records.starts[rows], 10**6), (records.starts[rows + 1], 10**6)):
        path.write_bytes(whole[:at] + np.int32(number).tobytes() + whole[at + 4 :])
        with pytest.raises(DataError, match=rf"run\.{ending}.*damaged"):
            read_siesta(path)
    path.write_bytes(whole[: len(whole) - 3000] + whole[len(whole) - 2950 :])
    with pytest.raises(DataError, match=rf"run\.{ending}.*truncated"):
        read_siesta(path)


@needs_shared
def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.HSX or \.TSHS"):
        read_siesta(tmp_path)
    (tmp_path / "a.HSX").write_bytes((SI / "Si.HSX").read_bytes()[:4000])
    with pytest.raises(DataError, match=r"a\.HSX': truncated"):
        read_siesta(tmp_path)


@needs_shared
def test_the_deeph_layout_keeps_it(tmp_path: Path, silicon: DeephSystem) -> None:
    write_system(tmp_path, silicon)
    back = in_users_order(read_system(tmp_path))
    assert back.hamiltonian is not None
    assert silicon.hamiltonian is not None
    np.testing.assert_array_equal(back.hamiltonian.entries, silicon.hamiltonian.entries)
