"""Distributed deep-learning DFT: from an atomic structure to Kohn-Sham states over MPI."""

from deeph_mpi._version import __version__

__all__ = ["__version__"]
