"""`deeph-mpi infer CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import ConfigFile, Job, Overrides, Resume
from deeph_mpi.parallel.watchdog import watchdog
from deeph_mpi.parallel.world import World

__all__ = ["infer"]


@observed
def infer(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="run no network: print what each rank would need and take")
    ] = False,
    ranks: Annotated[int | None, typer.Option(min=1, help="ranks to plan for (default: as many as run this)")] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="ranks on each node of the job planned for (default: all on one)")
    ] = None,
    latency: Annotated[float, typer.Option(min=0, help="of a message between ranks, µs; for --plan")] = 2.0,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="of one rank's link, GB/s; for --plan")] = 12.5,
) -> Job:
    """Predict H and S of a structure and compute its states.

    SIGUSR1 or SIGTERM: the k-point, slice or block of vectors at hand is finished and kept in restart.h5, the exit code is
    75, and the same command with --resume goes on, on any number of ranks. A second SIGTERM ends the job at once.
    """
    if (ranks is not None or ranks_per_node is not None) and not plan:
        raise typer.BadParameter("--ranks and --ranks-per-node go with --plan: mpirun decides how many ranks a job has")

    def job(world: World) -> None:
        from deeph_mpi.config import InferConfig, load

        checked = world.on_root(load, config, InferConfig, overrides or [])
        if plan:
            from deeph_mpi.plan import infer_plan
            from deeph_mpi.planning.rates import Interconnect

            infer_plan(checked, world, ranks, ranks_per_node, Interconnect(1e-6 * latency, 1e9 * bandwidth))
            return
        from deeph_mpi.infer import infer as run  # heavy: not before the configuration is known to be good

        with watchdog(world, checked.run, checked.output.directory):
            run(checked, world, resume=resume)

    return job
