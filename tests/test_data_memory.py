"""Conversions need memory for pieces, not for matrices: peaks measured in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.data.abacus_files import BOHR, RYDBERG
from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.deeph import DeephSystem, read_system, write_system
from deeph_mpi.data.formats import find_format
from deeph_mpi.data.supercell import write_mtx
from deeph_mpi.parallel.world import World
from tests.mpi import DATA, ROOT
from tests.repeated import abacus_csr, repeated, write_cp2k_matrices
from tests.test_data_aims import write_run as write_aims
from tests.test_data_cp2k import write_run as write_cp2k
from tests.test_data_openmx import unpacked

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")

CELLS = 5
MEASURE = """
import sys
from pathlib import Path
from deeph_mpi.data.batch import Options, Task, _convert
from deeph_mpi.data.formats import find_format
import deeph_mpi.data.deeph
form, source, target = sys.argv[1:]
find_format(form).load()
def megabytes(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")
before = megabytes("VmRSS")
outcome = _convert(Task(form, Path(source), Path(target), Options()))
assert outcome.state == "converted", outcome.detail
print(megabytes("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def large() -> DeephSystem:
    """50 atoms, 0.6 million elements in each of H and S: 5 MB each."""
    return repeated(read_system(DATA / "hbn_primitive"), CELLS)


def grouped(system: DeephSystem) -> DeephSystem:
    """All atoms the same element: ABACUS lists atoms by type."""
    numbers = np.full(len(system.structure), 5)
    return replace(system, structure=replace(system.structure, numbers=numbers))


def write_abacus(folder: Path, system: DeephSystem) -> None:
    """A log with what is read of it, and the matrices."""
    folder.mkdir()
    structure = system.structure
    shells = system.info.orbital_map.shells[5]
    zetas = "\n".join(f"L={degree}, number of zeta = {shells.count(degree)}" for degree in sorted(set(shells)))
    vectors = "\n".join(" ".join(f"{x:+.12f}" for x in row) for row in structure.cell.tolist())
    atoms = "\n".join(
        f"tauc_B{n} {x:.12f} {y:.12f} {z:.12f}" for n, (x, y, z) in enumerate(structure.positions.tolist())
    )
    (folder / "running_scf.log").write_text(
        f"READING ATOM TYPE 1\natom label = B\n{zetas}\nnumber of atom for this type = {len(structure)}\n"
        f"lattice constant (Bohr) = {1 / BOHR!r}\nLattice vectors: (Cartesian coordinate: in unit of a_0)\n{vectors}\n"
        f"{atoms}\nnspin = 1\n"
    )
    assert system.hamiltonian is not None
    for name, blocks, unit in (("HR", system.hamiltonian, RYDBERG), ("SR", system.overlap, 1.0)):
        with (folder / f"data-{name}-sparse_SPIN0.csr").open("w") as file:
            file.writelines(abacus_csr(system, blocks, unit))


def prepare(form: str, folder: Path, system: DeephSystem) -> None:
    """Files of a format in `folder`."""
    if form == "cp2k":
        write_cp2k(folder, system, matrices=False)
        write_cp2k_matrices(folder, system)
    elif form == "abacus":
        write_abacus(folder, grouped(system))
    elif form == "aims":
        write_aims(folder, system)
    elif form == "mtx":
        write_mtx(folder, system)
    elif form == "openmx":
        folder.mkdir()
        unpacked("cn", folder)
    else:
        write_system(folder, system)


@pytest.mark.parametrize(("form", "allowed"), [("cp2k", 60), ("abacus", 60), ("aims", 60), ("mtx", 60), ("to-mtx", 60)])
def test_peak_memory(tmp_path: Path, large: DeephSystem, form: str, allowed: float) -> None:
    """MB beyond what the program takes before it starts. Before they streamed: 100 to 160."""
    prepare(form, tmp_path / "in", large)
    command = [sys.executable, "-c", MEASURE, form, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < allowed


@pytest.mark.parametrize("form", ["cp2k", "abacus", "aims", "mtx", "openmx"])
def test_files_are_the_same_however_small_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Through unnamed files, a few elements at a time, against memory and all at once."""
    prepare(form, tmp_path / "in", read_system(DATA / "hbn_primitive"))
    kept = find_format(form).load()(tmp_path / "in")
    write_system(tmp_path / "kept", kept)
    for module in ("elements", "spool", "abacus_files"):
        monkeypatch.setattr(f"deeph_mpi.data.{module}.PIECE", 37)
    for module in ("mapped", "hermitian", "blockorder"):
        monkeypatch.setattr(f"deeph_mpi.data.{module}._PIECE", 500)
    for name in ("_LINE", "_LINES"):
        monkeypatch.setattr(f"deeph_mpi.data.textnumbers.{name}", 301)
    monkeypatch.setattr("deeph_mpi.data.aims._CHARACTERS", 301)
    outcome = convert_all(World.alone(), plan(form, [tmp_path / "in"], tmp_path / "out", Options()))[0]
    assert outcome.state == "converted", outcome.detail
    for name in ("POSCAR", "info.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    for name in ("overlap.h5", "hamiltonian.h5"):
        with h5py.File(tmp_path / "out" / name) as one, h5py.File(tmp_path / "kept" / name) as other:
            for table in other:
                np.testing.assert_array_equal(one[table][()], other[table][()])
    assert {path.name for path in tmp_path.iterdir()} == {"in", "kept", "out"}
