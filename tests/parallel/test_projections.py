"""Populations of the states on shells of atoms, against dense eigenvectors, whatever the number of ranks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.config import SolveConfig
from deeph_mpi.data.deeph import DeephSystem, write_system
from deeph_mpi.parallel import World
from deeph_mpi.results.projections import Projections
from deeph_mpi.results.store import read_results
from deeph_mpi.solve import solve
from deeph_mpi.structure.structure import element_order
from tests.dense import DenseCrystal, read_crystal
from tests.mpi import DATA
from tests.systems import ORBITALS, random_system

KPOINTS = [(0.0, 0.0, 0.0), (0.21, -0.13, 0.0), (1 / 3, 2 / 3, 0.0)]
CARBON = {"B": [0, 0, 1, 1, 2], "C": [0, 0, 1, 1, 2], "N": [0, 0, 1, 1, 2]}


def populations(h: np.ndarray, s: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """All levels, and w_g = Re Σ c* (S c) over groups of `sizes` rows (states, groups); means over degenerate levels."""
    levels, c = scipy.linalg.eigh(h, s)
    weights = np.add.reduceat((c.conj() * (s @ c)).real, np.cumsum([0, *sizes[:-1]]), axis=0).T
    for level in levels:
        same = np.abs(levels - level) < 1e-6
        weights[same] = weights[same].mean(axis=0)
    return levels, weights


def shell_sizes(directory: Path) -> list[int]:
    lines = (directory / "POSCAR").read_text().split("\n")
    atoms = [symbol for symbol, n in zip(lines[5].split(), lines[6].split(), strict=True) for _ in range(int(n))]
    return [2 * momentum + 1 for symbol in atoms for momentum in CARBON[symbol]]


def run(world: World, directory: Path, output: Path, **section: object) -> None:
    config = {
        "hamiltonian": {"directory": str(directory)},
        "solve": section,
        "output": {"directory": str(output), "plot": False},
    }
    solve(SolveConfig.model_validate(config), world)


@pytest.mark.parametrize(
    ("name", "asked"),
    [("hbn_primitive", {"window": [-5.9, 5.7]}), ("ab_bilayer", {"states": 8}), ("hbn_c", {"states": 6})],
)
def test_populations_are_those_of_dense_eigenvectors(
    world: World, name: str, asked: dict[str, object], shared_path: Path
) -> None:
    run(world, DATA / name, shared_path, kpoints=[list(k) for k in KPOINTS], **asked)
    dense: DenseCrystal = read_crystal(DATA / name)
    sizes = shell_sizes(DATA / name)
    assert sum(sizes) == sum(dense.sizes)
    _, record = read_results(shared_path / "results.h5")
    with h5py.File(shared_path / "results.h5") as file:
        weights = file["projections/weights"][:]
        assert "eigenvectors" not in file["spectrum"]
    assert weights.dtype == np.float32
    assert np.isfinite(record.eigenvalues).sum() >= 6
    for n, k in enumerate(KPOINTS):
        levels, expected = populations(*dense.at(k), sizes)
        found = np.isfinite(record.eigenvalues[n])
        first, count = int(record.first[n]), int(found.sum())
        np.testing.assert_allclose(record.eigenvalues[n][found], levels[first : first + count], atol=1e-8, rtol=0)
        np.testing.assert_allclose(weights[n, :count].sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(weights[n, :count], expected[first : first + count], atol=2e-6)
        assert not weights[n, count:].any()
    projections = Projections.open(shared_path / "results.h5")
    by_atom = projections.on_atoms(1)
    np.testing.assert_allclose(by_atom[0].sum(), 1.0, atol=1e-6)
    np.testing.assert_allclose(projections.participation()[1, 0], (by_atom[0] ** 2).sum() / by_atom[0].sum() ** 2)


def spinor_matrix(system: DeephSystem, k: tuple[float, float, float]) -> np.ndarray:
    """Σ_R exp(2πi k·R) H(R) in blocks of 2n_i rows."""
    assert system.hamiltonian is not None
    sizes = 2 * system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(sizes)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*image, i, j) in enumerate(system.hamiltonian.pairs):
        block = np.exp(2j * np.pi * np.dot(k, image)) * system.hamiltonian.block(index, sizes)
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += block
    return matrix


def test_spinors_count_both_spins(world: World, shared_path: Path) -> None:
    """A random spinor Hamiltonian over unit overlaps: |c|² summed over both spins."""
    system = random_system(5, spinful=True)
    assert system.overlap is not None
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    system.overlap.entries[:] = 0.0
    for n, pair in enumerate(system.overlap.pairs.tolist()):
        if pair[:3] == [0, 0, 0] and pair[3] == pair[4]:
            system.overlap.block(n, orbitals)[:] = np.eye(orbitals[pair[3]])
    world.on_root(write_system, shared_path / "system", system)
    k = (0.1, 0.2, 0.3)
    run(world, shared_path / "system", shared_path / "out", kpoints=[list(k)], states=5, target=0.0)
    _, record = read_results(shared_path / "out" / "results.h5")
    projections = Projections.open(shared_path / "out" / "results.h5")
    levels, c = np.linalg.eigh(spinor_matrix(system, k))
    rows = np.repeat(np.arange(len(orbitals)), 2 * orbitals)
    first, count = int(record.first[0]), record.eigenvalues.shape[1]
    np.testing.assert_allclose(record.eigenvalues[0], levels[first : first + count], atol=1e-8)
    expected = np.array([np.bincount(rows, weights=abs(c[:, first + n]) ** 2) for n in range(count)])
    order = element_order(system.structure.numbers)  # of the file
    np.testing.assert_allclose(projections.on_atoms(0), expected[:, order], atol=2e-6)
    momenta = [m for z in system.structure.numbers for m in 2 * ORBITALS.shells[int(z)]]
    is_p = np.concatenate([np.full(2 * m + 1, m == 1) for m in momenta])
    expected_p = (abs(c[:, first : first + count]) ** 2)[is_p].sum(axis=0)
    np.testing.assert_allclose(projections.shares(projections.shells.l == 1)[0], expected_p, atol=2e-6)
