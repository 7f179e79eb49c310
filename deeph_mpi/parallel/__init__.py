"""The only place with MPI idioms: the world, agreement on errors, exchanges, logging, stages."""

from deeph_mpi.parallel.world import World

__all__ = ["World"]
