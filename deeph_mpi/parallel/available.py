"""Memory that a rank may still take."""

from __future__ import annotations

import re
from pathlib import Path

from deeph_mpi.parallel.world import World

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def available_memory(world: World) -> int | None:
    """An even share for each rank of what its node can still give, bytes; None where no system tells. Collective.

    The least of what the kernel calls available and of what control groups (batch systems, containers) leave.
    """
    from mpi4py import MPI

    node = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    known = [bytes_ for bytes_ in (_kernel(), _group()) if bytes_ is not None]
    share = min(known) // node.Get_size() if known else -1
    least: int = node.allreduce(share, op=MPI.MIN)
    node.Free()
    return None if least < 0 else least


def _kernel() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _group() -> int | None:
    """What the control groups (version 2) of this process leave, its own and those around it."""
    try:
        path = next(line.split("::", 1)[1] for line in _SELF.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    left: list[int] = []
    folder = _GROUPS / path.strip().lstrip("/")
    for group in (folder, *folder.parents):
        if group == _GROUPS.parent:
            break
        try:
            limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        except OSError:
            continue
        if limit != "max":
            left.append(max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0)))
    return min(left) if left else None
