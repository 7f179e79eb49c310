"""Threads per rank, from the cores a rank may use and the ranks that share them."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from typing import TypeVar

from deeph_mpi.parallel.world import World

__all__ = [
    "chosen_threads",
    "core_load",
    "cores_of_process",
    "set_threads",
    "thread_variables",
    "threads_per_rank",
    "warn_of_shared_cores",
]

T = TypeVar("T")
log = logging.getLogger(__name__)

ALLOWED = "DEEPH_MPI_OVERSUBSCRIBE"
"""Variable that says that more threads than cores are meant."""


def thread_variables(threads: int) -> dict[str, str]:
    """Environment by which OpenMP, BLAS (OpenBLAS, MKL, BLIS) and torch all use this many threads.

    They take turns on the same cores. A parallel region inside another one, as of OpenBLAS built with OpenMP inside torch,
    gets no threads of its own.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "OMP_MAX_ACTIVE_LEVELS": "1"}


def threads_per_rank(world: World) -> int:
    """Cores of this rank's affinity mask, each divided by the ranks of the node that may run on it; at least 1.

    Right for ranks bound to cores of their own, to a shared socket, or not bound at all. Collective.
    """
    mine = cores_of_process()
    ranks_on = Counter(core for mask in _on_this_node(world, mine) for core in mask)
    return max(1, int(sum(1 / ranks_on[core] for core in mine) + 1e-9))


def core_load(world: World, threads: int) -> float:
    """Threads per core on the core of this node that has the most of them: above 1 they wait for each other. Collective.

    Args:
        threads: of this rank, which move among the cores it may run on.
    """
    load: dict[int, float] = defaultdict(float)
    for mask, count in _on_this_node(world, (cores_of_process(), threads)):
        for core in mask:
            load[core] += count / len(mask)
    return max(load.values())


def set_threads(world: World) -> int:
    """Set the number of threads of BLAS and torch, through the environment: call it before they are imported.

    A user's `OMP_NUM_THREADS` is respected. Collective.

    Returns:
        Threads of this rank.
    """
    found = threads_per_rank(world)
    threads = chosen_threads() or found
    for name, value in thread_variables(threads).items():
        os.environ.setdefault(name, value)
    return threads


def chosen_threads() -> int | None:
    """Threads that `OMP_NUM_THREADS` gives this process; None where it gives no number."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(chosen) if chosen.isdigit() and int(chosen) > 0 else None


def warn_of_shared_cores(world: World, threads: int) -> None:
    """Say so where ranks have more threads than cores, unless DEEPH_MPI_OVERSUBSCRIBE is set. Collective.

    One thread a rank is not remarked on: ranks beyond the cores were then asked for by name, and launchers refuse them
    unless told to.
    """
    worst = world.max(core_load(world, threads))
    if worst < 1.01 or world.max(threads) == 1 or os.environ.get(ALLOWED):
        return
    if world.is_root:
        log.warning(
            "%.3g threads share a core (%d thread(s) a rank, which may run on %d core(s)), and wait for each other. Let ranks "
            "use more cores (Open MPI: --bind-to none, or --map-by slot:PE=%d), lower OMP_NUM_THREADS, or set %s=1 if this is "
            "meant",
            worst, threads, len(cores_of_process()), threads, ALLOWED,
        )  # fmt: skip


def cores_of_process() -> list[int]:
    """That this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _on_this_node(world: World, value: T) -> list[T]:
    """The values of all ranks of this node. Collective."""
    from mpi4py import MPI

    node = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    values = node.allgather(value)
    node.Free()
    return values
