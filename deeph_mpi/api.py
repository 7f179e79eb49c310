"""What `import deeph_mpi` offers to scripts and notebooks: a model, its predictions, Hamiltonians from files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.hamiltonian import Hamiltonian
from deeph_mpi.structure.read import check_structure, read_structure
from deeph_mpi.structure.structure import Structure

if TYPE_CHECKING:
    from deeph_mpi.model.model import HamiltonianModel

__all__ = ["Hamiltonian", "Model", "load_model", "read"]


class Model:
    """A trained network with its two-centre tables, on one process.

    Attributes:
        network: the model itself.
    """

    def __init__(self, network: HamiltonianModel) -> None:
        self.network = network

    @property
    def shells(self) -> dict[str, list[int]]:
        """l of every shell, by element: what the model knows."""
        return self.network.settings.orbitals.to_symbols()

    def predict(self, atoms: Any, *, memory_gb: float = 1.0) -> Hamiltonian:
        """H and S of a structure.

        Args:
            atoms: `ase.Atoms`, or the name of a file that ASE reads. Where a direction is not periodic it must have a
                cell vector all the same (`atoms.center(vacuum=10)`).
            memory_gb: bound on temporaries, GB.

        Returns:
            Atoms in the order given; zero of energy and Fermi level as `deeph-mpi infer` writes them.

        Raises:
            DeephError: elements or distances that the training data did not have, or a structure without sense.
        """
        from deeph_mpi.model.predict import predict_alone

        structure = _structure(atoms)
        self.network.species(structure.numbers)
        hamiltonian, overlap = (sort_blocks(blocks) for blocks in predict_alone(self.network, structure, memory_gb))
        info = DeephInfo(
            self.network.settings.orbitals,
            occupation=self.network.electrons(structure.numbers),
            vacuum_level_eV=self.network.vacuum_level,
            pbc=(bool(structure.pbc[0]), bool(structure.pbc[1]), bool(structure.pbc[2])),
        )
        return Hamiltonian(DeephSystem(structure, info, overlap, hamiltonian))


def load_model(checkpoint: str | os.PathLike[str], *, dtype: str = "float32") -> Model:
    """Load a checkpoint of `deeph-mpi train`.

    Args:
        checkpoint: the file.
        dtype: of the network, "float32" or "float64"; geometry and S are float64 always.

    Raises:
        ModelError: when it cannot be loaded.
        ValueError: for another `dtype`.
    """
    import torch

    from deeph_mpi.model.checkpoint import load_checkpoint

    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    return Model(load_checkpoint(checkpoint, getattr(torch, dtype)))


def read(directory: str | os.PathLike[str]) -> Hamiltonian:
    """Read a directory in the DeepH layout, as `infer` and `convert` write it."""
    return Hamiltonian.read(directory)


def _structure(atoms: Any) -> Structure:
    if isinstance(atoms, str | os.PathLike):
        return read_structure(atoms)
    structure = Structure(
        np.array(atoms.numbers, dtype=np.int64),
        np.array(atoms.positions, dtype=np.float64),
        np.array(atoms.cell, dtype=np.float64),
        np.array(atoms.pbc, dtype=bool),
    )
    check_structure(structure, "atoms")
    return structure
