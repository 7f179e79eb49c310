"""Bad input through the command line: one message that names thing and remedy, a non-zero exit, within seconds, on any
number of ranks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.model.checkpoint import save_checkpoint
from tests.models import random_model
from tests.mpi import DATA, deeph_mpi


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
    "NaN position": Case(("infer", "run.toml", "--set", "structure.file=nan.vasp"), "not finite", code=1),
    "overlapping atoms": Case(
        ("infer", "run.toml", "--set", "structure.file=close.vasp"),
        "atoms 0 (C) and 1 (C) are only 0.100 Å apart",
        code=1,
    ),
    "unreadable structure": Case(("infer", "run.toml", "--set", "structure.file=broken.vasp"), "cannot read", code=1),
    "unknown species": Case(
        ("infer", "run.toml", "--set", "structure.file=silicon.vasp"), "does not know the element(s) Si", code=1
    ),
    "too short bonds": Case(("infer", "run.toml", "--set", "structure.file=short.vasp"), "shorter than any", code=1),
    "damaged checkpoint": Case(
        ("infer", "run.toml", "--set", "model.checkpoint=damaged.pt"), "damaged or not a deeph-mpi checkpoint", code=1
    ),
    "overlap of another structure": Case(
        ("infer", "run.toml", "--set", "model.overlap=good/overlap.h5"), "belongs to another structure", code=1
    ),
    "truncated HDF5": Case(
        ("solve", "solve.toml", "--set", "hamiltonian.directory=truncated"), "hamiltonian.h5", code=1
    ),
    "wrong orbital map": Case(
        ("solve", "solve.toml", "--set", "hamiltonian.directory=wrong_map"), "orbits_quantity", code=1
    ),
    "NaN in H": Case(("solve", "solve.toml", "--set", "hamiltonian.directory=not_a_number"), "not finite", code=1),
    "S not positive definite": Case(
        ("solve", "solve.toml", "--set", "hamiltonian.directory=indefinite"), "not positive definite", code=1
    ),
    "structures missing from a dataset": Case(
        ("train", "train.toml", "--set", "data.directory=."), "no such structure"
    ),
    "truncated training data": Case(
        ("train", "train.toml", "--set", "data.directory=.", "--set", 'data.train=["truncated"]'),
        "hamiltonian.h5",
        code=1,
    ),
    "missing plot input": Case(("plot", "no-results.h5"), "no-results.h5", code=1),
}


POSCAR = "x\n1.0\n8 0 0\n0 8 0\n0 0 8\n{element}\n2\nCartesian\n0 0 0\n{second}\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint, structure and Hamiltonian, and damaged ones."""
    folder = tmp_path_factory.mktemp("inputs")
    save_checkpoint(folder / "model.pt", random_model())
    (folder / "damaged.pt").write_bytes((folder / "model.pt").read_bytes()[:2000])
    for name, second in {
        "two": "0 0 1.5",
        "nan": "0 0 nan",
        "close": "0 0 0.1",
        "short": "0 0 0.7",
        "broken": "0 0",
    }.items():
        (folder / f"{name}.vasp").write_text(POSCAR.format(element="C", second=second))
    (folder / "silicon.vasp").write_text(POSCAR.format(element="Si", second="0 0 2"))
    (folder / "run.toml").write_text('[structure]\nfile = "two.vasp"\n[model]\ncheckpoint = "model.pt"\n')
    for name in ("good", "truncated", "wrong_map", "not_a_number", "indefinite"):
        shutil.copytree(DATA / "hbn_primitive", folder / name)
    path = folder / "truncated" / "hamiltonian.h5"
    path.write_bytes(path.read_bytes()[:-20000])
    path = folder / "wrong_map" / "info.json"
    info = json.loads((DATA / "hbn_primitive" / "info.json").read_text())
    info["elements_orbital_map"]["N"] = [0, 1]
    path.write_text(json.dumps(info))
    for name, file, value in (("not_a_number", "hamiltonian.h5", np.nan), ("indefinite", "overlap.h5", -1.0)):
        with h5py.File(folder / name / file, "r+") as data:
            pairs = data["atom_pairs"][:]
            onsite = int(np.flatnonzero((pairs[:, :3] == 0).all(axis=1) & (pairs[:, 3] == pairs[:, 4]))[0])
            start = int(data["chunk_boundaries"][onsite])
            data["entries"][start] = value
    return folder


@pytest.fixture
def folder(tmp_path: Path, inputs: Path) -> Path:
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
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
    # 3 s on one rank and 6 s on three where two cores are idle, most of it importing torch; test machines are shared
    assert time.perf_counter() - start < 40
    assert run.returncode == case.code, run.stdout
    assert run.stdout.count(case.expected) == 1, run.stdout
    assert "Traceback" not in run.stdout
    assert run.stdout.count("deeph-mpi: error") + run.stdout.count("─ Error ─") == 1, run.stdout
