"""Rows that are written straight into their file."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from deeph_mpi.data.geometry import write_geometry
from deeph_mpi.data.rowfile import RowFile
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel import World
from tests.systems import random_system


def test_no_space_is_an_error_before_the_work(tmp_path: Path) -> None:
    """The space is reserved when the file is made: a full disk must not end a job of hours in a bus error."""
    system = random_system(3)
    assert system.hamiltonian is not None
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    write_geometry(tmp_path, system.structure, system.info.orbital_map, system.info)
    blocks = system.hamiltonian

    def fill(pairs: np.ndarray) -> None:
        pairs[...] = blocks.pairs

    world = World.alone()  # MPI starts before its files would count
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    needed = blocks.entries.nbytes + blocks.pairs.nbytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (needed // 2, hard))
    try:
        with pytest.raises(DeephError):
            RowFile(world, tmp_path, "hamiltonian", len(blocks), fill, orbitals, np.float64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob("*.h5"))
    file = RowFile(world, tmp_path, "hamiltonian", len(blocks), fill, orbitals, np.float64)
    assert not list(tmp_path.rglob("*.h5"))
    file.finish()
    assert (tmp_path / "hamiltonian.h5").exists()
