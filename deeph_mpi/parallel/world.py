"""The set of MPI ranks a run works with, and how its ranks agree on errors.

mpi4py is imported on first use, so that a module that merely names `World` costs nothing.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from deeph_mpi.errors import DeephError

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["World", "launched_by_mpi", "rank_from_environment"]

T = TypeVar("T")

_FAILED = 32767  # tag of the word to rank 0 that another rank has reported an error; the largest MPI guarantees

_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


@dataclass(frozen=True)
class World:
    """A communicator with its rank and size.

    Attributes:
        comm: the mpi4py communicator.
        rank: of this process, 0-based.
        size: number of ranks.
    """

    comm: MPI.Intracomm
    rank: int
    size: int

    @classmethod
    def default(cls) -> World:
        """The world of this job: all ranks that mpirun started, or one rank without mpirun."""
        from mpi4py import MPI

        return cls.of(MPI.COMM_WORLD)

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> World:
        """Wrap a communicator."""
        return cls(comm, comm.Get_rank(), comm.Get_size())

    @classmethod
    def alone(cls) -> World:
        """A world of this process only (COMM_SELF)."""
        from mpi4py import MPI

        return cls.of(MPI.COMM_SELF)

    def split(self, color: int) -> World:
        """The ranks of one color among themselves, in the same order. Collective."""
        from mpi4py import MPI

        part = self.comm.Split(color, self.rank)
        return World.of(MPI.Intracomm(part))

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which reads, logs and writes single files."""
        return self.rank == 0

    @cached_property
    def local_size(self) -> int:
        """Number of ranks that share this rank's node. Collective on first use."""
        from mpi4py import MPI

        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        size = node.Get_size()
        node.Free()
        return size

    def on_root(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call `function` on rank 0 and broadcast its pickled result; an error is raised on all ranks. Collective."""
        outcome: tuple[bool, Any] = (True, None)
        if self.is_root:
            try:
                outcome = (True, function(*args, **kwargs))
            except DeephError as error:
                outcome = (False, error)
            except OSError as error:
                outcome = (False, DeephError(str(error)))
        good, value = self.comm.bcast(outcome, root=0)
        if good:
            return value
        raise _on_all_ranks(value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block of rank-local work; if it fails on any rank, the first failure is raised on all. Collective.

        Collectives inside the block must not depend on what can fail in it.
        """
        error: DeephError | None = None
        try:
            yield
        except DeephError as caught:
            error = caught
        except OSError as caught:
            error = DeephError(str(caught))
        from mpi4py import MPI

        first = self.comm.allreduce(self.rank if error is not None else self.size, op=MPI.MIN)
        if first < self.size:
            raise _on_all_ranks(self.comm.bcast(error, root=first))

    def sum(self, value: float) -> float:
        """Sum over ranks. Collective."""
        return self.comm.allreduce(value)

    def max(self, value: float) -> float:
        """Maximum over ranks. Collective."""
        from mpi4py import MPI

        return self.comm.allreduce(value, op=MPI.MAX)

    def install_abort_hook(self) -> None:
        """Make an uncaught exception on any rank end all ranks, with one readable message and a non-zero exit."""
        sys.excepthook = self._excepthook

    def fail(self, error: BaseException) -> int:
        """Report `error` and return the exit code; aborts the job when other ranks cannot know of it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # sent to all once one rank aborts: this one need not say so
        known = isinstance(error, DeephError)
        code = error.exit_code if isinstance(error, DeephError) else 1
        everywhere = self.size == 1 or (isinstance(error, DeephError) and error.everywhere)
        if everywhere and not self.is_root:
            return code
        if not everywhere and not self.is_root:
            time.sleep(0.5)  # where all ranks fail alike, rank 0 speaks and aborts first
        if not known or os.environ.get("DEEPH_MPI_TRACEBACK"):
            traceback.print_exception(error)
        where = "" if everywhere else f" on rank {self.rank} of {self.size}"
        what = str(error) if known else f"{type(error).__name__}: {error}"
        print(f"deeph-mpi: error{where}: {what}", file=sys.stderr, flush=True)
        if not everywhere:
            sys.stdout.flush()
            if not self.is_root:
                self.comm.isend(None, dest=0, tag=_FAILED)
            time.sleep(0.2)  # so that the launcher shows the message before its own
            self.comm.Abort(code)
        return code

    def terminate(self, message: str, code: int) -> int:
        """End the job at once on a request from outside (SIGTERM), with one message from rank 0, and return the exit code.

        The launcher sends the same signal to all ranks when one of them has failed: that rank has spoken already.
        """
        from mpi4py import MPI

        if self.is_root and not self.comm.iprobe(source=MPI.ANY_SOURCE, tag=_FAILED):
            print(f"deeph-mpi: {message}", file=sys.stderr, flush=True)
        if self.size > 1:
            time.sleep(0.0 if self.is_root else 0.5)
            self.comm.Abort(code)
        return code

    def _excepthook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.exit(self.fail(error))


def rank_from_environment() -> int:
    """This process's rank as the launcher's variables tell it, without starting MPI; 0 without a launcher."""
    found = [os.environ[name] for name in _RANK_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found else 0


def launched_by_mpi() -> bool:
    """Whether a launcher (mpirun, srun, …) started this process as one of several ranks."""
    return any(os.environ.get(name, "").isdigit() for name in _RANK_VARIABLES)


def _on_all_ranks(error: DeephError) -> DeephError:
    error = copy.copy(error)
    error.everywhere = True
    return error
