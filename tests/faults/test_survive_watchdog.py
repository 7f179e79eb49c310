"""A rank that gets on no more is named, with its stage and its place in the program, while all others wait inside PETSc."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.mpi import mpirun

JOB = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from deeph_mpi.cli.session import execute
from deeph_mpi.parallel import Stages
from deeph_mpi.parallel.watchdog import watchdog
from deeph_mpi.solvers import petsc

def wait_for_a_file_that_never_comes():
    time.sleep(200)

def job(world):
    stages = Stages(world)
    vec = petsc.load()[0].Vec().createMPI(30, comm=world.comm)
    vec.set(1.0)
    world.comm.barrier()
    with watchdog(world, SimpleNamespace(watchdog_minutes=0.05, watchdog_abort=True), Path(sys.argv[1])):
        with stages("read"):
            time.sleep(0.1)
        if world.rank == 1:
            with stages("network"):
                wait_for_a_file_that_never_comes()
        with stages("solve"):
            vec.sum()  # no thread of Python runs meanwhile

execute(job)
"""


def test_the_silent_rank_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    run = mpirun(3, sys.executable, str(tmp_path / "job.py"), str(tmp_path / "out"), timeout=90)
    assert run.returncode == 128 + 9, run.stdout  # the run is ended
    assert run.stdout.count("deeph-mpi: watchdog: ") == 1, run.stdout
    text = re.sub(r" \(process \d+ on \S+\)", "", run.stdout)
    assert re.search(r"rank 1: network, since \d\d:\d\d:\d\d, 0.1 min ago\n(    .*\n)+", text), run.stdout
    place = text[text.index("rank 1: network") :].split("rank ")[1]
    assert "wait_for_a_file_that_never_comes" in place
    assert "rank 0: solve, since" in text
    assert "vec.sum" not in place
    assert "the run is ended (run.watchdog_abort)" in run.stdout
    assert not (tmp_path / "out").exists()
