"""PySCF's molecules and crystals, run here, against the levels that PySCF finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import eigh

from deeph_mpi.data.deeph import read_system, write_system
from deeph_mpi.data.kmesh import mesh_of
from deeph_mpi.data.pyscf import from_pyscf
from deeph_mpi.errors import DataError
from tests.systems import bloch
from tests.test_data_legacy import off_diagonal
from tests.test_data_siesta import bloch_spinor

pyscf = pytest.importorskip("pyscf")
HARTREE = 27.211386245988


pytestmark = pytest.mark.usefixtures("in_double")


def ammonia(**options: Any) -> Any:
    atoms = "H -0.31 0.85 -0.35; N 0.02 0.01 0.05; H 0.9 0.3 0.1; H -0.4 -0.5 0.75"
    basis = {"N": "cc-pvtz", "H": "cc-pvdz"}  # up to f on N, p on H
    return pyscf.gto.M(atom=atoms, basis=basis, verbose=0, **options)


def test_molecule(tmp_path: Path) -> None:
    mean_field = pyscf.scf.RHF(ammonia()).run()
    system = from_pyscf(mean_field)
    assert system.info.orbital_map.to_symbols() == {"H": [0, 0, 1], "N": [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]}
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < 1e-9
    k = [0.0, 0.0, 0.0]
    found = eigh(bloch(system, "hamiltonian", k), bloch(system, "overlap", k), eigvals_only=True)
    np.testing.assert_allclose(found, mean_field.mo_energy * HARTREE, atol=1e-5)
    assert system.info.occupation == 10
    assert system.info.pbc == (False, False, False)
    write_system(tmp_path, system)
    assert not read_system(tmp_path).structure.pbc.any()


@pytest.mark.parametrize("kind", ["UHF", "GHF"])
def test_spins(kind: str) -> None:
    mean_field = getattr(pyscf.scf, kind)(ammonia(spin=1, charge=1)).run()
    system = from_pyscf(mean_field)
    assert system.info.spinful
    sizes = system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(sizes)])
    overlap = np.kron(np.eye(2), bloch(system, "overlap", [0, 0, 0]))
    order = np.concatenate([np.arange(first[a], first[a + 1]) + s * first[-1] for a in range(4) for s in range(2)])
    found = eigh(bloch_spinor(system, [0, 0, 0]), overlap[np.ix_(order, order)], eigvals_only=True)
    np.testing.assert_allclose(found, np.sort(np.ravel(mean_field.mo_energy)) * HARTREE, atol=1e-4)


def test_crystal() -> None:
    """Lithium hydride in a skew cell: S by itself in bond frames; H and S at every point of the mesh."""
    from pyscf.pbc import dft, gto

    cell = gto.M(
        atom="Li 0 0 0; H 1.0 0.9 1.2",
        a=np.array([[0.1, 2.2, 2.0], [1.9, 0.05, 2.1], [2.1, 2.0, -0.1]]),
        basis="gth-szv",
        pseudo="gth-pade",
        mesh=[9, 9, 9],
        verbose=0,
    )
    kpoints = cell.make_kpts([3, 1, 1], wrap_around=True)
    mean_field = dft.KRKS(cell, kpoints).set(xc="lda,vwn", conv_tol=1e-10).run()
    system = from_pyscf(mean_field)
    assert off_diagonal(system.structure, system.info.orbital_map, system.overlap) < 1e-9
    for k, energies in zip(cell.get_scaled_kpts(kpoints), mean_field.mo_energy, strict=True):
        found = eigh(bloch(system, "hamiltonian", k), bloch(system, "overlap", k), eigvals_only=True)
        np.testing.assert_allclose(found, energies * HARTREE, atol=1e-4)
    assert system.info.occupation == mean_field.mol.nelectron


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(DataError, match="not converged"):
        from_pyscf(pyscf.scf.RHF(ammonia()))
    with pytest.raises(DataError, match="Cartesian"):
        from_pyscf(pyscf.scf.RHF(ammonia(cart=True)).run())


def test_a_reduced_mesh_is_refused() -> None:
    full = np.array([[a / 2, b / 3, 0] for a in range(2) for b in range(3)])
    assert mesh_of(full) == (2, 3, 1)
    assert mesh_of(full[::-1] + np.array([0.25, 1.1, -0.3])) == (2, 3, 1)
    for points in (full[:4], np.concatenate([full[:5], full[:1]]), np.array([[0, 0, 0], [0.3, 0, 0]])):
        with pytest.raises(DataError, match="no complete uniform mesh"):
            mesh_of(points)
