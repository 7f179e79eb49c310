"""`deeph-mpi doctor`: a sound installation passes, and each thing that is broken is named, with its remedy."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeph_mpi.errors import SolverError
from deeph_mpi.installation import examine, libraries, working
from deeph_mpi.installation.examine import examine_two_ranks
from deeph_mpi.installation.finding import Finding, Level, append_findings, describe, read_findings
from deeph_mpi.parallel import World
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.orderings import mumps_orderings
from tests.mpi import ROOT, deeph_mpi


def script(folder: Path, name: str, body: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_this_installation_is_sound_on_two_ranks_started_by_itself() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
    run = subprocess.run(
        [sys.executable, "-m", "deeph_mpi", "doctor"],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    for start in ("good  launcher", "good  exchange         2 ranks", "good  h5py", "good  torch", "good  MPI of PETSc",
                  "good  eigenproblem     180 orbitals at 2 k-points on 2 rank(s)"):  # fmt: skip
        assert any(line.startswith(start) for line in lines), (start, run.stdout)
    assert "WRONG" not in run.stdout
    assert lines[-1] == "nothing that stops work"


def test_under_mpirun_the_ranks_of_the_job_are_checked_and_one_speaks() -> None:
    run = deeph_mpi(3, "doctor", timeout=200)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("good  exchange         3 ranks") == 1
    assert "180 orbitals at 2 k-points on 3 rank(s)" in run.stdout


def test_ranks_that_do_not_see_each_other_are_the_launchers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the mpirun of another MPI library: two processes, each alone."""
    monkeypatch.setattr(examine, "CHECKS", {})
    alone = (
        f'{sys.executable} -c \'import json, os, sys; open(sys.argv[-1] + f"/{{os.getpid()}}.json", "w").write("")\''
    )
    launcher = script(tmp_path, "twice", f'{alone} "$@" & {alone} "$@"; wait')
    found = examine_two_ranks(launcher, 60)
    assert [one.level for one in found] == [Level.wrong]
    assert "do not see each other" in found[0].text
    assert "launcher of the MPI that mpi4py was built with" in found[0].remedy


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo no slots available; exit 3", "exit code 3; it said: no slots available"),
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("sleep 60", "not done after 1 s"),
    ],
)
def test_a_launcher_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: str) -> None:
    launcher = script(tmp_path, "launch", body)
    monkeypatch.setattr(sys, "executable", "/bin/true")  # the attempt on one process that follows need not check again
    found = examine_two_ranks(launcher, 1)
    assert found[0].level is Level.wrong
    assert expected in found[0].text
    assert found[0].remedy


def test_a_launcher_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    found = examine_two_ranks("nompirun -n 2", 5)
    assert found[0].text == "there is no nompirun on PATH"
    assert "srun -n 2" in found[0].remedy


def test_what_a_check_raises_is_a_finding_and_the_others_are_still_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(world: World) -> list[Finding]:
        raise SolverError("PETSc sees 1 ranks and mpi4py 2")

    checks = {"MPI of PETSc": broken, "h5py": libraries.check_hdf5}
    monkeypatch.setattr(examine, "CHECKS", checks)
    found = examine.examine(World.alone(), tmp_path / "report")
    assert [one.level for one in found] == [Level.wrong, Level.good]
    assert found[0].text == "PETSc sees 1 ranks and mpi4py 2"
    assert read_findings(tmp_path / "report") == found


def test_unwritable_folders_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.tempfile, "mkdtemp", lambda prefix: "/proc/nowhere")
    (found,) = libraries.check_hdf5(World.alone())
    assert found.level is Level.wrong
    assert "TMPDIR" in found.remedy


def test_two_mpi_libraries_in_one_process_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "".join(f"7f00-7f01 r-xp 0 08:01 1 {tmp_path}/{name}\n" for name in ("libmpi.so.40.30.4", "libmpi.so.12"))
    )
    monkeypatch.setattr(libraries, "_MAPS", maps)
    assert len(libraries.mpi_libraries()) == 2
    last = libraries.check_mpi_of_petsc(World.alone())[-1]
    assert last.level is Level.wrong
    assert "libmpi.so.12" in last.text
    assert "mpicc" in last.remedy


def test_a_petsc_without_mumps_or_with_complex_scalars_costs_something(monkeypatch: pytest.MonkeyPatch) -> None:
    from deeph_mpi.solvers import backends, orderings

    monkeypatch.setattr(petsc, "is_complex", lambda: True)
    monkeypatch.setattr(backends, "available_backends", lambda: ["superlu_dist", "petsc"])
    found = {one.subject: one for one in libraries.check_scalars(World.alone())}
    assert found["scalars"].level is Level.note
    assert found["MUMPS"].level is Level.note
    assert "superlu_dist" in found["MUMPS"].text
    monkeypatch.setattr(backends, "available_backends", lambda: ["petsc"])
    assert libraries.check_scalars(World.alone())[-1].level is Level.wrong
    monkeypatch.setattr(backends, "available_backends", lambda: ["mumps", "petsc"])
    monkeypatch.setattr(orderings, "mumps_orderings", lambda: ["PORD"])
    last = libraries.check_scalars(World.alone())[-1]
    assert last.level is Level.note
    assert "libmumps-ptscotch" in last.remedy


def test_a_wrong_eigenvalue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    (good,) = working.check_pencil(World.alone())
    assert good.level is Level.good
    dense, scale = working._dense, itertools.cycle((1 + 1e-6, 1.0))  # of H, of S
    monkeypatch.setattr(working, "_dense", lambda pairs, blocks, k: next(scale) * dense(pairs, blocks, k))
    (found,) = working.check_pencil(World.alone())
    assert found.level is Level.wrong


def test_the_orderings_found_are_those_that_mumps_reports() -> None:
    if not petsc.has_mumps():
        pytest.skip("PETSc without MUMPS")
    found = mumps_orderings()
    assert "PORD" in found
    maps = Path("/proc/self/maps").read_text()
    if "mumps_ptscotch" in maps:
        assert "Scotch" in found


def test_findings_survive_a_line_cut_off(tmp_path: Path) -> None:
    found = [Finding(Level.good, "a", "is fine"), Finding(Level.wrong, "b", "is not", "mend it")]
    append_findings(tmp_path / "report", found)
    with (tmp_path / "report").open("a") as file:
        file.write(json.dumps({"level": "good"})[:7])
    assert read_findings(tmp_path / "report") == found
    assert describe(found)[1:] == ["WRONG b                is not", "                       → mend it"]
