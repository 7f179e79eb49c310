"""Which ranks share a node, and which of them run the network."""

from __future__ import annotations

import numpy as np
import torch

from deeph_mpi.parallel.world import World

__all__ = ["leaders_of", "network_leaders", "rank_device"]


def network_leaders(world: World, per_node: int | None) -> np.ndarray:
    """(size,) int32: for every rank the one that runs the network for its atoms, itself where all do. Collective.

    Args:
        per_node: ranks of each node that run it; None: one per GPU where a node has GPUs, but fewer than ranks; else all.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nodes = np.array(world.comm.allgather((_node(world), gpus)), dtype=np.int64)
    leaders = np.empty(world.size, dtype=np.int32)
    for node in np.unique(nodes[:, 0]):
        ranks = np.flatnonzero(nodes[:, 0] == node)
        count = per_node or int(nodes[node, 1]) or len(ranks)
        leaders[ranks] = leaders_of(ranks, count)
    return leaders


def leaders_of(ranks: np.ndarray, count: int) -> np.ndarray:
    """Of `ranks` (n,) in at most `count` even groups of neighbours, the first of each one's group: (n,)."""
    return np.concatenate([np.full(len(part), part[0]) for part in np.array_split(ranks, min(count, len(ranks)))])


def rank_device(world: World, leaders: np.ndarray | None = None) -> torch.device:
    """This rank's GPU, the node's in turn, or the CPU where there is none. Collective.

    Args:
        leaders: (size,), see `network_leaders`; ranks that follow another one need no GPU and get the CPU.
    """
    node = np.array(world.comm.allgather(_node(world)))
    lead = np.arange(world.size) if leaders is None else leaders
    if not torch.cuda.is_available() or lead[world.rank] != world.rank:
        return torch.device("cpu")
    before = (node == node[world.rank]) & (lead == np.arange(world.size)) & (np.arange(world.size) < world.rank)
    index = int(before.sum()) % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _node(world: World) -> int:
    """Lowest rank of this node. Collective."""
    from mpi4py import MPI

    node = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    lowest: int = node.allreduce(world.rank, op=MPI.MIN)
    node.Free()
    return lowest
