"""`deeph-mpi infer CONFIG`."""

from __future__ import annotations

from deeph_mpi.cli.session import ConfigFile, Job, Overrides
from deeph_mpi.parallel.world import World

__all__ = ["infer"]


def infer(config: ConfigFile, overrides: Overrides = None) -> Job:
    """Predict H and S of a structure and compute its states."""

    def job(world: World) -> None:
        from deeph_mpi.config import InferConfig, load

        checked = world.on_root(load, config, InferConfig, overrides or [])
        from deeph_mpi.infer import infer as run  # heavy: not before the configuration is known to be good

        run(checked, world)

    return job
