"""Where the time, the memory and the messages of a run went."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory
from deeph_mpi.parallel.traffic import bytes_sent
from deeph_mpi.parallel.world import World

__all__ = ["Spread", "StageRow", "Stages", "table_of_stages"]

log = logging.getLogger(__name__)


class Spread(NamedTuple):
    """A number of every rank: the largest, the mean, the smallest. NaN where it was not kept."""

    max: float
    mean: float
    min: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values of all ranks."""
        return cls(max(values), sum(values) / len(values), min(values))


@dataclass(frozen=True)
class StageRow:
    """One stage of a run.

    Attributes:
        name: of the stage.
        seconds: wall-clock time; what the mean falls short of the largest was spent waiting.
        memory: largest resident memory during the stage, bytes.
        sent: bytes sent to other ranks, as `deeph_mpi.parallel.traffic` counts them.
    """

    name: str
    seconds: Spread
    memory: Spread
    sent: Spread


class Stages:
    """Accumulates the seconds, the peak memory and the bytes sent of named stages: `with stages("partition"): …`.

    Entering and leaving a stage is not collective. Stages may be nested (an outer one includes its inner ones) and
    repeated (seconds and bytes add up).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._seconds: dict[str, float] = {}
        self._memory: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._open: list[str] = []
        self._start, self._sent_before = time.perf_counter(), bytes_sent()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside to stage `name`."""
        self._note_memory()
        self._open.append(name)
        for table in (self._seconds, self._memory, self._sent):
            table.setdefault(name, 0)
        log.debug("%s: begins", name)
        emit("stage_begin", stage=name)
        start, sent = time.perf_counter(), bytes_sent()
        try:
            yield
        finally:
            seconds, sent = time.perf_counter() - start, bytes_sent() - sent
            self._seconds[name] += seconds
            self._sent[name] += sent
            self._note_memory()
            self._open.pop()
            memory = self._memory[name]
            emit("stage_end", stage=name, seconds=seconds, memory=memory, sent=sent)
            log.debug("%s: %.2f s, %.3f GB, %.3f MB sent", name, seconds, memory / 1e9, sent / 1e6)

    def _note_memory(self) -> None:
        """Give the peak since the last note to all open stages, and start a new one."""
        peak = peak_memory()
        for name in self._open:
            self._memory[name] = max(self._memory[name], peak)
        reset_peak_memory()

    def table(self) -> list[StageRow]:
        """All stages in the order of rank 0, then those of others, and the total since construction. Collective."""
        own = {name: (self._seconds[name], self._memory[name], self._sent[name]) for name in self._seconds}
        memory = max([peak_memory(), *self._memory.values()])
        own["total"] = time.perf_counter() - self._start, memory, bytes_sent() - self._sent_before
        ranks = self.world.comm.allgather(own)
        names = [name for name in dict.fromkeys(name for rank in ranks for name in rank) if name != "total"]
        rows = []
        for name in [*names, "total"]:
            seconds, peaks, sent = zip(*(rank.get(name, (0.0, 0, 0)) for rank in ranks), strict=True)
            rows.append(StageRow(name, Spread.of(seconds), Spread.of(peaks), Spread.of(sent)))
        if self.world.is_root:
            emit("stages", rows=rows)
        return rows

    def summary(self) -> str:
        """The table as text. Collective."""
        return "\n".join(table_of_stages(self.table(), self.world.size))


def table_of_stages(rows: Sequence[StageRow], ranks: int) -> list[str]:
    """The table as lines of text; of one rank without means, extremes and messages."""
    width = max(len("stage"), *(len(row.name) for row in rows))
    if ranks == 1:
        lines = [f"{'stage':<{width}}  seconds  memory (GB)"]
        return lines + [f"{r.name:<{width}}{r.seconds.max:9.2f}{r.memory.max / 1e9:13.3f}" for r in rows]
    columns = (("seconds", "seconds", 8, 2, 1.0), ("memory", "GB of a rank", 7, 2, 1e9), ("sent", "MB sent", 8, 1, 1e6))
    lines = ["".join([" " * width, *(f" {title:>{3 * room}}" for _, title, room, _, _ in columns)])]
    parts = [f"{part:>{room}}" for _, _, room, _, _ in columns for part in Spread._fields]
    lines.append(f"{'stage':<{width}}" + "".join(" " * (n % 3 == 0) + part for n, part in enumerate(parts)))
    for row in rows:
        text = f"{row.name:<{width}}"
        for name, _, room, digits, unit in columns:
            text += " " + "".join(_fitted(value / unit, room, digits) for value in getattr(row, name))
        lines.append(text)
    lines.append("(sent: by deeph-mpi itself; messages of PETSc, SLEPc and MUMPS are not counted)")
    return lines


def _fitted(value: float, room: int, digits: int) -> str:
    """With so many decimals, or fewer where a blank would not remain in front."""
    texts = (f"{value:{room}.{n}f}" for n in range(digits, -1, -1))
    return next((text for text in texts if text.startswith(" ")), f" {value:.0f}")
