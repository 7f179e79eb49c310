"""Distributed deep-learning DFT: from an atomic structure to Kohn-Sham states over MPI.

For scripts and notebooks, on one process and without mpirun:

    import deeph_mpi

    model = deeph_mpi.load_model("bilayer_graphene.pt")
    hamiltonian = model.predict(atoms)          # ase.Atoms, or a file name
    energies = hamiltonian.eigh([0.0, 0.0, 0.0])
    hamiltonian = deeph_mpi.read("directory")   # in the DeepH layout
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeph_mpi._version import __version__

if TYPE_CHECKING:
    from deeph_mpi.api import Hamiltonian, Model, load_model, read

__all__ = ["Hamiltonian", "Model", "__version__", "load_model", "read"]


def __getattr__(name: str) -> Any:
    """Import the rest on first use: the command line must not load torch to print its help."""
    if name not in __all__:
        raise AttributeError(f"module 'deeph_mpi' has no attribute '{name}'")
    from deeph_mpi import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
