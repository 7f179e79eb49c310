"""Tests here run on every rank of an mpirun (1, 2, 3 and 4 ranks): SPMD, with the fixture `world`.

A failure on any rank aborts the job at once, so that nothing hangs in a collective.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deeph_mpi.parallel import World


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the imports made stays: the collections below need not look at it, which took half of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def world() -> World:
    return World.default()


@pytest.fixture
def shared_path(world: World, tmp_path: Path) -> Path:
    """One temporary folder, made by rank 0, known to all ranks."""
    return world.comm.bcast(tmp_path, root=0)


@pytest.fixture(autouse=True)
def in_step() -> Iterator[None]:
    yield
    if "petsc4py" in sys.modules:  # its objects must be destroyed on all ranks together
        gc.collect()
    World.default().comm.barrier()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        world = World.default()
        print(
            f"\n[rank {world.rank} of {world.size}] {item.nodeid}\n{report.longreprtext}", file=sys.stderr, flush=True
        )
        world.comm.Abort(1)
