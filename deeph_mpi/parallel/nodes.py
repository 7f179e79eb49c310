"""Which ranks share a node, which of them run the network, and on which GPU."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel.world import World

if TYPE_CHECKING:
    import torch

__all__ = ["assign_gpus", "leaders_of", "local_rank", "network_leaders", "node_of_ranks", "rank_device"]

# What launchers tell a rank about its place on its node: Open MPI, Intel MPI and Hydra of MPICH, MVAPICH, Cray PALS, Flux,
# Slurm. Slurm last: in an allocation every rank that mpirun starts inherits the script's own SLURM_LOCALID.
_LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID",
    "FLUX_TASK_LOCAL_ID", "SLURM_LOCALID",
)  # fmt: skip


def local_rank() -> int | None:
    """This process's place on its node as the launcher's variables tell it; None where they do not. Not collective."""
    found = [os.environ[name] for name in _LOCAL_RANKS if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found else None


def node_of_ranks(world: World) -> np.ndarray:
    """(size,) for every rank the lowest rank of its node. Collective.

    From host names, where the local ranks of the launcher count those of every host from 0; ranks in containers of their own
    share no memory, and are told to belong together only so. Else from shared memory.
    """
    known = world.comm.allgather((platform.node(), local_rank()))
    hosts: dict[str, list[int]] = {}
    for rank, (host, _) in enumerate(known):
        hosts.setdefault(host, []).append(rank)
    if all({known[rank][1] for rank in ranks} == set(range(len(ranks))) for ranks in hosts.values()):
        return np.array([hosts[host][0] for host, _ in known])
    from mpi4py import MPI

    node = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    lowest: int = node.allreduce(world.rank, op=MPI.MIN)
    node.Free()
    return np.array(world.comm.allgather(lowest))


def network_leaders(world: World, per_node: int | None) -> np.ndarray:
    """(size,) int32: for every rank the one that runs the network for its atoms, itself where all do. Collective.

    Args:
        per_node: ranks of each node that run it; None: one per GPU where a node has GPUs, but fewer than ranks; else all.
    """
    nodes, gpus = node_of_ranks(world), world.comm.allgather(_gpus())
    leaders = np.empty(world.size, dtype=np.int32)
    for node in np.unique(nodes):
        ranks = np.flatnonzero(nodes == node)
        count = per_node or len({gpu for rank in ranks for gpu in gpus[rank]}) or len(ranks)
        leaders[ranks] = leaders_of(ranks, count)
    return leaders


def leaders_of(ranks: np.ndarray, count: int) -> np.ndarray:
    """Of `ranks` (n,) in at most `count` even groups of neighbours, the first of each one's group: (n,)."""
    return np.concatenate([np.full(len(part), part[0]) for part in np.array_split(ranks, min(count, len(ranks)))])


def rank_device(world: World, leaders: np.ndarray | None = None, *, share: bool = False) -> torch.device:
    """This rank's GPU, or the CPU where there is none. Collective.

    The ranks of a node get its GPUs in turn; a rank to which the launcher shows one GPU alone gets that.

    Args:
        leaders: (size,), see `network_leaders`; ranks that follow another one need no GPU and get the CPU.
        share: whether several ranks may have the same GPU.

    Raises:
        ConfigError: on all ranks, when some would have to.
    """
    nodes, gpus = node_of_ranks(world), world.comm.allgather(_gpus())
    import torch  # a solver that asks for nodes alone does not load it

    lead = np.arange(world.size) if leaders is None else leaders
    users = np.flatnonzero(lead == np.arange(world.size))
    found = assign_gpus(nodes, users, gpus)
    if not share:
        _check_sharing(nodes, gpus, found)
    index = found[world.rank]
    if index is None:
        return torch.device("cpu")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def assign_gpus(nodes: np.ndarray, users: np.ndarray, gpus: list[list[str]]) -> list[int | None]:
    """For every rank the index, among the GPUs that it sees, of the one it uses; None: none.

    Args:
        nodes: (size,) of every rank.
        users: ranks that need a GPU.
        gpus: of every rank, the names of those that it sees.
    """
    found: list[int | None] = [None] * len(nodes)
    taken: dict[tuple[int, str], int] = {}
    for rank in users.tolist():
        seen = gpus[rank]
        if seen:  # the least used of those it sees, the first among equals
            index = min(range(len(seen)), key=lambda n: taken.get((int(nodes[rank]), seen[n]), 0))
            found[rank] = index
            name = (int(nodes[rank]), seen[index])
            taken[name] = taken.get(name, 0) + 1
    return found


def _check_sharing(nodes: np.ndarray, gpus: list[list[str]], found: list[int | None]) -> None:
    for node in np.unique(nodes).tolist():
        ranks = [rank for rank in np.flatnonzero(nodes == node).tolist() if found[rank] is not None]
        used = {gpus[rank][index] for rank in ranks if (index := found[rank]) is not None}
        if len(used) < len(ranks):
            error = ConfigError(
                f"{len(ranks)} ranks of the node of rank {node} need a GPU each, and see {len(used)}: start fewer ranks "
                "per node, let fewer run the network (model.ranks_per_node), or allow it (share_gpus = true in [model] or "
                "[train])"
            )
            error.everywhere = True
            raise error


def _gpus() -> list[str]:
    """Names, unique on this node, of the GPUs that this rank sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    properties = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [str(getattr(one, "uuid", index)) for index, one in enumerate(properties)]
