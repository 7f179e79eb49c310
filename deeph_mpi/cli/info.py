"""`deeph-mpi info`: what was found on this machine."""

from __future__ import annotations

from deeph_mpi.cli.session import Job
from deeph_mpi.parallel.world import World

__all__ = ["info"]


def info() -> Job:
    """Print the versions and abilities of what deeph-mpi works with. Run it under mpirun as a job would run."""

    def job(world: World) -> None:
        from deeph_mpi.installation.facts import facts

        rows = facts(world)
        for name, found in rows if world.is_root else []:
            print(f"{name:<10} {found}")

    return job
