"""Says which rank stopped making progress, in which stage and where in the program.

Every rank notes its stage and the time of its last progress in a small file. A process of its own, started by rank 0, reads
them: it also works while all ranks are inside a library that lets no other thread run. Where a rank is in the program is
written by a timer that needs no interpreter.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from deeph_mpi.parallel import watcher
from deeph_mpi.parallel.events import listening
from deeph_mpi.parallel.world import World

__all__ = ["watchdog"]

_PAUSE = 1.0  # s between two notes at least


class _Settings(Protocol):
    watchdog_minutes: float
    watchdog_abort: bool


class _Beat:
    """This rank's note of its progress; a listener of `deeph_mpi.parallel.events`."""

    def __init__(self, folder: Path, rank: int, limit: float) -> None:
        self._file = os.open(folder / f"beat.{rank}", os.O_RDWR | os.O_CREAT)
        self._stack = (folder / f"stack.{rank}").open("w+b", buffering=0)
        self._limit, self._last = limit, 0.0
        self._stages: list[str] = []
        self._detail = ""
        self._note()

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "stage_begin":
            self._stages.append(fields["stage"])
        elif kind == "stage_end" and self._stages:
            self._stages.pop()
        elif kind == "progress":
            self._detail = f"{fields['label']} {fields['done']}/{fields['total']}"
            if time.monotonic() - self._last < _PAUSE:
                return
        else:
            return
        if kind != "progress":
            self._detail = ""
        self._note()

    def _note(self) -> None:
        self._last = time.monotonic()
        where = " > ".join([*self._stages, *([self._detail] if self._detail else [])]) or "between stages"
        text = f"{time.time():.1f}\t{os.getpid()}\t{socket.gethostname()}\t{where}".encode()[: watcher.LENGTH]
        with suppress(OSError, RuntimeError):  # a full disk, no memory for the timer's thread: no reason to fail
            os.pwrite(self._file, text.ljust(watcher.LENGTH), 0)
            self._stack.truncate(0)
            self._stack.seek(0)
            # A little before the reader looks: it finds the stack there. Setting it again begins the time anew.
            faulthandler.dump_traceback_later(0.95 * self._limit, file=self._stack)

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._stack.close()
        os.close(self._file)


@contextmanager
def watchdog(world: World, settings: _Settings, directory: Path) -> Iterator[None]:
    """Watch over what happens inside. Collective.

    When any rank begins or ends no stage, and gets on with no loop, for `watchdog_minutes`, standard error tells of all such
    ranks, the one that has been silent longest first; with `watchdog_abort` the job is ended then.

    Args:
        world: the ranks.
        settings: the section [run]; 0 minutes: nothing is done.
        directory: of the output, seen by all ranks; a hidden folder there is removed at the end.

    Raises:
        DeephError: the directory cannot be written; on all ranks.
    """
    limit = 60 * settings.watchdog_minutes
    if not limit:
        yield
        return
    made, folder = world.on_root(_prepare, directory)
    with world.together():
        beat = _Beat(folder, world.rank, limit)
    process: subprocess.Popen[bytes] | None = None
    with world.together():
        if world.is_root:
            process = _start(folder, limit, made, abort=settings.watchdog_abort)
    try:
        with listening(beat):
            yield
    finally:
        beat.close()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)


def _prepare(directory: Path) -> tuple[bool, Path]:
    made = not directory.exists()
    for left in directory.glob(".watch-*"):  # of a run that was killed with everything around it
        shutil.rmtree(left, ignore_errors=True)
    folder = directory / f".watch-{os.getpid()}"
    folder.mkdir(parents=True)
    return made, folder


def _start(folder: Path, limit: float, made: bool, *, abort: bool) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(limit), str(os.getpid() if abort else 0), str(int(made))]
    command = [sys.executable, "-I", "-S", watcher.__file__, *arguments]
    # In a session of its own: launchers kill whole process groups, and it has to tidy up.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
