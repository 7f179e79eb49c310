"""Logging: rank 0 tells the story on standard output, the others speak up only to warn."""

from __future__ import annotations

import logging
import os
import sys

from deeph_mpi.parallel.world import World

__all__ = ["on_terminal", "setup_logs"]


class _Format(logging.Formatter):
    """Bare messages, with the level (and the rank, other than 0) in front of warnings."""

    def __init__(self, prefix: str) -> None:
        super().__init__("%(message)s")
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return self.prefix + level + super().format(record)


class _CurrentStdout(logging.StreamHandler):
    """Writes to whatever `sys.stdout` is at the time, so that a progress bar can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def setup_logs(world: World) -> None:
    """Send what the package logs to standard output from rank 0 (INFO), to standard error from others (WARNING).

    Warnings of Python libraries are shown by rank 0 alone. Calling it again replaces the earlier set-up.
    """
    handler = _CurrentStdout() if world.is_root else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format("" if world.is_root else f"[rank {world.rank}] "))
    for name in ("deeph_mpi", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        quiet = logging.WARNING if name == "deeph_mpi" else logging.ERROR
        logger.setLevel(logging.INFO if world.is_root else quiet)
    logging.captureWarnings(True)


def on_terminal() -> bool:
    """Whether someone watches standard output.

    OpenMPI gives its processes a terminal of their own even when mpirun writes to a file; there the launcher's own
    output decides.
    """
    if not sys.stdout.isatty():
        return False
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
