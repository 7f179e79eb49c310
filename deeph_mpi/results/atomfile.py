"""Numbers on atoms as extended XYZ, which OVITO and ASE read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms

from deeph_mpi.results.textfile import write_text
from deeph_mpi.structure.ase_io import write
from deeph_mpi.structure.structure import Structure

__all__ = ["write_atom_columns"]


def write_atom_columns(path: Path, structure: Structure, columns: Mapping[str, np.ndarray]) -> None:
    """Write the atoms with further columns, (N,) each, by name. Not collective.

    Raises:
        OSError: the file cannot be written.
    """
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    for name, values in columns.items():
        atoms.new_array(name, values)
    buffer = io.StringIO()
    write(buffer, atoms, format="extxyz", parallel=False)
    write_text(path, buffer.getvalue())
