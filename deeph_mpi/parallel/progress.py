"""Progress of long loops: a bar on a terminal, a line now and then in a batch log; of ranks other than 0 in log files alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.logs import is_quiet, on_terminal
from deeph_mpi.parallel.world import World

__all__ = ["Progress", "progress"]

log = logging.getLogger(__name__)

FIRST_LINE_S = 10.0
LONGEST_PAUSE_S = 300.0


class Progress:
    """What a loop reports to.

    Attributes:
        label: of the loop.
        total: its steps.
        done: steps done so far.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._before = done
        self._start = self._last = time.monotonic()
        self.show: Callable[[int, str], None] | None = None

    @property
    def spent(self) -> float:
        """Seconds since the loop began here."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float | None:
        """Seconds that the other steps will take at the pace of those done here; None before the first of them."""
        done = self.done - self._before
        if not done:
            return None
        whole = (self._last - self._start) / done * (self.total - self.done)  # as it was after the last of them
        return max(whole - (time.monotonic() - self._last), 0.0)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more steps done; `note` (a loss, a k-point) is shown beside the count."""
        self.done += n
        self._last = time.monotonic()
        emit(
            "progress",
            label=self.label,
            done=self.done,
            total=self.total,
            seconds=self.spent,
            left=self.left,
            note=note,
        )
        if self.show is not None:
            self.show(n, note)


class _Lines:
    """Lines in a log: the first after 10 s, then at pauses that grow by half, so that a long job stays readable."""

    def __init__(self, loop: Progress, level: int) -> None:
        self.loop, self.level = loop, level
        self.last = time.monotonic()
        self.pause = FIRST_LINE_S

    def __call__(self, n: int, note: str) -> None:
        now, loop = time.monotonic(), self.loop
        if now - self.last < self.pause:
            return
        self.last, self.pause = now, min(1.5 * self.pause, LONGEST_PAUSE_S)
        left = "" if loop.left is None else f", {_clock(loop.left)} left"
        tail = f", {note}" if note else ""
        log.log(self.level, "%s %d/%d, %s%s%s", loop.label, loop.done, loop.total, _clock(loop.spent), left, tail)


@contextmanager
def progress(world: World, label: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Report progress over `total` steps of a loop: `with progress(world, "epochs", 200) as bar: … bar.advance()`.

    Not collective: only rank 0 shows anything, the others log it at level DEBUG; every rank tells its listeners
    (`deeph_mpi.parallel.events`).

    Args:
        done: steps that an earlier run has done; the time left does not count them as done in this one's.
    """
    loop = Progress(label, total, done)
    level = logging.INFO if world.is_root else logging.DEBUG  # the latter for log files
    if not log.isEnabledFor(level):
        yield loop
    elif not world.is_root or is_quiet() or not on_terminal():
        loop.show = _Lines(loop, level)
        yield loop
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column
        from rich.text import Text

        class Left(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text("" if loop.left is None else f"{_clock(loop.left)} left")

        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(label))),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Left(Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        with Bars(*columns, console=Console(), transient=True, expand=True) as bars:
            task = bars.add_task(label, total=total, completed=done, note="")
            loop.show = lambda n, note: bars.update(task, advance=n, note=note)
            yield loop


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
