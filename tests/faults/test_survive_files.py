"""Disks that fill up or cannot be written, inputs that vanish, memory that ends, numbers that are not finite: real ones.

Each ends on all ranks with one message, and leaves what was good before.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeph_mpi.model.checkpoint import save_checkpoint
from tests.dense import read_crystal
from tests.faults.interrupting import interrupt
from tests.models import random_model
from tests.mpi import DATA, deeph_mpi, mpirun

SOLVE = """
[hamiltonian]
directory = "matrices"
[solve]
target = 0.0
states = 8
[run]
restart_seconds = 0
[output]
directory = "out"
plot = false
"""
POSCAR = "x\n1.0\n8 0 0\n0 8 0\n0 0 8\nC\n2\nCartesian\n0 0 0\n0 0 1.5\n"

# Limits a process when a stage begins: after everything is loaded (MPI's files too), before the work.
LIMITED = """
import os, resource, sys
from deeph_mpi.cli.main import main
from deeph_mpi.parallel.events import listening

def limit(kind, fields):
    if kind != "stage_begin" or fields["stage"] != "assemble":
        return
    if sys.argv[1] == "files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (48 << 10,) * 2)
    elif os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)

with listening(limit):
    main(sys.argv[2:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "ab_bilayer", tmp_path / "matrices")
    (tmp_path / "solve.toml").write_text(SOLVE)
    return tmp_path


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """A file system of its own in memory."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def may_mount(folder: Path) -> bool:
    try:
        with mounted(folder / "probe", "-o", "size=64k"):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


def one_error(run: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert run.returncode == code, run.stdout
    assert run.stdout.count("deeph-mpi: error") == 1, run.stdout
    assert "Traceback" not in run.stdout
    return next(line for line in run.stdout.splitlines() if line.startswith("deeph-mpi: error"))


def test_a_full_disk(folder: Path) -> None:
    """On a small file system, or without the right to mount one under a limit of file sizes."""
    arguments = ["solve", "solve.toml", "--set", "solve.eigenvectors=true", "--set", "solve.states=52"]
    if may_mount(folder):
        with mounted(folder / "out", "-o", "size=64k"):
            run = deeph_mpi(2, *arguments, cwd=folder)
            left = sorted(path.name for path in (folder / "out").iterdir())
    else:
        (folder / "limited.py").write_text(LIMITED)
        run = mpirun(2, sys.executable, "limited.py", "files", *arguments, cwd=folder)
        left = sorted(path.name for path in (folder / "out").iterdir()) if (folder / "out").exists() else []
    message = one_error(run)
    assert "results.h5" in message, run.stdout
    assert "No space left" in message or "too large" in message, run.stdout
    assert "restart.h5' cannot be written" in run.stdout  # told before, as a warning
    assert left == [], left


def test_the_disk_fills_up_after_good_results(folder: Path) -> None:
    assert deeph_mpi(1, "solve", "solve.toml", cwd=folder).returncode == 0
    good = (folder / "out" / "results.h5").read_bytes()
    blocked = folder / "out" / "results.h5.part"
    blocked.mkdir()  # as good as a full disk for this file: it cannot be made
    run = deeph_mpi(2, "solve", "solve.toml", "--set", "solve.states=9", cwd=folder)
    assert "results.h5.part" in one_error(run)
    assert (folder / "out" / "results.h5").read_bytes() == good
    blocked.rmdir()
    run = deeph_mpi(1, "solve", "solve.toml", "--set", "solve.states=9", "--resume", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert "resuming: 1 finished units" in run.stdout  # what was solved is not lost


def test_an_output_that_cannot_be_written(folder: Path) -> None:
    if may_mount(folder):
        with mounted(folder / "out", "-o", "size=64k,ro"):
            message = one_error(deeph_mpi(2, "solve", "solve.toml", cwd=folder), code=2)
    else:
        (folder / "out").mkdir(mode=0o555)
        message = one_error(deeph_mpi(2, "solve", "solve.toml", cwd=folder), code=2)
    assert "output.directory: " in message
    assert "cannot be written" in message


def test_a_file_that_vanishes_while_the_job_starts(folder: Path) -> None:
    matrix, out = folder / "matrices" / "hamiltonian.h5", folder / "out"

    def begun() -> bool:
        if out.exists() and list(out.glob(".watch*")):
            matrix.unlink()
            return True
        return False

    run = interrupt(3, ["solve", "solve.toml"], folder, begun, signal.SIGCONT, 0)
    assert "hamiltonian.h5' does not exist" in one_error(run)
    assert not out.exists()


def test_memory_ends_on_one_rank(folder: Path) -> None:
    (folder / "limited.py").write_text(LIMITED)
    run = mpirun(2, sys.executable, "limited.py", "memory", "solve", "solve.toml", timeout=120, cwd=folder)
    assert run.returncode == 1, run.stdout
    assert run.stdout.count("deeph-mpi: error") == 1, run.stdout
    told = run.stdout[run.stdout.index("deeph-mpi: error") :]
    assert "memory" in told or "MemoryError" in told, run.stdout
    assert not (folder / "out" / "results.h5").exists()


def test_a_network_with_a_number_that_is_none(folder: Path) -> None:
    model = random_model()
    with torch.no_grad():
        next(model.network.parameters()).view(-1)[0] = torch.nan
    save_checkpoint(folder / "nan.pt", model)
    model = random_model()
    with torch.no_grad():
        model.network.onsite_scale[0] = 1e300  # finite, but not in single precision, nor times anything
    save_checkpoint(folder / "huge.pt", model)
    (folder / "two.vasp").write_text(POSCAR)
    for name, expected in (("nan", "holds numbers that are not finite"), ("huge", "not finite for atoms 0")):
        text = f'[structure]\nfile = "two.vasp"\n[model]\ncheckpoint = "{name}.pt"\n'
        text += '[solve]\nenabled = false\n[output]\nhamiltonian = "deeph"\n'
        (folder / "infer.toml").write_text(text)
        run = deeph_mpi(2, "infer", "infer.toml", cwd=folder)
        assert expected in one_error(run), run.stdout
        assert not (folder / "out" / "hamiltonian.h5").exists()


def test_a_shift_on_an_eigenvalue(folder: Path) -> None:
    exact = read_crystal(DATA / "ab_bilayer").energies((0.0, 0.0, 0.0))
    target = float(exact[20])
    run = deeph_mpi(2, "solve", "solve.toml", "--set", f"solve.target={target!r}", cwd=folder)
    assert run.returncode == 0, run.stdout
    with h5py.File(folder / "out" / "results.h5") as file:
        found = file["spectrum/eigenvalues"][0]
        assert file["spectrum/verified"][0]
    found = found[np.isfinite(found)]
    nearest = np.sort(exact[np.argsort(np.abs(exact - target), kind="stable")[: len(found)]])
    np.testing.assert_allclose(found, nearest, rtol=0, atol=1e-9)
