"""How a job is laid out on nodes: ranks per node, threads per rank, memory, from what the job needs and the nodes have."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from deeph_mpi.errors import ConfigError
from deeph_mpi.launch.site import NodeSection
from deeph_mpi.planning.needs import Need, Needs

__all__ = ["Layout", "Wish", "check_wish", "choose_layout"]

_MARGIN = 0.9  # share of a node's memory that a plan may fill
_SLACK = 1.3  # what is asked for over what is planned: solvers take nine tenths of what is free


@dataclass(frozen=True)
class Wish:
    """What the user asks for; None: to be chosen.

    Attributes:
        nodes: their number.
        gpus: on each node.
        threads: that a rank should have, where they are not `threads_given`.
        ranks_given, threads_given: per node, per rank.
        memory_given: bytes per node to ask for.
        oversubscribe: whether ranks may share cores and GPUs.
        exclusive: whether all memory of the nodes is asked for.
        out_of_core: whether a factor may lie on disk.
    """

    nodes: int
    gpus: int
    threads: int
    ranks_given: int | None = None
    threads_given: int | None = None
    memory_given: float | None = None
    oversubscribe: bool = False
    exclusive: bool = False
    out_of_core: bool = True


@dataclass(frozen=True)
class Layout:
    """A job on nodes.

    Attributes:
        nodes, ranks, threads, gpus: nodes, ranks and GPUs on each, threads of each rank.
        memory: bytes to ask for on each node; None: all of it.
        need: what the plan says; None where none was made.
        remarks: what a reader of the script should know, a sentence each.
    """

    nodes: int
    ranks: int
    threads: int
    gpus: int
    memory: float | None
    need: Need | None
    remarks: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """All ranks."""
        return self.nodes * self.ranks


def choose_layout(node: NodeSection, wish: Wish, needs: Needs | None) -> Layout:
    """The most ranks whose memory fits, with the threads wished for; fewer ranks, with more threads each, where it does not.

    Args:
        node: of the site; its cores must be known.
        wish: what is asked for.
        needs: of the job; None: it is not planned.

    Raises:
        ConfigError: more ranks or threads than there are cores, GPUs or atoms; or the job fits no layout.
    """
    cores = check_wish(node, wish)
    ranks_limit = None if needs is None else needs.most_ranks // wish.nodes
    if ranks_limit == 0:
        assert needs is not None
        raise ConfigError(
            f"{wish.nodes} nodes are more than can share this job: it divides into {needs.most_ranks} parts"
        )
    counts = [wish.ranks_given] if wish.ranks_given else _candidates(node, cores, wish, needs, ranks_limit)
    if wish.ranks_given and wish.gpus and needs is not None and needs.gpu_for_every_rank:
        _check_gpus(wish.ranks_given, wish)
    if wish.ranks_given and ranks_limit is not None and wish.ranks_given > ranks_limit:
        raise ConfigError(
            f"{wish.nodes} × {wish.ranks_given} ranks are more than the {needs.most_ranks if needs else 0} parts that "
            f"this job divides into: at most {ranks_limit} on a node"
        )
    limit = math.inf if node.memory_gb is None else 1e9 * node.memory_gb
    limit = min(limit, wish.memory_given or math.inf)
    tried: list[tuple[int, Need]] = []
    if needs is None:
        return _layout(wish, counts[0], cores, None, limit, False)
    for ranks in counts:
        need = needs.on(wish.nodes * ranks, ranks)
        tried.append((ranks, need))
        if need.memory <= _MARGIN * limit:
            return _layout(wish, ranks, cores, need, limit, False)
    for ranks, need in tried if wish.out_of_core else ():
        if need.memory_on_disk <= _MARGIN * limit:
            return _layout(wish, ranks, cores, need, limit, True)
    raise ConfigError(_too_large(wish, tried, limit))


def _candidates(node: NodeSection, cores: int, wish: Wish, needs: Needs | None, limit: int | None) -> list[int]:
    """Ranks per node in the order of preference."""
    if wish.gpus and needs is not None and needs.gpu_for_every_rank:
        most = wish.gpus
    else:
        most = max(1, cores // (wish.threads_given or wish.threads))
    most = max(1, min(most, limit or most))
    even = math.lcm(node.numa_domains, wish.gpus or 1)  # so that domains and GPUs have as many ranks each
    divisors = [n for n in range(most, 0, -1) if cores % n == 0 or n == most]
    good = [n for n in divisors if n % even == 0]
    return good + [n for n in divisors if n < min(good, default=most + 1)]


def check_wish(node: NodeSection, wish: Wish) -> int:
    """Check what can be checked before the job is planned; the cores of a node.

    Raises:
        ConfigError: they are not known; or more ranks and threads are wished for than there are cores, or more GPUs.
    """
    if node.cores is None:
        raise ConfigError("how many cores a node has is not known: give --cores-per-node, or --site")
    if wish.gpus and node.gpus is not None and wish.gpus > node.gpus:
        raise ConfigError(f"--gpus-per-node {wish.gpus}, but a node of this site has {node.gpus}")
    ranks, threads = wish.ranks_given or 1, wish.threads_given or 1
    if ranks * threads > node.cores and not wish.oversubscribe:
        raise ConfigError(
            f"{ranks} ranks × {threads} threads are more than the {node.cores} cores of a node: they would wait for each "
            "other. Give fewer, or --oversubscribe if it is meant"
        )
    return node.cores


def _check_gpus(ranks: int, wish: Wish) -> None:
    if ranks > wish.gpus and not wish.oversubscribe:
        raise ConfigError(
            f"{ranks} ranks on a node with {wish.gpus} GPU(s): every rank of this job needs one of its own. Give at most "
            f"--ranks-per-node {wish.gpus}, or --oversubscribe if ranks are meant to share them (share_gpus)"
        )


def _layout(wish: Wish, ranks: int, cores: int, need: Need | None, limit: float, on_disk: bool) -> Layout:
    remarks = []
    memory = wish.memory_given
    if need is not None:
        taken = need.memory_on_disk if on_disk else need.memory
        remarks.append(f"plan: {taken / 1e9:.3g} GB on the fullest node")
        if need.factor:
            where = "on disk, in the scratch directory" if on_disk else "in memory"
            remarks.append(f"factor: about {need.factor / 1e9:.3g} GB over all nodes, {where}")
        if not math.isnan(need.seconds):
            remarks.append(f"network: about {need.seconds:.3g} s, at the rate of one core where this was written")
        if not math.isnan(need.solving):
            remarks.append(f"solve: {need.solving:.3g} s or more, if it divides evenly among the ranks")
        if not need.whole:
            remarks.append("not all of the memory could be planned: the script asks for all that a node has")
        if memory is None and need.whole and not wish.exclusive:
            memory = min(limit, 1e9 * math.ceil(_SLACK * taken / 1e9))
    threads = wish.threads_given or max(1, cores // ranks)
    return Layout(wish.nodes, ranks, threads, wish.gpus, memory, need, remarks)


def _too_large(wish: Wish, tried: list[tuple[int, Need]], limit: float) -> str:
    ranks, need = min(tried, key=lambda one: one[1].memory_on_disk if wish.out_of_core else one[1].memory)
    disk = ""
    if need.memory_on_disk < need.memory:
        disk = f", or {need.memory_on_disk / 1e9:.3g} GB with the factor on disk" + (
            "" if wish.out_of_core else " (which factorization.out_of_core forbids)"
        )
    return (
        f"the plan does not fit: the fullest of {wish.nodes} node(s) with {ranks} rank(s) would need "
        f"{need.memory / 1e9:.3g} GB{disk}, and a node gives {_MARGIN * limit / 1e9:.3g} of its {limit / 1e9:.3g} GB. "
        "Take more --nodes, or nodes with more memory; with factorization.low_rank a factor is smaller, and densities of "
        "states ([dos]) need none"
    )
