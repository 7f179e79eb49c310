"""Where the time and the memory of a run went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory
from deeph_mpi.parallel.world import World

__all__ = ["StageRow", "Stages"]


@dataclass(frozen=True)
class StageRow:
    """One stage of a run.

    Attributes:
        name: of the stage.
        seconds_max: wall-clock time on the rank that needed longest.
        seconds_mean: mean over ranks; what it falls short of `seconds_max` was spent waiting.
        memory_max: largest resident memory of a rank during the stage, bytes.
        memory_sum: the same, summed over ranks, bytes.
    """

    name: str
    seconds_max: float
    seconds_mean: float
    memory_max: int
    memory_sum: int


class Stages:
    """Accumulates the seconds and the peak memory of named stages: `with stages("partition"): …`.

    Entering and leaving a stage is not collective. Stages may be nested (an outer one includes its inner ones) and
    repeated (seconds add up).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._seconds: dict[str, float] = {}
        self._memory: dict[str, int] = {}
        self._open: list[str] = []
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside to stage `name`."""
        self._note_memory()
        self._open.append(name)
        self._seconds.setdefault(name, 0.0)
        self._memory.setdefault(name, 0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start
            self._note_memory()
            self._open.pop()

    def _note_memory(self) -> None:
        """Give the peak since the last note to all open stages, and start a new one."""
        peak = peak_memory()
        for name in self._open:
            self._memory[name] = max(self._memory[name], peak)
        reset_peak_memory()

    def table(self) -> list[StageRow]:
        """All stages in the order of rank 0, then those of others, and the total since construction. Collective."""
        own = {name: (self._seconds[name], self._memory[name]) for name in self._seconds}
        total = (time.perf_counter() - self._start, max([peak_memory(), *self._memory.values()]))
        ranks = self.world.comm.allgather({**own, "total": total})
        names = [name for name in dict.fromkeys(name for rank in ranks for name in rank) if name != "total"]
        rows = []
        for name in [*names, "total"]:
            seconds = [rank.get(name, (0.0, 0))[0] for rank in ranks]
            memory = [rank.get(name, (0.0, 0))[1] for rank in ranks]
            rows.append(StageRow(name, max(seconds), sum(seconds) / len(seconds), max(memory), sum(memory)))
        return rows

    def summary(self) -> str:
        """The table as text. Collective."""
        rows = self.table()
        width = max(len("stage"), *(len(row.name) for row in rows))
        lines = [f"{'stage':<{width}}  seconds (max)  (mean)   memory of a rank   of all"]
        for row in rows:
            lines.append(
                f"{row.name:<{width}}  {row.seconds_max:13.2f}  {row.seconds_mean:6.2f}   "
                f"{row.memory_max / 1e9:13.3f} GB  {row.memory_sum / 1e9:5.2f} GB"
            )
        return "\n".join(lines)
