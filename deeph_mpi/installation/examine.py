"""All checks in turn: on the ranks that are there, or on two that are started for it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deeph_mpi.errors import DeephError
from deeph_mpi.installation.finding import Finding, Level, append_findings, read_findings
from deeph_mpi.installation.libraries import (
    check_hdf5,
    check_mpi_of_petsc,
    check_scalars,
    check_threads,
    check_torch,
)
from deeph_mpi.installation.working import check_exchange, check_pencil
from deeph_mpi.parallel.world import World

__all__ = ["examine", "examine_two_ranks"]

CHECKS: dict[str, Callable[[World], list[Finding]]] = {
    "threads": check_threads,
    "h5py": check_hdf5,
    "torch": check_torch,
    "exchange": check_exchange,
    "MPI of PETSc": check_mpi_of_petsc,
    "scalars": check_scalars,
    "eigenproblem": check_pencil,
}
"""By what they are about; what may crash comes last."""


def examine(world: World, report: Path | None = None) -> list[Finding]:
    """Make all checks, one after the other; what a check raises is a finding. Collective.

    Args:
        world: the ranks.
        report: file that rank 0 adds every check's findings to as they come.
    """
    found: list[Finding] = []
    for subject, check in CHECKS.items():
        try:
            with world.together():
                new = check(world)
        except DeephError as error:
            new = [Finding(Level.wrong, subject, str(error))]
        found += new
        if report is not None and world.is_root:
            append_findings(report, new)
    return found


def examine_two_ranks(launcher: str, limit: float) -> list[Finding]:
    """Start two ranks of this program, which make the checks; where they cannot, one process makes them. Not collective.

    Args:
        launcher: words that start them, such as "mpirun -n 2".
        limit: seconds that they may take.
    """
    words = shlex.split(launcher)
    with tempfile.TemporaryDirectory(prefix="deeph-mpi-") as folder:
        reports = Path(folder)
        if shutil.which(words[0]) is None:
            remedy = 'load the MPI that PETSc was built with, or give --launcher "srun -n 2"'
            problem: Finding | None = Finding(Level.wrong, "launcher", f"there is no {words[0]} on PATH", remedy)
        else:
            problem = _run(words, reports, limit, launcher)
            found = [read_findings(path) for path in sorted(reports.iterdir())]
            if len(found) > 1:
                text = f"`{launcher}` starts processes that do not see each other"
                remedy = (
                    f"use the launcher of the MPI that mpi4py was built with: {shutil.which(words[0])} is another's"
                )
                return [Finding(Level.wrong, "launcher", text, remedy), *found[0]]
            if found and problem is None:
                return [Finding(Level.good, "launcher", f"`{launcher}` ({shutil.which(words[0])}) works"), *found[0]]
        for path in reports.iterdir():
            path.unlink()
        alone = _run([], reports, limit, "one process")
        findings = [one for path in reports.iterdir() for one in read_findings(path)]
        return [*([problem] if problem else []), *([alone] if alone else []), *findings]


def _run(words: list[str], reports: Path, limit: float, name: str) -> Finding | None:
    """Start `deeph-mpi doctor --reports` by `words`; what went wrong, if anything did."""
    command = [*words, sys.executable, "-m", "deeph_mpi", "doctor", "--reports", str(reports)]
    process = subprocess.Popen(
        command, env=_variables(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the launcher ends its ranks
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        text = f"{name}: not done after {limit:g} s; what it had found until then is below"
        remedy = (
            "the last check hangs: see whether nodes reach each other, and give --limit if the machine is just slow"
        )
        return Finding(Level.wrong, "launcher", text, remedy)
    if process.returncode == 0:
        return None
    last = [line for line in said.splitlines() if line.strip()][-8:]
    code = process.returncode
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    text = f"{name}: {how}; it said: " + " | ".join(last)
    return Finding(Level.wrong, "launcher", text, "mend what it says; MPI, mpi4py and PETSc have to belong together")


def _variables() -> dict[str, str]:
    """For ranks of a test run: on any cores there are, as root too, with a thread each."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
