"""Signals, crashes and errors of single ranks: the job ends on all of them within seconds, the first cause is told once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mpi import environment, launcher

JOB = '''
import os, sys, time
from deeph_mpi.cli.session import execute
from deeph_mpi.errors import DataError, StopRequested
from deeph_mpi.parallel.stopping import finishing_units, stop_agreed

def at_work(world):
    """Tell the test, once all ranks have come here: it sends its signals from then on."""
    pids = world.comm.gather(os.getpid(), root=0)
    if world.is_root:
        print("pids", *pids, flush=True)

def job(world):
    what = sys.argv[1]
    vec = None
    if "petsc" in what:
        from deeph_mpi.solvers import petsc
        vec = petsc.load()[0].Vec().createMPI(30, comm=world.comm)
        vec.set(1.0)
    if what in ("units", "stuck"):
        with finishing_units():
            at_work(world)
            if what == "stuck":
                if world.rank == 1:
                    time.sleep(100)
                world.comm.barrier()
            for n in range(2000):
                time.sleep(0.02)
                if name := stop_agreed(world):
                    raise StopRequested(f"stopped by {name}, {n + 1} units are kept")
    at_work(world)
    if world.rank == 1:
        if what == "killed in petsc":
            time.sleep(100)
        time.sleep(0.5)
        raise DataError("atom 7 is lost")
    vec.sum()  # waits for rank 1, without letting Python run

execute(job)
'''


@contextmanager
def started(tmp_path: Path, what: str, ranks: int = 3) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The job at work, and the processes of its ranks."""
    path = tmp_path / "job.py"
    path.write_text(JOB)
    command = launcher(ranks, sys.executable, str(path), what) if ranks > 1 else [sys.executable, str(path), what]
    job = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert job.stdout is not None
        first = job.stdout.readline()
        assert first.startswith("pids "), first + job.stdout.read()
        yield job, [int(word) for word in first.split()[1:]]
    finally:
        job.kill()


def test_a_request_to_one_rank_stops_all_after_their_unit(tmp_path: Path) -> None:
    with started(tmp_path, "units") as (job, pids):
        os.kill(pids[2], signal.SIGTERM)
        output, _ = job.communicate(timeout=20)
    assert job.returncode == 75
    assert output.count("deeph-mpi: stopped by SIGTERM, ") == 1, output
    assert output.count("deeph-mpi: ") == 1, output


def test_usr1_reaches_the_ranks_through_the_launcher(tmp_path: Path) -> None:
    with started(tmp_path, "units", 2) as (job, _):
        job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=20)
    assert job.returncode == 75
    assert output.count("deeph-mpi: stopped by SIGUSR1, ") == 1, output


def test_the_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    """Also a rank that waits for another one inside MPI."""
    with started(tmp_path, "stuck") as (job, pids):
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(pids[0], signal.SIGTERM)  # what batch system and launcher both send is one request
        time.sleep(3.2)
        assert job.poll() is None
        begin = time.monotonic()
        os.kill(pids[0], signal.SIGTERM)
        output, _ = job.communicate(timeout=20)
    assert time.monotonic() - begin < 12
    assert job.returncode == 143
    assert output.count("deeph-mpi: stopped by SIGTERM") == 1, output


def test_others_do_not_wait_for_a_rank_that_was_killed(tmp_path: Path) -> None:
    """As the kernel does when memory runs out."""
    with started(tmp_path, "killed in petsc") as (job, pids):
        time.sleep(0.3)
        begin = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        output, _ = job.communicate(timeout=20)
    assert time.monotonic() - begin < 10
    assert job.returncode == 128 + signal.SIGKILL
    assert "rank 1" in output


def test_an_error_of_one_rank_ends_others_that_are_inside_petsc(tmp_path: Path) -> None:
    with started(tmp_path, "raised in petsc") as (job, _):
        begin = time.monotonic()
        output, _ = job.communicate(timeout=20)
    assert time.monotonic() - begin < 10
    assert job.returncode == 1
    assert output.count("deeph-mpi: ") == 1, output
    assert output.startswith("deeph-mpi: error on rank 1 of 3: atom 7 is lost"), output
