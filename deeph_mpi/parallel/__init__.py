"""The only place with MPI idioms: the world, agreement on errors, exchanges, logging, stages."""

from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.parallel.stages import Spread, StageRow, Stages
from deeph_mpi.parallel.world import World

__all__ = ["Progress", "Spread", "StageRow", "Stages", "World", "progress"]
