"""GPAW's LCAO calculations, run here where GPAW is installed, against the levels that GPAW finds."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from scipy.linalg import eigh

from deeph_mpi.data.gpaw import from_gpaw
from tests.systems import bloch
from tests.test_data_legacy import off_diagonal

gpaw = pytest.importorskip("gpaw")


pytestmark = pytest.mark.usefixtures("in_double")


def test_dimer() -> None:
    """With two atoms even PAW's overlaps are symmetric about the bond."""
    atoms = Atoms("CO", [[3, 3, 3], [3.6, 3.7, 3.5]], cell=[6.5, 6.6, 6.4], pbc=False)
    atoms.calc = gpaw.GPAW(mode="lcao", basis="dzp", h=0.25, symmetry="off", txt=None, convergence={"density": 1e-3})
    atoms.get_potential_energy()
    system = from_gpaw(atoms.calc)
    assert system.info.orbital_map.to_symbols() == {"C": [0, 1, 0, 1, 2], "O": [0, 1, 0, 1, 2]}
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < 1e-12
    found = eigh(bloch(system, "hamiltonian", [0, 0, 0]), bloch(system, "overlap", [0, 0, 0]), eigvals_only=True)
    energies = atoms.calc.get_eigenvalues()
    np.testing.assert_allclose(found[: len(energies)], energies, atol=1e-10)


def test_crystal() -> None:
    """On a shifted mesh, at its points."""
    atoms = Atoms(
        "BN", [[0, 0, 0], [0.95, 0.8, 1]], cell=[[0.1, 1.8, 1.9], [1.8, 0.05, 1.75], [1.9, 1.8, -0.1]], pbc=True
    )
    atoms.calc = gpaw.GPAW(
        mode="lcao", basis="szp(dzp)", h=0.25, kpts=(2, 2, 1), symmetry="off", txt=None, convergence={"density": 1e-3}
    )
    atoms.get_potential_energy()
    system = from_gpaw(atoms.calc)
    for index, k in enumerate(atoms.calc.wfs.kd.bzk_kc):
        found = eigh(bloch(system, "hamiltonian", k), bloch(system, "overlap", k), eigvals_only=True)
        energies = atoms.calc.get_eigenvalues(kpt=index)
        np.testing.assert_allclose(found[: len(energies)], energies, atol=1e-10)
