"""`deeph-mpi solve CONFIG`."""

from __future__ import annotations

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import ConfigFile, Job, Overrides, Resume
from deeph_mpi.parallel.watchdog import watchdog
from deeph_mpi.parallel.world import World

__all__ = ["solve"]


@observed
def solve(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> Job:
    """Compute the states of an existing Hamiltonian in the DeepH layout."""

    def job(world: World) -> None:
        from deeph_mpi.config import SolveConfig, load

        checked = world.on_root(load, config, SolveConfig, overrides or [])
        from deeph_mpi.solve import solve as run  # heavy: not before the configuration is known to be good

        with watchdog(world, checked.run, checked.output.directory):
            run(checked, world, resume=resume)

    return job
