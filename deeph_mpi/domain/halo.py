"""Exchange of per-atom rows between neighbouring domains: owners send, ghosts receive; gradients go back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.domain.messages import cut, post_messages, segments, wait_all
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.staging import Staging
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World

__all__ = ["HaloExchange", "Incoming"]

REQUEST_TAG, ROWS_TAG, GRADIENT_TAG = 7101, 7102, 7103


@dataclass
class Incoming:
    """An exchange under way: what `HaloExchange.start` returns and `finish` takes."""

    x: Tensor
    rows: Tensor
    arrive: Callable[[], None]


class HaloExchange:
    """Plan for filling the rows of ghost atoms from the ranks that own them.

    Building it is collective. `exchange` (and `start` with `finish`) is collective among neighbours: all ranks call it
    in the same order, and all or none take gradients through it.

    Attributes:
        n_owned: rows this rank owns.
        n_ghost: rows it receives.
        neighbours: ranks it sends to or receives from, ascending.
        n_sent: rows it sends in one exchange, counted once per receiver.
    """

    def __init__(self, world: World, partition: Partition, ghosts: np.ndarray, cuda_aware: bool = False) -> None:
        """Tell the owners which rows are needed. Collective.

        Args:
            partition: ownership of all atoms.
            ghosts: (n,) global indices of atoms of other ranks, in the order in which their rows are wanted.
            cuda_aware: hand tensors of a GPU to MPI as they are, see `Staging`.

        Raises:
            DeephError: on all ranks, when ranks disagree on who owns an atom.
        """
        owned = partition.atoms(world.rank)
        owners = partition.owner[ghosts]
        order = np.argsort(owners, kind="stable")
        needed = np.bincount(owners, minlength=world.size).astype(np.int64)
        wanted = np.empty_like(needed)
        world.comm.Alltoall(needed, wanted)
        self._receive = segments(needed)
        self._send = segments(wanted)
        asked = np.ascontiguousarray(np.asarray(ghosts, dtype=np.int64)[order])
        ids = np.empty(wanted.sum(), dtype=np.int64)
        wait_all(post_messages(world.comm, cut(asked, self._receive), cut(ids, self._send), REQUEST_TAG))
        rows = np.searchsorted(owned, ids)
        with world.together():
            if not np.array_equal(owned[np.minimum(rows, len(owned) - 1)] if len(owned) else owned, ids):
                raise DeephError(f"rank {world.rank} was asked for atoms it does not own: the partitions differ")
        self._staging = Staging(world.comm, cuda_aware)
        self._rows = _Index(rows)
        self._ghosts = _Index(len(owned) + order)
        self._order = _Index(order)
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
        rows[: self.n_owned] = data
        sent = data.index_select(0, self.sent_rows(data.device))
        return Incoming(x, rows, self.start_rows([sent], [rows[self.n_owned :]]))

    def finish(self, incoming: Incoming) -> Tensor:
        """Wait for the ghosts: owned and ghost rows (n_owned + n_ghost, …)."""
        return _Exchange.apply(incoming.x, self, incoming)

    def sent_rows(self, device: torch.device) -> Tensor:
        """(n_sent,) int64: the owned rows that `start_rows` sends, in its order."""
        return self._rows.on(device)

    def start_rows(self, sent: Sequence[Tensor], ghosts: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to fill ghost rows from rows already gathered, without gradients, with one message per neighbour.

        Args:
            sent: tensors (n_sent, …) of one dtype and device, rows as `sent_rows` orders them.
            ghosts: where the same of the neighbours go, (n_ghost, …) each.

        Returns:
            What waits for the rows and puts them in place.
        """
        places = self._order.on(ghosts[0].device)
        widths = [math.prod(part.shape[1:]) for part in ghosts]
        pieces = [part.reshape(self.n_sent, width) for part, width in zip(sent, widths, strict=True)]
        joined = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        arrive = self._staging.send(joined, self._send, self.n_ghost, self._receive, ROWS_TAG)

        def fill() -> None:
            for part, piece in zip(ghosts, arrive().split(widths, dim=1), strict=True):
                part[places] = piece.view(self.n_ghost, *part.shape[1:])

        return fill

    def reverse(self, rows: Tensor) -> Tensor:
        """The transpose, without gradients: (n_owned + n_ghost, …) → (n_owned, …), ghosts added to their owners."""
        data = rows.detach()
        sent = data.index_select(0, self._ghosts.on(data.device))
        arrive = self._staging.send(sent, self._receive, self.n_sent, self._send, GRADIENT_TAG)
        total = data[: self.n_owned].clone()
        # One atom may be a ghost of several ranks; their order in the buffer is fixed, so the sum is reproducible.
        return total.index_add_(0, self._rows.on(total.device), arrive())


class _Index:
    """Rows, on the devices where they have been needed."""

    def __init__(self, rows: np.ndarray) -> None:
        self._on = {torch.device("cpu"): torch.from_numpy(rows)}

    def on(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: HaloExchange, incoming: Incoming) -> Tensor:
        ctx.halo = halo
        incoming.arrive()
        return incoming.rows

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
