"""Non-blocking messages of raw bytes between neighbouring ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from deeph_mpi.parallel.traffic import count_sent

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Segment", "cut", "post_messages", "segments", "wait_all"]

Segment = tuple[int, int, int]
"""(rank, start, stop): rows of a message matrix that go to or come from one rank."""

CHUNK = 1 << 30  # bytes; counts of MPI before version 4 are int32


def post_messages(
    comm: MPI.Intracomm,
    sends: Iterable[tuple[int, Any]],
    receives: Iterable[tuple[int, Any]],
    tag: int,
) -> list[MPI.Request]:
    """Start sending and receiving contiguous arrays; wait for the returned requests before touching them.

    Memory of a GPU comes as a one-dimensional object of bytes with `__cuda_array_interface__`, such as a tensor.

    Args:
        sends: (rank, array) for each destination.
        receives: (rank, array) for each source; it must be as long as what that rank sends. Empty ones make no message.
        tag: exchanges with one tag must be started in the same order on all ranks.
    """
    from mpi4py import MPI

    requests = []
    for rank, array in receives:
        requests += [comm.Irecv([piece, MPI.BYTE], source=rank, tag=tag) for piece in _pieces(array)]
    own = comm.Get_rank()
    for rank, array in sends:
        pieces = _pieces(array)
        requests += [comm.Isend([piece, MPI.BYTE], dest=rank, tag=tag) for piece in pieces]
        if rank != own:
            count_sent(sum(map(len, pieces)))
    return requests


def segments(counts: np.ndarray) -> list[Segment]:
    """Of every rank with a share, in a matrix ordered by rank; `counts` (ranks,) rows of each."""
    stops = np.cumsum(counts)
    return [(int(r), int(stops[r] - counts[r]), int(stops[r])) for r in np.flatnonzero(counts)]


def cut(buffer: np.ndarray, parts: Iterable[Segment]) -> list[tuple[int, np.ndarray]]:
    """(rank, its rows) as `post_messages` takes them."""
    return [(rank, buffer[start:stop]) for rank, start, stop in parts]


def wait_all(requests: list[MPI.Request]) -> None:
    """Wait for what `post_messages` began."""
    from mpi4py import MPI

    MPI.Request.Waitall(requests)


def _pieces(array: Any) -> list[Any]:
    raw = array
    if isinstance(array, np.ndarray):
        if not array.flags.c_contiguous:
            raise ValueError("messages must be contiguous arrays")
        raw = array.reshape(-1).view(np.uint8)
    return [raw[start : start + CHUNK] for start in range(0, len(raw), CHUNK)]
