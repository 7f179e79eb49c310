"""Logging: rank 0 tells the story on standard output, the others speak up only to warn; on request a file for every rank."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from deeph_mpi.parallel.world import World

__all__ = ["is_quiet", "note_failure", "on_terminal", "setup_logs"]

_LOGGERS = ("deeph_mpi", "py.warnings")


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


def setup_logs(world: World, level: int = logging.INFO, files: Path | None = None) -> None:
    """Send what the package logs to standard output from rank 0, warnings of the others to standard error. Collective.

    Warnings of Python libraries are shown by rank 0 alone. Calling it again replaces the earlier set-up.

    Args:
        world: the ranks.
        level: of `logging`, what rank 0 shows.
        files: folder for one file per rank, rank0.log and so on, with time, level and origin of every message from `level`
            (at most INFO) on; a file that is there is continued.

    Raises:
        DeephError: on all ranks, when a file cannot be written.
    """
    console = _CurrentStdout() if world.is_root else logging.StreamHandler(sys.stderr)
    console.setFormatter(_Format("" if world.is_root else f"[rank {world.rank}] "))
    console.setLevel(level if world.is_root else logging.WARNING)
    handlers: dict[str, list[logging.Handler]] = {name: [console] for name in _LOGGERS}
    if not world.is_root:
        handlers["py.warnings"] = []
    with world.together():
        if files is not None:
            files.mkdir(parents=True, exist_ok=True)
            name = f"rank{world.rank:0{len(str(world.size - 1))}d}.log"
            file = logging.FileHandler(files / name, encoding="utf-8")
            file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
            file.setLevel(min(level, logging.INFO))
            for chosen in handlers.values():
                chosen.append(file)
    for name, chosen in handlers.items():
        logger = logging.getLogger(name)
        for old in logger.handlers:
            if isinstance(old, logging.FileHandler):
                old.close()
        logger.handlers[:] = chosen
        logger.propagate = False
        logger.setLevel(min((handler.level for handler in chosen), default=logging.ERROR))
    logging.captureWarnings(True)


def note_failure(error: BaseException) -> None:
    """Write an error that ends the run, with its traceback, into this rank's log file, if there is one. Not collective."""
    trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("deeph_mpi", logging.CRITICAL, __file__, 0, "the run ends: %s", (error,), trace)
    for handler in logging.getLogger("deeph_mpi").handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def is_quiet() -> bool:
    """Whether standard output shows warnings alone."""
    shown = [h for h in logging.getLogger("deeph_mpi").handlers if isinstance(h, _CurrentStdout)]
    return any(handler.level > logging.INFO for handler in shown)


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
