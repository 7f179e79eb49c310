"""`deeph-mpi train CONFIG`."""

from __future__ import annotations

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import ConfigFile, Job, Overrides
from deeph_mpi.parallel.world import World

__all__ = ["train"]


@observed
def train(config: ConfigFile, overrides: Overrides = None) -> Job:
    """Train a network on a dataset of DeepH-layout directories."""

    def job(world: World) -> None:
        from deeph_mpi.config import TrainConfig, load

        checked = world.on_root(load, config, TrainConfig, overrides or [])
        from deeph_mpi.train.run import train as run  # heavy: not before the configuration is known to be good

        run(checked, world)

    return job
