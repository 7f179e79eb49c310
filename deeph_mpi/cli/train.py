"""`deeph-mpi train CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import ConfigFile, Job, Overrides
from deeph_mpi.parallel.watchdog import watchdog
from deeph_mpi.parallel.world import World

__all__ = ["train"]


@observed
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool | None, typer.Option("--resume/--no-resume", help="the same as --set train.resume=true or false")
    ] = None,
) -> Job:
    """Train a network on a dataset of DeepH-layout directories.

    SIGUSR1 or SIGTERM: the step at hand is finished, restart.pt written, the exit code is 75, and the same command goes on, on
    any number of ranks. A second SIGTERM ends the job at once.
    """
    chosen = list(overrides or []) + ([] if resume is None else [f"train.resume={str(resume).lower()}"])

    def job(world: World) -> None:
        from deeph_mpi.config import TrainConfig, load

        checked = world.on_root(load, config, TrainConfig, chosen)
        from deeph_mpi.train.run import train as run  # heavy: not before the configuration is known to be good

        with watchdog(world, checked.run, checked.output.directory):
            run(checked, world)

    return job
