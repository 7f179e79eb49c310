"""Some ranks of every node work, with the cores of the others, which sleep meanwhile.

A factorization over many ranks of a node is slower than over a few with several threads each: the first ones of every
front wait for one another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from deeph_mpi.errors import DeephError
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.nodes import leaders_of, node_of_ranks
from deeph_mpi.parallel.threads import chosen_threads, cores_of_process
from deeph_mpi.parallel.world import World

__all__ = ["Team"]

T = TypeVar("T")

_NAP = 0.02  # s
_SIGN_OF_LIFE = 20.0  # s, for the watchdog


class Team:
    """The ranks that work, and what the others lend them.

    Attributes:
        everyone: all ranks.
        ranks: (members,) of those that work, among all; rank 0 is the first of them.
        members: those among themselves; None on other ranks.
        threads: of each of them while they work.
    """

    def __init__(self, world: World, per_node: int | None = None) -> None:
        """Collective.

        Args:
            world: all ranks.
            per_node: ranks of each node that work; None: all.
        """
        threads = chosen_threads() or 1  # `set_threads` has chosen
        self.everyone, self.threads = world, threads
        self.ranks = np.arange(world.size)
        self.members: World | None = world
        if per_node is None:
            return
        nodes, leaders = node_of_ranks(world), np.empty(world.size, dtype=np.int64)
        for node in np.unique(nodes):
            ranks = np.flatnonzero(nodes == node)
            leaders[ranks] = leaders_of(ranks, per_node)
        self.ranks = np.unique(leaders)
        if self.is_whole:
            return
        works = bool(leaders[world.rank] == world.rank)
        part = world.split(int(works))
        self.members = part if works else None
        lent = world.comm.allgather((cores_of_process(), threads))
        group = np.flatnonzero(leaders == world.rank)
        self._cores = {core for rank in group for core in lent[rank][0]}
        self.threads = sum(lent[rank][1] for rank in group)

    @property
    def is_whole(self) -> bool:
        """Whether all ranks work."""
        return len(self.ranks) == self.everyone.size

    def run(self, work: Callable[[], T]) -> T | None:
        """Do it on the ranks that work, and return when it is done; None on the others. Collective over all.

        Raises:
            DeephError: whatever the members raise, on all ranks.
        """
        if self.is_whole:
            return work()
        result, error = None, None
        if self.members is not None:
            with self._lent():
                try:
                    result = work()
                except DeephError as caught:
                    if not caught.everywhere:
                        raise  # the other members do not know of it: the job is ended from here
                    error = caught
        self._meet()
        error = self.everyone.comm.bcast(error)
        if error is not None:
            error.everywhere = True
            raise error
        return result

    def told(self, value: T | None) -> T:
        """What rank 0 has, on the ranks that do not work; theirs on those that do. Collective over all."""
        if self.is_whole:
            assert value is not None
            return value
        told: T = self.everyone.comm.bcast(value)
        return told if value is None else value

    def _meet(self) -> None:
        """Wait for all ranks, asleep: a rank that waits in MPI takes a core."""
        request, since = self.everyone.comm.Ibarrier(), time.monotonic()
        while not request.Test():
            time.sleep(_NAP)
            if time.monotonic() - since > _SIGN_OF_LIFE:
                emit("progress", label="other ranks work", done=0, total=1, seconds=0.0, left=None, note="")
                since = time.monotonic()

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """With the cores and threads of the ranks of this one's group."""
        own = cores_of_process()
        _bind(self._cores)
        try:
            with threadpool_limits(self.threads, user_api="blas"):
                yield
        finally:
            _bind(own)


def _bind(cores: Iterable[int]) -> None:
    """Let all threads of this process run on these cores, where the system lets one say so."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread), cores)
