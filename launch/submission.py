"""Handing a script to the batch system."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from deeph_mpi.errors import ConfigError, DeephError

__all__ = ["check_scheduler", "submit_script"]

_COMMANDS = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}
_LIMIT = 120  # s


def check_scheduler(scheduler: str) -> str:
    """The path of the command that submits.

    Raises:
        ConfigError: it is not there.
    """
    name = _COMMANDS[scheduler]
    found = shutil.which(name)
    if found is None:
        others = [f"--scheduler {kind}" for kind, command in _COMMANDS.items() if shutil.which(command)]
        hint = f"; here one could use {' or '.join(others)}" if others else ""
        raise ConfigError(f"there is no {name} on PATH: submit from a login node of the cluster, or use --output{hint}")
    return found


def submit_script(scheduler: str, script: Path) -> str:
    """Submit and return what the batch system says, such as the number of the job.

    Raises:
        ConfigError: the command is not there.
        DeephError: it refuses the script or does not answer, with its words.
    """
    command = check_scheduler(scheduler)
    name = _COMMANDS[scheduler]
    reads_input = scheduler == "lsf"  # bsub takes directives of a script only from its standard input
    try:
        with script.open() as text:
            run = subprocess.run(
                [command] if reads_input else [command, str(script)],
                stdin=text if reads_input else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise DeephError(f"{name} did not answer within {_LIMIT} s; the script is {script}") from None
    said = "\n".join(part.strip() for part in (run.stdout, run.stderr) if part.strip())
    if run.returncode:
        raise DeephError(f"{name} refuses {script} (exit code {run.returncode}): {said}")
    return said
