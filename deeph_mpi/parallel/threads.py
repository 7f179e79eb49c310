"""Threads per rank, from the cores a rank may use and the ranks that share them."""

from __future__ import annotations

import os
from collections import Counter

from deeph_mpi.parallel.world import World

__all__ = ["set_threads", "threads_per_rank"]

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def threads_per_rank(world: World) -> int:
    """Cores of this rank's affinity mask, each divided by the ranks of the node that may run on it; at least 1.

    Right for ranks bound to cores of their own, to a shared socket, or not bound at all. Collective.
    """
    from mpi4py import MPI

    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    node = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    ranks_on = Counter(core for mask in node.allgather(mine) for core in mask)
    node.Free()
    return max(1, int(sum(1 / ranks_on[core] for core in mine) + 1e-9))


def set_threads(world: World) -> int:
    """Set the number of threads of BLAS and torch, through the environment: call it before they are imported.

    A user's `OMP_NUM_THREADS` is respected. Collective.

    Returns:
        Threads of this rank.
    """
    found = threads_per_rank(world)
    chosen = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = int(chosen) if chosen.isdigit() and int(chosen) > 0 else found
    for name in _VARIABLES:
        os.environ.setdefault(name, str(threads))
    return threads
