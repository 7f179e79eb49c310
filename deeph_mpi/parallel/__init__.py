"""The only place with MPI idioms: the world, agreement on errors, exchanges, logging, stages."""

from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.parallel.stages import StageRow, Stages
from deeph_mpi.parallel.world import World

__all__ = ["Progress", "StageRow", "Stages", "World", "progress"]
