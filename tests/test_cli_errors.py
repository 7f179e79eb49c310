"""Bad input through the command line: one message that names thing and remedy, a non-zero exit, within seconds, on any
number of ranks."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mpi import deeph_mpi


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        arguments: after `deeph-mpi`; the test runs in a folder made by `folder`.
        expected: part of the message.
        code: exit code.
    """

    arguments: tuple[str, ...]
    expected: str
    code: int = 2


CASES = {
    "no such command": Case(("infr", "infer.toml"), "No such command 'infr'"),
    "no such option": Case(("infer", "infer.toml", "--sett", "a.b=1"), "No such option: --sett"),
    "no configuration": Case(("infer", "nothing.toml"), "no such configuration file: nothing.toml"),
    "not TOML": Case(("infer", "broken.toml"), "broken.toml is not valid TOML"),
    "unknown key": Case(("infer", "infer.toml", "--set", "solve.statse=4"), "solve.statse (did you mean 'states'?)"),
    "wrong type": Case(
        ("infer", "infer.toml", "--set", "solve.states=few"), "solve.states must be an integer, not 'few'"
    ),
    "missing structure": Case(("infer", "infer.toml", "--set", "structure.file=no.vasp"), "no such file"),
    "missing checkpoint": Case(("infer", "infer.toml", "--set", "model.checkpoint=no.pt"), "no such file"),
    "missing matrices": Case(("solve", "solve.toml"), "no such directory"),
    "missing dataset": Case(("train", "train.toml"), "no such directory"),
    "missing plot input": Case(("plot", "no-results.h5"), "no-results.h5", code=1),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cell.vasp").touch()
    (tmp_path / "net.pt").touch()
    (tmp_path / "infer.toml").write_text('[structure]\nfile = "cell.vasp"\n[model]\ncheckpoint = "net.pt"\n')
    (tmp_path / "broken.toml").write_text("[structure\n")
    (tmp_path / "solve.toml").write_text('[hamiltonian]\ndirectory = "nowhere"\n')
    (tmp_path / "train.toml").write_text('[data]\ndirectory = "nowhere"\ntrain = ["000"]\n')
    return tmp_path


def plain(arguments: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line without mpirun."""
    return subprocess.run(
        [sys.executable, "-m", "deeph_mpi", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", list(CASES))
def test_one_message_and_a_nonzero_exit(folder: Path, name: str, ranks: int) -> None:
    case = CASES[name]
    start = time.perf_counter()
    run = deeph_mpi(ranks, *case.arguments, timeout=60, cwd=folder) if ranks > 1 else plain(case.arguments, folder)
    assert time.perf_counter() - start < 30  # about 1 s on an idle machine
    assert run.returncode == case.code, run.stdout
    assert run.stdout.count(case.expected) == 1, run.stdout
    assert "Traceback" not in run.stdout
    assert run.stdout.count("deeph-mpi: error") + run.stdout.count("─ Error ─") == 1, run.stdout
