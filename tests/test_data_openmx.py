"""OpenMX's files against the bands that OpenMX prints."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import block_diag, eigh

from deeph_mpi.data.openmx import HARTREE, read_openmx
from deeph_mpi.errors import DataError
from tests.mpi import DATA
from tests.systems import bloch
from tests.test_data_legacy import off_diagonal
from tests.test_data_siesta import bloch_spinor

FILES = DATA / "openmx"


pytestmark = pytest.mark.usefixtures("in_double")


def unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.scfout"
    path.write_bytes(gzip.decompress((FILES / f"{name}.scfout.gz").read_bytes()))
    return path


def printed_bands(path: Path) -> Iterator[tuple[list[float], np.ndarray]]:
    """k-points and energies in eV."""
    lines = path.read_text().splitlines()
    rows = lines[3 + int(lines[2]) :]
    for head, energies in zip(rows[::2], rows[1::2], strict=True):
        yield [float(word) for word in head.split()[1:4]], np.array(energies.split(), dtype=float) * HARTREE


@pytest.mark.parametrize("name", ["cn", "cnsoc"])
def test_bands_and_bond_frames(tmp_path: Path, name: str) -> None:
    """Unpolarized, and spinors with spin-orbit coupling and moments along no axis."""
    system = read_openmx(unpacked(name, tmp_path).parent)
    assert system.info.spinful == (name == "cnsoc")
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < 1e-12
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    for k, energies in printed_bands(FILES / f"{name}.Band"):
        overlap = bloch(system, "overlap", k)
        if system.info.spinful:  # atoms one after the other, ↑ then ↓ in each
            order = np.concatenate(
                [np.r_[first[a] : first[a + 1], first[-1] + first[a] : first[-1] + first[a + 1]] for a in range(3)]
            )
            overlap = block_diag(overlap, overlap)[np.ix_(order, order)]
        found = eigh(bloch_spinor(system, k), overlap, eigvals_only=True)
        np.testing.assert_allclose(found, energies, atol=2e-8)
    assert system.info.occupation == pytest.approx(13)
    chemical_potential = float((FILES / f"{name}.Band").read_text().split()[2]) * HARTREE
    assert system.info.fermi_energy_eV == pytest.approx(chemical_potential, abs=1e-6)


def test_elements_have_their_own_shells(tmp_path: Path) -> None:
    assert read_openmx(unpacked("cn", tmp_path)).info.orbital_map.to_symbols() == {"C": [0, 0, 1, 2], "N": [0, 1, 1, 2]}


def test_layout_of_39(tmp_path: Path) -> None:
    """The header of 3.9 has the version in its second number and one number more; more matrices follow S."""
    path = unpacked("cn", tmp_path)
    plain = read_openmx(path)
    raw = path.read_bytes()
    count = sum(int(n) for n in np.diff(plain.overlap.offsets))
    tail = raw.rindex(np.float64(plain.info.fermi_energy_eV / HARTREE).tobytes()) - 4
    matrices = raw[tail - 8 * count * 4 : tail]  # positions and the density matrix
    header = np.frombuffer(raw[:24], dtype=np.int32).copy()
    header[1] += 4 * 3
    newer = header.tobytes() + np.int32(1).tobytes() + raw[24:tail] + matrices + matrices[: 8 * count] + raw[tail:]
    path.write_bytes(newer)
    again = read_openmx(path)
    assert again.hamiltonian is not None
    assert plain.hamiltonian is not None
    np.testing.assert_array_equal(again.hamiltonian.entries, plain.hamiltonian.entries)
    assert again.info == plain.info


@pytest.mark.parametrize("size", [20, 3000, 60000, -40000])
def test_truncated_files_are_refused(tmp_path: Path, size: int) -> None:
    path = unpacked("cn", tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"cn\.scfout"):
        read_openmx(path)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HS\.fileout"):
        read_openmx(tmp_path)
