"""The memory that rows of atoms travel through: kept from one exchange to the next, and page-locked beside a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.domain.messages import Segment, post_messages, wait_all

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Staging"]


class Staging:
    """Sends and receives matrices of rows through buffers that outlive the exchange: layers send the same sizes again.

    Tensors of a GPU travel through page-locked memory of the host, which copies without passing through the driver's own
    buffers, or are handed to MPI as they are.

    Args:
        comm: of the ranks.
        cuda_aware: MPI accepts addresses of the GPU's memory. One that does not crashes, and it cannot be asked.
    """

    def __init__(self, comm: MPI.Intracomm, cuda_aware: bool = False) -> None:
        self._comm = comm
        self._cuda_aware = cuda_aware
        self._spare: dict[tuple[bool, bool], list[Tensor]] = {}

    def send(
        self, rows: Tensor, to: Sequence[Segment], count: int, source: Sequence[Segment], tag: int
    ) -> Callable[[], Tensor]:
        """Begin to send `rows` (n, …) by segments and to receive `count` rows of the same kind. Collective among neighbours.

        Returns:
            What waits for the received rows: (count, …) on the device of `rows`. Its memory is used again by the next
            exchange, so it has to be consumed before that.
        """
        device, shape = rows.device, rows.shape[1:]
        width = math.prod(shape) * rows.element_size()
        on_gpu = device.type == "cuda"
        direct = on_gpu and self._cuda_aware
        spare = self._spare.setdefault((direct, on_gpu), [])
        buffers = [
            _take(spare, n * width, device if direct else torch.device("cpu"), on_gpu and not direct)
            for n in (len(rows), count)
        ]
        sent, received = (
            buffer[: n * width].view(rows.dtype).view(n, *shape)
            for n, buffer in zip((len(rows), count), buffers, strict=True)
        )
        sent.copy_(rows, non_blocking=True)
        if on_gpu:
            # MPI reads now; also, what earlier work of this GPU still had to read from the receive buffer is read.
            torch.cuda.current_stream(device).synchronize()
        raw = [_raw(buffer) for buffer in buffers]
        requests = post_messages(
            self._comm,
            [(rank, raw[0][start * width : stop * width]) for rank, start, stop in to],
            [(rank, raw[1][start * width : stop * width]) for rank, start, stop in source],
            tag,
        )

        def arrive() -> Tensor:
            wait_all(requests)
            spare.extend(buffers)
            return received.to(device, non_blocking=True)

        return arrive


def _take(spare: list[Tensor], size: int, device: torch.device, pinned: bool) -> Tensor:
    buffer = spare.pop() if spare else None
    if buffer is None or len(buffer) < size:
        with torch.inference_mode(False):  # such tensors could not be used in training afterwards
            buffer = torch.empty(max(size, 1), dtype=torch.uint8, device=device, pin_memory=pinned)
    return buffer


def _raw(buffer: Tensor) -> Any:
    """What mpi4py takes: an array of the host, or the tensor itself, which tells its address on the GPU."""
    if buffer.device.type == "cpu":
        array: np.ndarray = buffer.numpy()
        return array
    return buffer
