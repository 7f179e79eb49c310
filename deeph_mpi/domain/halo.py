"""Exchange of per-atom rows between neighbouring domains: owners send, ghosts receive; gradients go back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.domain.messages import post_messages
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["HaloExchange", "Incoming"]

REQUEST_TAG, ROWS_TAG, GRADIENT_TAG = 7101, 7102, 7103


@dataclass
class Incoming:
    """An exchange under way: what `HaloExchange.start` returns and `finish` takes."""

    x: Tensor
    rows: Tensor
    received: Tensor
    buffers: list[np.ndarray]
    requests: list[MPI.Request]


class HaloExchange:
    """Plan for filling the rows of ghost atoms from the ranks that own them.

    Building it is collective. `exchange` (and `start` with `finish`) is collective among neighbours: all ranks call it
    in the same order, and all or none take gradients through it. Accelerator tensors travel through host memory.

    Attributes:
        n_owned: rows this rank owns.
        n_ghost: rows it receives.
        neighbours: ranks it sends to or receives from, ascending.
        n_sent: rows it sends in one exchange, counted once per receiver.
    """

    def __init__(self, world: World, partition: Partition, ghosts: np.ndarray) -> None:
        """Tell the owners which rows are needed. Collective.

        Args:
            partition: ownership of all atoms.
            ghosts: (n,) global indices of atoms of other ranks, in the order in which their rows are wanted.

        Raises:
            DeephError: on all ranks, when ranks disagree on who owns an atom.
        """
        self._comm = world.comm
        owned = partition.atoms(world.rank)
        owners = partition.owner[ghosts]
        order = np.argsort(owners, kind="stable")
        needed = np.bincount(owners, minlength=world.size).astype(np.int64)
        wanted = np.empty_like(needed)
        world.comm.Alltoall(needed, wanted)
        self._receive = _segments(needed)
        self._send = _segments(wanted)
        asked = np.ascontiguousarray(np.asarray(ghosts, dtype=np.int64)[order])
        ids = np.empty(wanted.sum(), dtype=np.int64)
        _wait(post_messages(world.comm, _cut(asked, self._receive), _cut(ids, self._send), REQUEST_TAG))
        rows = np.searchsorted(owned, ids)
        with world.together():
            if not np.array_equal(owned[np.minimum(rows, len(owned) - 1)] if len(owned) else owned, ids):
                raise DeephError(f"rank {world.rank} was asked for atoms it does not own: the partitions differ")
        self._rows = torch.from_numpy(rows)
        self._places = None if np.array_equal(order, np.arange(len(order))) else torch.from_numpy(order)
        self._spare: list[np.ndarray] = []
        self.n_owned = len(owned)
        self.n_ghost = len(ghosts)
        self.n_sent = len(rows)
        self.neighbours = np.flatnonzero(needed + wanted)

    def exchange(self, x: Tensor) -> Tensor:
        """Rows (n_owned, …) → rows (n_owned + n_ghost, …), of any dtype; differentiable, also twice."""
        return self.finish(self.start(x))

    def exchange_array(self, x: np.ndarray) -> np.ndarray:
        """The same for a NumPy array of integers or floats."""
        return self.exchange(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    def start(self, x: Tensor) -> Incoming:
        """Begin the exchange of (n_owned, …); rows of owned atoms may be used until `finish`, not changed.

        Raises:
            ValueError: when `x` has another number of rows.
        """
        if x.shape[0] != self.n_owned:
            raise ValueError(f"expected {self.n_owned} rows, one per owned atom, not {x.shape[0]}")
        data = x.detach()
        rows = data.new_empty((self.n_owned + self.n_ghost, *x.shape[1:]))
        in_place = self._places is None and rows.device.type == "cpu"
        buffers = [self._take(self.n_sent, data)]
        sent = self._gather(data, self._rows, buffers[0])
        received = rows[self.n_owned :]
        if not in_place:
            buffers.append(self._take(self.n_ghost, data))
            received = _rows_in(buffers[1], self.n_ghost, data)
        requests = post_messages(
            self._comm, _cut(_raw(sent), self._send), _cut(_raw(received), self._receive), ROWS_TAG
        )
        rows[: self.n_owned] = data
        return Incoming(x, rows, received, buffers, requests)

    def finish(self, incoming: Incoming) -> Tensor:
        """Wait for the ghosts: owned and ghost rows (n_owned + n_ghost, …)."""
        return _Exchange.apply(incoming.x, self, incoming)

    def complete(self, incoming: Incoming) -> Tensor:
        """`finish` without gradients."""
        _wait(incoming.requests)
        rows, received = incoming.rows, incoming.received
        if self._places is not None:
            rows[self.n_owned + self._places.to(rows.device)] = received.to(rows.device)
        elif rows.device.type != "cpu":
            rows[self.n_owned :] = received.to(rows.device)
        self._spare += incoming.buffers
        return rows

    def start_fill(self, parts: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to fill the ghost rows of several tensors (n_owned + n_ghost, …), in place and without gradients, with one
        message per neighbour. Owned rows may be read meanwhile.

        Returns:
            What waits for the rows and puts them in place.
        """
        here = self._rows.to(parts[0].device)
        sent = torch.cat([part.index_select(0, here).flatten(1) for part in parts], dim=1).cpu()
        received = sent.new_empty(self.n_ghost, sent.shape[1])
        requests = post_messages(
            self._comm, _cut(_raw(sent), self._send), _cut(_raw(received), self._receive), ROWS_TAG
        )

        def finish() -> None:
            nonlocal sent  # alive until all is sent
            _wait(requests)
            places = torch.arange(self.n_ghost) if self._places is None else self._places
            widths = [math.prod(part.shape[1:]) for part in parts]
            for part, piece in zip(parts, received.split(widths, dim=1), strict=True):
                place = (self.n_owned + places).to(part.device)
                part[place] = piece.to(part.device).view(-1, *part.shape[1:])

        return finish

    def reverse(self, rows: Tensor) -> Tensor:
        """The transpose, without gradients: (n_owned + n_ghost, …) → (n_owned, …), ghosts added to their owners."""
        data = rows.detach()
        ghosts = data[self.n_owned :]
        places = torch.arange(self.n_ghost) if self._places is None else self._places
        buffers = [self._take(self.n_ghost, data), self._take(self.n_sent, data)]
        sent = self._gather(ghosts, places, buffers[0])
        received = _rows_in(buffers[1], self.n_sent, data)
        requests = post_messages(
            self._comm, _cut(_raw(sent), self._receive), _cut(_raw(received), self._send), GRADIENT_TAG
        )
        total = data[: self.n_owned].clone()
        _wait(requests)
        # One atom may be a ghost of several ranks; their order in the buffer is fixed, so the sum is reproducible.
        total.index_add_(0, self._rows.to(total.device), received.to(total.device))
        self._spare += buffers
        return total

    def _gather(self, data: Tensor, rows: Tensor, buffer: np.ndarray) -> Tensor:
        into = _rows_in(buffer, len(rows), data)
        if data.device.type == "cpu":
            return torch.index_select(data.resolve_conj().resolve_neg(), 0, rows, out=into)
        return into.copy_(data.index_select(0, rows.to(data.device)))

    def _take(self, n: int, like: Tensor) -> np.ndarray:
        # Message buffers outlive the exchange: the layers of a network send rows of the same size again and again.
        # NumPy's, as torch would not let a tensor made in inference mode be reused in training.
        size = _row_bytes(like) * n
        spare = self._spare.pop() if self._spare else np.empty(1, dtype=np.uint8)
        return spare if len(spare) >= size else np.empty(size, dtype=np.uint8)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: HaloExchange, incoming: Incoming) -> Tensor:
        ctx.halo = halo
        return halo.complete(incoming)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Reverse.apply(gradients[0], ctx.halo), None, None


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, halo: HaloExchange) -> Tensor:
        ctx.halo = halo
        return halo.reverse(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.halo.exchange(gradients[0]), None


def _segments(counts: np.ndarray) -> list[tuple[int, int, int, int]]:
    # (rank, start, stop, total) of every rank with a share, in a buffer ordered by rank
    stops = np.cumsum(counts)
    return [(int(r), int(stops[r] - counts[r]), int(stops[r]), int(stops[-1])) for r in np.flatnonzero(counts)]


def _cut(buffer: np.ndarray, segments: list[tuple[int, int, int, int]]) -> list[tuple[int, np.ndarray]]:
    pieces = []
    for rank, start, stop, total in segments:
        width = len(buffer) // total
        pieces.append((rank, buffer[start * width : stop * width]))
    return pieces


def _row_bytes(like: Tensor) -> int:
    return math.prod(like.shape[1:]) * like.element_size()


def _rows_in(buffer: np.ndarray, n: int, like: Tensor) -> Tensor:
    return torch.from_numpy(buffer)[: n * _row_bytes(like)].view(like.dtype).view(n, *like.shape[1:])


def _raw(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _wait(requests: list[MPI.Request]) -> None:
    from mpi4py import MPI

    MPI.Request.Waitall(requests)
