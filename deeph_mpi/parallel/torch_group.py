"""torch.distributed on the ranks that MPI started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from deeph_mpi.parallel.traffic import count_sent
from deeph_mpi.parallel.world import World

__all__ = ["gather_over_ranks", "sum_over_ranks", "torch_group"]


@contextmanager
def torch_group(world: World, device: torch.device) -> Iterator[None]:
    """Initialise torch's process group with the world's ranks (NCCL for GPUs of their own, else gloo). Collective.

    One rank needs no group.
    """
    if world.size == 1:
        yield
        return
    one_node = world.local_size == world.size
    host = world.comm.bcast("127.0.0.1" if one_node else socket.gethostname(), root=0)
    if one_node:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    own_gpus = device.type == "cuda" and torch.cuda.device_count() >= world.local_size
    port = None
    if world.is_root:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
    address = f"tcp://{host}:{world.comm.bcast(port, root=0)}"
    backend = "nccl" if world.comm.allreduce(own_gpus) == world.size else "gloo"
    dist.init_process_group(backend, init_method=address, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the ranks of torch's process group, in place, in one message; at least one tensor. Collective."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    count_sent(flat.numel() * flat.element_size())
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(to) for part, to in zip(parts, tensors, strict=True)])


def gather_over_ranks(own: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Every rank's flat tensor, of `counts[rank]` elements, on all ranks of torch's process group. Collective."""
    if not dist.is_initialized():
        return [own]
    longest = max(counts)  # all must send the same number
    gathered = own.new_empty(len(counts) * longest)
    count_sent(longest * own.element_size())
    dist.all_gather_into_tensor(gathered, torch.cat([own, own.new_zeros(longest - len(own))]))
    return [row[:count] for row, count in zip(gathered.split(longest), counts, strict=True)]
