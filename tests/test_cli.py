"""The command line: help is quick and needs nothing heavy, and what is printed is printed once and true."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version

import mpi4py
import pytest

from deeph_mpi import __version__
from deeph_mpi.cli.main import COMMANDS, main
from tests.mpi import deeph_mpi

# Importing any of these must not be necessary to read the help.
HEAVY = ("torch", "petsc4py", "slepc4py", "mpi4py", "numpy", "ase", "e3nn", "h5py", "scipy")


def without(*packages: str) -> str:
    """A program that runs the command line where `packages` cannot be imported."""
    return (
        f"import sys; sys.modules.update(dict.fromkeys({packages!r})); from deeph_mpi.cli.main import main; "
        "main(sys.argv[1:])"
    )


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", without(*HEAVY), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    seconds = time.perf_counter() - start
    assert run.returncode == 0, run.stderr
    for name in COMMANDS:
        assert name in run.stdout
    assert seconds < 10  # about 0.3 s on an idle machine


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    assert f"deeph-mpi {name}" in capsys.readouterr().out


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.split() == ["deeph-mpi", __version__]


def test_info_tells_ranks_and_versions_once() -> None:
    run = deeph_mpi(3, "info", timeout=120)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("ranks ") == 1
    assert "3 on 1 node(s), 1 thread(s) each" in run.stdout
    assert f"mpi4py {mpi4py.__version__}" in run.stdout
    assert version("torch") in run.stdout


def test_config_prints_the_reference_once_under_mpirun() -> None:
    run = deeph_mpi(2, "config", "solve", timeout=60)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("[hamiltonian]") == 1
