"""Conversion of many structures: which are found, skipped, refused; on processes and on ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.deeph import read_system, write_system
from deeph_mpi.data.formats import FORMATS
from deeph_mpi.data.legacy import read_legacy, write_legacy
from deeph_mpi.data.legacy_stream import convert_legacy
from deeph_mpi.data.supercell import write_mtx
from deeph_mpi.errors import ConfigError, DataError
from deeph_mpi.parallel.world import World
from tests.mpi import ROOT, deeph_mpi
from tests.systems import random_system


@pytest.fixture
def calculations(tmp_path: Path) -> Path:
    """Four legacy directories at two depths, the last one broken, beside something else."""
    for seed, name in enumerate(("a", "b", "deep/c", "deep/d")):
        write_legacy(tmp_path / "in" / name, random_system(seed))
    (tmp_path / "in" / "deep" / "d" / "lat.dat").write_text("1 2\n")
    (tmp_path / "in" / "other").mkdir()
    return tmp_path / "in"


def test_a_folder_is_converted_and_taken_up_again(tmp_path: Path, calculations: Path) -> None:
    tasks = plan("legacy", [calculations], tmp_path / "out", Options(dtype="float32"))
    assert [str(task.target.relative_to(tmp_path / "out")) for task in tasks] == ["a", "b", "deep/c", "deep/d"]
    outcomes = convert_all(World.alone(), tasks)
    assert [one.state for one in outcomes] == ["converted"] * 3 + ["failed"]
    assert "3 × 3 matrix" in outcomes[3].detail
    back = read_system(tmp_path / "out" / "deep" / "c")
    assert back.overlap.entries.dtype == np.float32
    write_legacy(calculations / "deep" / "d", random_system(3))  # mended
    (calculations / "b" / "info.json").write_text('{"isspinful": false, "fermi_level": 0.5}')  # changed
    (tmp_path / "out" / "a" / "hamiltonian.h5").unlink()  # lost
    states = [one.state for one in convert_all(World.alone(), tasks)]
    assert states == ["converted", "converted", "finished before", "converted"]
    other = plan("legacy", [calculations], tmp_path / "out", Options(dtype="float64"))
    assert {one.state for one in convert_all(World.alone(), other)} == {"converted"}


def test_processes_and_ranks_give_the_same(tmp_path: Path, calculations: Path) -> None:
    source = str(calculations)
    command = [sys.executable, "-m", "deeph_mpi", "convert", "legacy", source, str(tmp_path / "one"), "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "3 converted, 1 failed" in done.stdout
    assert done.stderr.count("3 × 3 matrix") == 1
    ranks = deeph_mpi(3, "convert", "legacy", source, str(tmp_path / "many"), timeout=120)
    assert ranks.returncode == 1
    assert "3 converted, 1 failed" in ranks.stdout
    assert ranks.stdout.count("3 × 3 matrix") == 1
    for name in ("a", "b", "deep/c"):
        for file in ("overlap.h5", "hamiltonian.h5", "info.json", "POSCAR"):
            one, many = ((tmp_path / where / name / file).read_bytes() for where in ("one", "many"))
            assert one == many
    lines = (tmp_path / "many" / "conversion.tsv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("failed\t")
    assert "3 × 3 matrix" in lines[4]


WITHOUT_ROOM = """
import os, resource, sys
from pathlib import Path
from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.formats import find_format
from deeph_mpi.parallel.world import World
forms, folder, room = sys.argv[1].split(), Path(sys.argv[2]), int(sys.argv[3])
for form in forms:
    find_format(form).load()
world = World.alone()
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
for form in forms:
    if os.fork() == 0:  # HDF5 does not let go of a file that it could not close
        try:
            source = folder / {"legacy": "legacy", "mtx": "mtx"}.get(form, "deeph")
            print(convert_all(world, plan(form, [source], folder / "out" / form, Options()))[0].state, flush=True)
        finally:
            os._exit(0)
    os.wait()
"""


def test_nothing_is_left_of_what_failed_half_way(tmp_path: Path) -> None:
    """Files may not grow beyond several times S, of spinors: H fails. Without a former result, then with one, which stays."""
    pytest.importorskip("sisl")
    system = random_system(6, spinful=True)
    write_system(tmp_path / "deeph", system)
    write_legacy(tmp_path / "legacy", system)
    write_mtx(tmp_path / "mtx", system)
    forms = ["legacy", "mtx", "to-npz", "to-mtx", "to-shards", "to-petsc", "to-sisl", "to-legacy"]

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def attempts(room: int) -> list[str]:
        command = [sys.executable, "-c", WITHOUT_ROOM, " ".join(forms), str(tmp_path), str(room)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200).stdout.split()

    sources, room = files(), 5 * system.overlap.entries.nbytes
    assert attempts(room) == ["failed"] * len(forms)
    assert files() == sources
    assert attempts(10**9) == ["converted"] * len(forms)
    for path in ("deeph/overlap.h5", "legacy/overlaps.h5", "mtx/overlap.mtx"):
        (tmp_path / path).touch()  # as if it had changed
    results = files()
    assert attempts(room) == ["failed"] * len(forms)
    assert files() == results
    assert not list((tmp_path / "out").rglob(".*"))


def test_cutoff_drops_far_pairs(tmp_path: Path) -> None:
    system = random_system(1)
    write_legacy(tmp_path / "in", system)
    tasks = plan("legacy", [tmp_path / "in"], tmp_path / "out", Options(cutoff=4.0))
    assert convert_all(World.alone(), tasks)[0].state == "converted"
    kept = read_system(tmp_path / "out")
    positions, pairs = kept.structure.positions, kept.overlap.pairs
    bonds = positions[pairs[:, 4]] + pairs[:, :3] @ kept.structure.cell - positions[pairs[:, 3]]
    assert np.linalg.norm(bonds, axis=1).max() <= 4.0
    assert 7 < len(kept.overlap) < len(system.overlap)


def test_sources_that_collide_or_lack_are_refused(tmp_path: Path, calculations: Path) -> None:
    write_legacy(tmp_path / "else" / "a", random_system(5))
    with pytest.raises(ConfigError, match="both be written"):
        plan("legacy", [calculations / "a", tmp_path / "else" / "a"], tmp_path / "out", Options())
    with pytest.raises(DataError, match="does not exist"):
        plan("legacy", [tmp_path / "nowhere"], tmp_path / "out", Options())
    with pytest.raises(ConfigError, match="did you mean 'legacy'"):
        plan("legcy", [calculations], tmp_path / "out", Options())
    with pytest.raises(ConfigError, match="overwritten"):
        plan("legacy", [calculations / "a"], calculations / "a", Options())


def test_list_needs_no_library(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "deeph_mpi", "convert", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert all(f"\n{name}\n" in f"\n{done.stdout}" for name in FORMATS)
    assert done.stdout.count("tested") >= len(FORMATS)
    assert not {"torch", "sisl", "pyscf", "ase.io"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_gpaw_is_not_imported_with_ase(tmp_path: Path) -> None:
    """Its import is collective under MPI; ours need not be."""
    (tmp_path / "gpaw.py").write_text("import os\nos._exit(3)\n")
    (tmp_path / "gpaw-0.dist-info").mkdir()
    (tmp_path / "gpaw-0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: gpaw\nVersion: 0\n")
    (tmp_path / "gpaw-0.dist-info" / "entry_points.txt").write_text("[ase.ioformats]\ngpaw-yaml = gpaw:fmt\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for module, code in (("ase.io", 3), ("deeph_mpi.structure.read", 0)):
        done = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, env=environment, timeout=60)
        assert done.returncode == code


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("options", [{}, {"compress": True, "dtype": "float32"}, {"cutoff": 4.0}])
def test_streamed_legacy_files_are_those_of_the_reader(tmp_path: Path, spinful: bool, options: dict) -> None:
    """The same bytes as reading the whole and writing it."""
    write_legacy(tmp_path / "in", random_system(7, spinful=spinful, noise=1e-7))
    whole = read_legacy(tmp_path / "in", cutoff=options.get("cutoff"))
    write_system(tmp_path / "whole", whole, options.get("dtype"), compress=options.get("compress", False))
    convert_legacy(tmp_path / "in", tmp_path / "streamed", **options)
    for name in ("POSCAR", "info.json"):
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("overlap.h5", "hamiltonian.h5"):
        with h5py.File(tmp_path / "streamed" / name) as one, h5py.File(tmp_path / "whole" / name) as other:
            for table in ("atom_pairs", "chunk_boundaries", "chunk_shapes", "entries"):
                assert one[table].dtype == other[table].dtype
                assert one[table].compression == other[table].compression
                np.testing.assert_array_equal(one[table][()], other[table][()])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("[0, 0, 0, 2, 2]", None, "atom 1 has no onsite block"),
        ("[0, 0, 5, 1, 1]", np.eye(13), "no Hermitian partner"),
        ("[0, 0, 0, 1, 1]", np.zeros((2, 2)), "has shape"),
        ("[0, 0, 0, 1, 1]", np.triu(np.ones((13, 13))), "not Hermitian"),
        ("[0, 0, 0, 1, 1]", np.full((13, 13), np.nan), "finite"),
    ],
)
def test_streamed_damage_is_refused(tmp_path: Path, key: str, value: np.ndarray | None, message: str) -> None:
    write_legacy(tmp_path / "in", random_system(2))
    for name in ("overlaps.h5", "hamiltonians.h5"):
        with h5py.File(tmp_path / "in" / name, "r+") as file:
            if key in file:
                del file[key]
            if value is not None:
                file[key] = value
    with pytest.raises(DataError, match=message):
        convert_legacy(tmp_path / "in", tmp_path / "out")
