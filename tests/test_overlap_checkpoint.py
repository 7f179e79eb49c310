"""S from a checkpoint alone, and its smallest eigenvalue with a proof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy.linalg import eigvalsh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.cli.main import main
from deeph_mpi.data.deeph import read_system
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.model.overlap import overlap_alone
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.overlaps import lower_end
from deeph_mpi.structure.ase_io import write
from deeph_mpi.structure.read import read_structure
from tests.models import random_model
from tests.mpi import DATA, ROOT
from tests.systems import bloch, random_system

CHECKPOINT = ROOT / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"


@pytest.fixture
def structure(tmp_path: Path) -> Path:
    """Atoms of two elements in no order, 2 Å and more apart."""
    rng = np.random.default_rng(3)
    cell = np.array([[6.0, 0, 0], [1.0, 7.0, 0], [0, 0.5, 8.0]])
    places = np.array([(a, b, c) for a in (0, 0.5) for b in (0, 0.5) for c in (0, 0.5)]) + 0.02 * rng.random((8, 3))
    atoms = Atoms("CNNCNCCN", places @ cell, cell=cell, pbc=True)
    write(tmp_path / "a.vasp", atoms, parallel=False, sort=False)
    return tmp_path / "a.vasp"


def test_it_is_that_of_a_prediction(structure: Path) -> None:
    model, atoms = random_model(), read_structure(structure)
    ours, theirs = overlap_alone(model, atoms, memory_gb=1e-4), predict_alone(model, atoms)[1]
    np.testing.assert_array_equal(ours.pairs, theirs.pairs)
    np.testing.assert_allclose(ours.entries, theirs.entries, atol=1e-14)


@pytest.mark.parametrize("lowest", [3e-3, -2e-2])
def test_the_lower_end(lowest: float) -> None:
    """Against dense diagonalization; shifted so that the smallest eigenvalue is positive, or not."""
    pytest.importorskip("petsc4py")
    system = random_system(8)
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    values = eigvalsh(bloch(system, "overlap", [0, 0, 0]))
    entries = system.overlap.entries.copy()
    for index in np.flatnonzero((system.overlap.pairs[:, :3] == 0).all(axis=1)):
        i, j = system.overlap.pairs[index, 3:]
        if i == j:
            start, n = system.overlap.offsets[index], orbitals[i]
            entries[start : start + n * n : n + 1] += lowest - values[0]
    moved = values - values[0] + lowest
    found = lower_end(sort_blocks(BlockSet(system.overlap.pairs, system.overlap.offsets, entries)), orbitals)
    assert found.value == pytest.approx(moved[0], rel=1e-6)
    below = int((moved <= 0).sum())
    assert ("inertia proves" in found.how) == (below == 0)
    assert not below or f"{below} are not positive" in found.how


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structure = str(DATA / "ab_bilayer" / "POSCAR")
    main(["overlap", str(CHECKPOINT), structure, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    system = read_system(tmp_path / "out", hamiltonian=False)
    smallest = eigvalsh(bloch(system, "overlap", [0, 0, 0]))[0]
    assert f"smallest eigenvalue of S at Γ: {smallest:.3e}" in printed
    with pytest.raises(SystemExit) as stopped:
        main(["overlap", str(CHECKPOINT), structure, "--cutoff", "4"])
    assert stopped.value.code == 2
    assert "goes alone" in capsys.readouterr().err
