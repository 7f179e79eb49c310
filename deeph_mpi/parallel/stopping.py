"""Requests from outside to stop, and how ranks agree on them.

SIGTERM and SIGUSR1 (preemption, a time limit that comes near) let a job finish the unit at hand where its units are kept
(`finishing_units`), and end it at once elsewhere. A second SIGTERM ends it at once everywhere. Where the main thread is
inside a library that waits for other ranks, a thread of its own does that; inside a factorization, which lets no other
thread run, it has to wait for its end, or for the SIGKILL of the batch system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from deeph_mpi.parallel.world import World, rank_from_environment

__all__ = ["Terminated", "finishing_units", "listen", "stop_agreed", "stop_noticed"]

_SAME = 3.0  # s: what follows this soon is the same request, sent by launcher and batch system both
_PATIENCE = 2.0  # s that the main thread has to leave by itself


class Terminated(BaseException):
    """The job has to end at once. Not an `Exception`, so that nothing on the way mistakes it for a failure.

    Attributes:
        exit_code: 75 when asked to stop, 143 at the second request.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Requests:
    """What this rank was asked. Handlers run in the main thread, `watch` in another."""

    def __init__(self) -> None:
        self.finishing = 0
        self.leaving = False
        self.signal = ""
        self.first = float("inf")

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the request; or leave, when it must not wait."""
        code = self.urgent(number)
        if not code:
            self.signal = self.signal or signal.Signals(number).name
            return
        self.leaving = True
        for other in (signal.SIGTERM, signal.SIGUSR1):  # the launcher sends them to all ranks once one has left
            signal.signal(other, signal.SIG_IGN if other == signal.SIGUSR1 else signal.SIG_DFL)
        raise Terminated(f"stopped by {signal.Signals(number).name}", code)

    def urgent(self, number: int) -> int:
        """The exit code when a signal that has just arrived ends the job at once, else 0."""
        now = time.monotonic()
        self.first = min(self.first, now)
        if number == signal.SIGTERM and now - self.first > _SAME:
            return 143
        return 0 if self.finishing or self.signal else 75

    def watch(self, pipe: int) -> None:
        """End this process when the main thread cannot: the launcher ends the others."""
        while number := os.read(pipe, 1):
            if number[0] not in (signal.SIGTERM, signal.SIGUSR1) or not (code := self.urgent(number[0])):
                continue
            time.sleep(_PATIENCE)
            if self.leaving:
                return
            if rank_from_environment() == 0:
                print(f"deeph-mpi: stopped by {signal.Signals(number[0]).name}", file=sys.stderr, flush=True)
            os._exit(code)


_requests = _Requests()
_listening = False


def listen() -> None:
    """Take over SIGTERM and SIGUSR1 of this process; call it in the main thread. Not collective."""
    global _listening
    if _listening:
        return
    _listening = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _requests.handle)
    threading.Thread(target=_requests.watch, args=(reading,), name="signals", daemon=True).start()


@contextlib.contextmanager
def finishing_units() -> Iterator[None]:
    """Inside, a request to stop waits until `stop_agreed` is asked: what is done there is kept. Not collective."""
    _requests.finishing += 1
    try:
        yield
    finally:
        _requests.finishing -= 1


def stop_noticed() -> str:
    """The signal that asked this rank to stop; empty when none did. Not collective."""
    return _requests.signal


def stop_agreed(world: World) -> str:
    """The signal that asked any of these ranks to stop; empty when none did. Collective, the cost of one small message."""
    from mpi4py import MPI

    return signal.Signals(number).name if (number := world.comm.allreduce(_number(), op=MPI.MAX)) else ""


def _number() -> int:
    return int(signal.Signals[_requests.signal]) if _requests.signal else 0
