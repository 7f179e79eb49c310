"""All ways to watch a run, set up together: level of the log, log files, JSON lines, profiles."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deeph_mpi._version import __version__
from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel.events import emit, listening
from deeph_mpi.parallel.jsonlines import JsonLines, WarningEvents
from deeph_mpi.parallel.logs import note_failure, setup_logs
from deeph_mpi.parallel.profile import Profile
from deeph_mpi.parallel.world import World

__all__ = ["Observation", "observing"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observation:
    """How a run is watched.

    Attributes:
        level: of `logging`, what rank 0 shows.
        log_files: folder for a log file per rank, see `setup_logs`.
        json_lines: file for `JsonLines`.
        profile: folder for `Profile`.
    """

    level: int = logging.INFO
    log_files: Path | None = None
    json_lines: Path | None = None
    profile: Path | None = None

    def check(self) -> None:
        """Make the folders and see that they can be written; for one rank.

        Raises:
            ConfigError: naming the option.
        """
        folders = {"--log-files": self.log_files, "--profile": self.profile}
        for option, path in {**folders, "--json-lines": self.json_lines}.items():
            if path is None:
                continue
            try:
                (path if option in folders else path.parent).mkdir(parents=True, exist_ok=True)
                if option in folders:
                    tempfile.TemporaryFile(dir=path).close()
                else:
                    path.open("a").close()
            except OSError as error:
                raise ConfigError(f"{option}: cannot write '{path}' ({error.strerror})") from None


@contextmanager
def observing(world: World, wanted: Observation, command: str, subject: str = "") -> Iterator[None]:
    """Watch what happens inside. Entering, and leaving without an error, is collective.

    Args:
        world: the ranks.
        wanted: how.
        command: what is run, for `JsonLines`.
        subject: what it is run on, for a line at the top of the log; no line without it.

    Raises:
        DeephError: on all ranks, when a file cannot be written.
    """
    world.on_root(wanted.check)
    setup_logs(world, wanted.level, wanted.log_files)
    begin = time.monotonic()
    with ExitStack() as stack:
        with world.together():
            if wanted.json_lines is not None and world.is_root:
                _write_lines(stack, wanted.json_lines)
        profile = None
        if wanted.profile is not None:
            profile = Profile(world, wanted.profile)
            stack.enter_context(listening(profile))
        if subject:
            _headline(world, f"{command} {subject}")
        emit("start", command=command, arguments=sys.argv[1:], version=__version__, ranks=world.size)
        try:
            yield
            if profile is not None:
                profile.finish()
        except BaseException as error:
            note_failure(error)
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
            message = str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"
            emit("end", exit_code=code, error=message, seconds=time.monotonic() - begin)
            raise
        emit("end", exit_code=0, error=None, seconds=time.monotonic() - begin)


def _headline(world: World, what: str) -> None:
    nodes = round(world.sum(1 / world.local_size))
    ranks = f"{world.size} rank{'s' * (world.size > 1)} on {nodes} node{'s' * (nodes > 1)}"
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    now = datetime.now().astimezone()
    log.info(
        "%s: deeph-mpi %s, %s, %s thread(s) each, %s", what, __version__, ranks, threads, f"{now:%Y-%m-%d %H:%M %Z}"
    )


def _write_lines(stack: ExitStack, path: Path) -> None:
    lines = JsonLines(path)
    stack.callback(lines.close)
    stack.enter_context(listening(lines))
    handler = WarningEvents(lines)
    for name in ("deeph_mpi", "py.warnings"):
        logging.getLogger(name).addHandler(handler)
        stack.callback(logging.getLogger(name).removeHandler, handler)
