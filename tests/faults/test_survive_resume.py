"""Runs that are stopped or killed in the middle and go on, on another number of ranks, to the same result."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.config import InferConfig, load
from deeph_mpi.data.rowfile import has_rows
from deeph_mpi.identity import rows_identity
from deeph_mpi.structure.read import read_structure
from tests.dense import read_crystal
from tests.faults.interrupting import interrupt
from tests.mpi import DATA, ROOT, deeph_mpi

CHECKPOINT = ROOT / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"
DATA_POSCAR = DATA / "ab_bilayer" / "POSCAR"

SOLVE = """
[hamiltonian]
directory = "{data}"
[solve]
kpath = "K_PATH"
states = 8
[run]
restart_seconds = 0
[output]
directory = "{out}"
plot = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path of 24 k-points, and its states from a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "K_PATH").write_text("24 0 0 0 0.5 0 0 G M\n")
    for out in ("whole", "stopped", "killed", "pools"):
        (folder / f"{out}.toml").write_text(SOLVE.format(data=DATA / "ab_bilayer", out=out))
    run = deeph_mpi(1, "solve", "whole.toml", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert not list((folder / "whole").glob(".watch*"))
    assert not list((folder / "whole").glob("restart*"))
    return folder


def same(folder: Path, out: str) -> None:
    """The results agree with those of the undisturbed run: energies, E_F, populations."""
    with h5py.File(folder / out / "results.h5") as found, h5py.File(folder / "whole" / "results.h5") as expected:
        for name in ("eigenvalues", "residuals", "verified", "first_index"):
            np.testing.assert_allclose(found[f"spectrum/{name}"][:], expected[f"spectrum/{name}"][:], rtol=0, atol=1e-9)
        energies = [file["spectrum"].attrs["fermi_energy_eV"] for file in (found, expected)]
        assert abs(energies[0] - energies[1]) < 1e-9
        weights = [file["projections/weights"][:] for file in (found, expected)]
        np.testing.assert_allclose(weights[0], weights[1], rtol=0, atol=2e-5)


def units(path: Path) -> int:
    with h5py.File(path) as file:
        return len(file["units"])


def resumed(output: str) -> int:
    """How many units a run says that it took over."""
    line = next(line for line in output.splitlines() if line.startswith("resuming: "))
    return int(line.split()[1])


def test_sigterm_in_a_path_and_resume_on_other_ranks(folder: Path) -> None:
    restart = folder / "stopped" / "restart.h5"
    run = interrupt(2, ["solve", "stopped.toml", "--set", "solve.pools=1"], folder, restart.exists, signal.SIGTERM, 1)
    assert run.returncode == 75, run.stdout
    assert run.stdout.count("deeph-mpi: stopped by SIGTERM; what is finished is in ") == 1, run.stdout
    assert "Traceback" not in run.stdout
    done = units(restart)
    assert 1 <= done < 24
    assert not (folder / "stopped" / "results.h5").exists()
    other = deeph_mpi(1, "solve", "stopped.toml", "--resume", "--set", "solve.states=9", cwd=folder)
    assert other.returncode == 1
    assert "belongs to another job (solve.states differ)" in other.stdout
    run = deeph_mpi(3, "solve", "stopped.toml", "--resume", "--set", "solve.pools=1", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert resumed(run.stdout) == done
    same(folder, "stopped")
    assert not list((folder / "stopped").glob("restart*"))


def test_a_killed_rank_leaves_a_restart_file_that_goes_on(folder: Path) -> None:
    restart = folder / "killed" / "restart.h5"
    run = interrupt(3, ["solve", "killed.toml"], folder, restart.exists, signal.SIGKILL, 2)
    assert run.returncode == 128 + signal.SIGKILL, run.stdout
    good = restart.read_bytes()
    restart.write_bytes(good[:3000] + b"?" + good[3001:])
    run = deeph_mpi(2, "solve", "killed.toml", "--resume", cwd=folder)
    assert run.returncode == 1
    assert run.stdout.count(f"'{restart}' is damaged: leave out --resume to start over") == 1, run.stdout
    assert not list((folder / "killed").glob(".watch*"))
    restart.write_bytes(good)
    run = deeph_mpi(2, "solve", "killed.toml", "--resume", "--set", "solve.pools=1", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert resumed(run.stdout) >= 1
    same(folder, "killed")


def test_pools_write_files_of_their_own_which_are_joined(folder: Path) -> None:
    out = folder / "pools"
    arguments = ["solve", "pools.toml", "--set", "solve.pools=2"]
    both = [out / "restart.h5", out / "restart.1.h5"]
    run = interrupt(4, arguments, folder, lambda: all(path.exists() for path in both), signal.SIGUSR1, 3)
    assert run.returncode == 75, run.stdout
    assert run.stdout.count("deeph-mpi: stopped by ") == 1, run.stdout
    done = sum(map(units, both))
    assert done < 24
    run = deeph_mpi(2, "solve", "pools.toml", "--resume", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert resumed(run.stdout) == done
    same(folder, "pools")
    shutil.rmtree(out)


def test_predicted_rows_are_kept(folder: Path) -> None:
    (folder / "infer.toml").write_text(
        f'[structure]\nfile = "{DATA_POSCAR}"\n[model]\ncheckpoint = "{CHECKPOINT}"\n'
        '[solve]\nstates = 8\n[output]\ndirectory = "rows"\nhamiltonian = "deeph"\nplot = false\n'
    )
    run = deeph_mpi(1, "infer", "infer.toml", "--set", "solve.enabled=false", cwd=folder)
    assert run.returncode == 0, run.stdout
    before = (folder / "rows" / "hamiltonian.h5").stat().st_mtime_ns
    run = deeph_mpi(2, "infer", "infer.toml", "--resume", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert "they are not predicted again" in run.stdout
    assert (folder / "rows" / "hamiltonian.h5").stat().st_mtime_ns == before
    exact = read_crystal(folder / "rows").energies((0.0, 0.0, 0.0))
    with h5py.File(folder / "rows" / "results.h5") as file:
        found, first = file["spectrum/eigenvalues"][0], int(file["spectrum/first_index"][0])
    np.testing.assert_allclose(found, exact[first : first + len(found)], rtol=0, atol=1e-8)
    origin = rows_identity(load(folder / "infer.toml", InferConfig).model, "float64", read_structure(DATA_POSCAR))
    assert has_rows(folder / "rows", origin)
    (folder / "rows" / "shards" / "overlap.0000.h5").unlink()
    assert not has_rows(folder / "rows", origin)
