"""A job in which something fails on one rank, or that is told to stop, ends soon, with one message."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpi import mpirun

JOB = """
import sys, time
from deeph_mpi.cli.session import execute
from deeph_mpi.errors import DataError

def job(world):
    what, where = sys.argv[1], int(sys.argv[2])
    world.comm.barrier()
    if what == "sleep":
        if world.is_root:
            print("started", flush=True)
        time.sleep(100)
    if what == "together":
        with world.together():
            if world.rank == where:
                raise DataError("atom 7 is lost")
    if world.rank == where:
        raise DataError("atom 7 is lost") if what == "known" else ValueError("a bug")
    world.comm.barrier()  # where the others wait for ever

execute(job)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return str(path)


@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize("what", ["known", "together", "bug"])
def test_failure_of_one_rank_ends_all(script: str, what: str, where: int) -> None:
    start = time.perf_counter()
    run = mpirun(3, sys.executable, script, what, str(where), timeout=60)
    assert time.perf_counter() - start < 30  # about 2 s where the machine is idle; test machines are shared
    assert run.returncode != 0
    assert run.stdout.count("deeph-mpi: ") == 1, run.stdout
    assert ("ValueError: a bug" if what == "bug" else ": atom 7 is lost") in run.stdout
    assert ("Traceback" in run.stdout) == (what == "bug")
    assert (f"on rank {where} of 3" in run.stdout) == (what != "together")  # what all ranks know has no rank


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_ends_the_job_with_one_message(script: str, ranks: int) -> None:
    command = [sys.executable, script, "sleep", "0"]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if ranks > 1:
        command = [shutil.which("mpirun") or "mpirun", "--oversubscribe", "-n", str(ranks), *command]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "started\n"
        job.send_signal(signal.SIGTERM)
        output, _ = job.communicate(timeout=30)
    finally:
        job.kill()
    assert job.returncode != 0
    assert output.count("deeph-mpi: stopped by SIGTERM") == 1, output
