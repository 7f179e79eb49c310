"""Starting programs under mpirun from a test, with a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"


def mpirun(ranks: int, *command: str, timeout: float = 240, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run `command` on `ranks` ranks (oversubscribed, one thread each); output is captured, both streams in `stdout`."""
    return subprocess.run(
        launcher(ranks, *command),
        cwd=cwd or ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
    )


def launcher(ranks: int, *command: str) -> list[str]:
    """The command line that starts `command` on `ranks` ranks."""
    return [shutil.which("mpirun") or "mpirun", "--oversubscribe", "-n", str(ranks), *command]


def environment() -> dict[str, str]:
    """Variables for programs under mpirun."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }


def deeph_mpi(
    ranks: int, *arguments: str, timeout: float = 240, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run the command line `deeph-mpi ARGUMENTS` on `ranks` ranks."""
    return mpirun(ranks, sys.executable, "-m", "deeph_mpi", *arguments, timeout=timeout, cwd=cwd)
