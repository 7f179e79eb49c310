"""Progress of long loops: a bar on a terminal, a line now and then in a batch log, nothing on ranks other than 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from deeph_mpi.parallel.logs import on_terminal
from deeph_mpi.parallel.world import World

__all__ = ["Progress", "progress"]

log = logging.getLogger(__name__)

FIRST_LINE_S = 10.0
LONGEST_PAUSE_S = 300.0


class Progress(Protocol):
    """What a loop reports to."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more steps done; `note` (a loss, a k-point) is shown beside the count."""


class _Silent:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Lines:
    """Lines in a log: the first after 10 s, then at pauses that grow by half, so that a long job stays readable."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.start = self.last = time.monotonic()
        self.pause = FIRST_LINE_S

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < self.pause:
            return
        self.last, self.pause = now, min(1.5 * self.pause, LONGEST_PAUSE_S)
        spent = now - self.start
        left = spent / max(self.done, 1) * (self.total - self.done)
        tail = f", {note}" if note else ""
        log.info("%s %d/%d, %s, %s left%s", self.label, self.done, self.total, _clock(spent), _clock(left), tail)


@contextmanager
def progress(world: World, label: str, total: int) -> Iterator[Progress]:
    """Report progress over `total` steps of a loop: `with progress(world, "epochs", 200) as bar: … bar.advance()`.

    Not collective: only rank 0 shows anything.
    """
    if not world.is_root:
        yield _Silent()
    elif not on_terminal():
        yield _Lines(label, total)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=Console(), transient=True) as bars:
            task = bars.add_task(label, total=total, note="")

            class _Bar:
                def advance(self, n: int = 1, note: str = "") -> None:
                    bars.update(task, advance=n, note=note)

            yield _Bar()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
