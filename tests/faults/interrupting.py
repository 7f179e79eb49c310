"""Runs of the command line that a test interrupts while they are at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.mpi import environment, launcher

__all__ = ["Interrupted", "interrupt", "ranks_of"]


class Interrupted(subprocess.CompletedProcess[str]):
    """What a run left behind: exit code and output."""


def ranks_of(job: subprocess.Popen[str]) -> list[int]:
    """Processes that the launcher has started, by rank; the job itself where it was started without one."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((v.split(b"=")[1] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")), None)
        if rank is not None:
            found[int(rank)] = child
    return [found[rank] for rank in sorted(found)] or [job.pid]


def interrupt(
    ranks: int,
    arguments: list[str],
    folder: Path,
    when: Callable[[], bool],
    number: signal.Signals,
    rank: int | None = None,
) -> Interrupted:
    """Start `deeph-mpi ARGUMENTS`, and send a signal to one rank (None: to the launcher) as soon as `when` says so."""
    program = [sys.executable, "-m", "deeph_mpi", *arguments]
    command = launcher(ranks, *program) if ranks > 1 else program
    job = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        limit = time.monotonic() + 120
        while not when():
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < limit, "nothing happened"
            time.sleep(0.002)
        os.kill(job.pid if rank is None else ranks_of(job)[rank], number)
        output, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    return Interrupted(command, job.returncode, output)
