"""Agreement between ranks: errors of one are raised on all, and what ranks report adds up."""

from __future__ import annotations

import mmap
import os
import time
from importlib import import_module

import pytest

from deeph_mpi.errors import ConfigError, DataError, DeephError
from deeph_mpi.parallel import Stages, World, progress
from deeph_mpi.parallel.events import listening
from deeph_mpi.parallel.threads import threads_per_rank
from deeph_mpi.parallel.world import rank_from_environment


def test_on_root_gives_all_ranks_the_same(world: World) -> None:
    assert world.on_root(lambda base: [base, os.getpid()], 3) == world.comm.bcast([3, os.getpid()])


def test_on_root_raises_on_all_ranks(world: World) -> None:
    def fail() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong") as caught:
        world.on_root(fail)
    assert caught.value.everywhere
    with pytest.raises(DeephError, match="No such file") as missing:
        world.on_root(open, "/nowhere/at/all")
    assert missing.value.everywhere


def test_together_raises_the_first_failure_on_all_ranks(world: World) -> None:
    for failing in range(world.size):
        error = DataError(f"rank {world.rank}") if world.rank >= failing else None
        with pytest.raises(DataError, match=f"^rank {failing}$") as caught, world.together():
            raise_if(error)
        assert caught.value.everywhere
    with world.together():
        pass


def raise_if(error: DeephError | None) -> None:
    if error is not None:
        raise error


def test_sum_and_max(world: World) -> None:
    assert world.sum(world.rank) == world.size * (world.size - 1) / 2
    assert world.max(-world.rank) == 0


def test_the_launcher_tells_the_rank_before_mpi_does(world: World) -> None:
    assert rank_from_environment() == world.rank


def test_ranks_of_a_node_never_take_more_threads_than_it_has_cores(world: World) -> None:
    threads = threads_per_rank(world)
    cores = len(set().union(*world.comm.allgather(os.sched_getaffinity(0))))
    assert threads >= 1
    assert world.sum(threads) <= max(cores, world.size)


def test_stages_report_the_slowest_rank_the_mean_and_the_memory(world: World) -> None:
    stages = Stages(world)
    size = 300_000_000
    with stages("memory"), stages("inner"):
        if world.rank == world.size - 1:
            with mmap.mmap(-1, size) as block:  # not by malloc, which may keep what is freed (`keep_freed_memory`)
                block[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))  # pages are resident once written
    for _ in range(2):
        with stages("sleep"):
            time.sleep(0.05 * (world.rank + 1))
    rows = {row.name: row for row in stages.table()}
    assert list(rows) == ["memory", "inner", "sleep", "total"]
    assert rows["sleep"].seconds.max >= 0.1 * world.size
    assert rows["sleep"].seconds.mean >= 0.05 * (world.size + 1)
    assert rows["sleep"].seconds.mean <= rows["sleep"].seconds.max
    assert rows["total"].seconds.max >= rows["sleep"].seconds.max
    assert rows["inner"].memory.max >= size
    assert rows["memory"].memory.max >= rows["inner"].memory.max
    assert rows["sleep"].memory.max < rows["inner"].memory.max  # the peak is that of the stage, not of the run so far
    assert "sleep" in stages.summary()


def test_a_failing_stage_is_counted_all_the_same(world: World) -> None:
    stages = Stages(world)
    with pytest.raises(ZeroDivisionError), stages("bad"):
        1 / 0  # noqa: B018
    assert [row.name for row in stages.table()] == ["bad", "total"]


def test_progress_is_lines_of_rank_0_in_a_log(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("deeph_mpi.parallel.progress")
    monkeypatch.setattr(module, "on_terminal", lambda: False)
    monkeypatch.setattr(module, "FIRST_LINE_S", 0.0)
    with caplog.at_level("INFO"), progress(world, "epochs", 4) as bar:
        bar.advance(note="loss 3")
        bar.advance(2)
    lines = [record.getMessage() for record in caplog.records]
    if world.is_root:
        assert [line.split(",")[0] for line in lines] == ["epochs 1/4", "epochs 3/4"]
        assert lines[0].endswith("loss 3")
    else:
        assert lines == []


def test_the_time_left_of_a_continued_loop_is_that_of_its_own_steps(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 of 100 epochs were done before: one in 2 s leaves 9 of 2 s each, not 9 of 2/91 s."""
    module = import_module("deeph_mpi.parallel.progress")
    now = [1000.0]
    monkeypatch.setattr(module, "on_terminal", lambda: False)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "FIRST_LINE_S", 1.0)
    heard: list[dict] = []
    with (
        caplog.at_level("INFO"),
        listening(lambda kind, fields: heard.append(fields)),
        progress(world, "epoch", 100, done=90) as bar,
    ):
        bar.advance(0)
        now[0] += 2.0
        bar.advance()
    assert [fields["left"] for fields in heard] == [None, 18.0]
    assert [(fields["done"], fields["total"]) for fields in heard] == [(90, 100), (91, 100)]
    if world.is_root:
        assert caplog.records[-1].getMessage() == "epoch 91/100, 2 s, 18 s left"
