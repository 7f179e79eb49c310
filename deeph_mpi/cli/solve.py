"""`deeph-mpi solve CONFIG`."""

from __future__ import annotations

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import ConfigFile, Job, Overrides, Resume
from deeph_mpi.parallel.watchdog import watchdog
from deeph_mpi.parallel.world import World

__all__ = ["solve"]


@observed
def solve(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> Job:
    """Compute the states of an existing Hamiltonian in the DeepH layout.

    SIGUSR1 or SIGTERM: the k-point, slice or block of vectors at hand is finished and kept in restart.h5, the exit code is
    75, and the same command with --resume goes on, on any number of ranks. A second SIGTERM ends the job at once.
    """

    def job(world: World) -> None:
        from deeph_mpi.config import SolveConfig, load

        checked = world.on_root(load, config, SolveConfig, overrides or [])
        from deeph_mpi.solve import solve as run  # heavy: not before the configuration is known to be good

        with watchdog(world, checked.run, checked.output.directory):
            run(checked, world, resume=resume)

    return job
