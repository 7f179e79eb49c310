"""`deeph-mpi doctor`: whether an installation works."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deeph_mpi.cli.session import Job
from deeph_mpi.parallel.world import World, launched_by_mpi

__all__ = ["doctor"]


def doctor(
    launcher: Annotated[str, typer.Option(help="starts two ranks, where this is not run under mpirun")] = "mpirun -n 2",
    limit: Annotated[float, typer.Option(min=1, help="seconds that the checks may take")] = 120.0,
    reports: Annotated[
        Path | None, typer.Option(hidden=True, help="folder for the findings, of runs started here")
    ] = None,
) -> Job | None:
    """Check an installation by using it: MPI, PETSc, MUMPS, HDF5, torch, GPUs, messages, an eigenproblem.

    The exit code is 1 when something is wrong that stops work. Under mpirun the ranks of the job are checked.
    """
    if reports is None and not launched_by_mpi():
        from deeph_mpi.installation.examine import examine_two_ranks

        _tell(examine_two_ranks(launcher, limit))
        return None

    def job(world: World) -> None:
        from deeph_mpi.installation.examine import examine

        if reports is not None:
            examine(world, reports / f"{os.getpid()}.json")
            return
        found = examine(world)
        if world.is_root:
            _tell(found)

    return job


def _tell(findings: list) -> None:
    from deeph_mpi.installation.finding import Level, describe

    print("\n".join(describe(findings)))
    wrong = [one for one in findings if one.level is Level.wrong]
    print(f"\n{len(wrong)} problem(s) that stop work" if wrong else "\nnothing that stops work")
    if wrong:
        sys.exit(1)
