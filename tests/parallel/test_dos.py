"""Densities of states against dense diagonalization of independent H(k), S(k), on every number of ranks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.config import DosSection
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.densities import DosPlan, DosTables, count_levels, run_dos
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import World
from deeph_mpi.results.density import DensityRecord
from deeph_mpi.solvers.random_vectors import random_signs
from tests.dense import read_crystal
from tests.mpi import DATA
from tests.parallel.test_assembly import bloch, part
from tests.systems import ORBITALS, random_system

K = (0.21, -0.13, 0.0)
GAMMA = (0.0, 0.0, 0.0)
SIGMA = 0.5  # eV


@cache
def dense(directory: Path, k: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, S-orthonormal states and overlap."""
    h, s = read_crystal(directory).at(k)
    levels, states = scipy.linalg.eigh(h, s)
    return levels, states, s


def broadened(levels: np.ndarray, energies: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussians (energies, levels)."""
    return np.exp(-0.5 * ((energies[:, None] - levels) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def sampled(world: World, directory: Path, kpoints: list[tuple[float, float, float]], **keys: object) -> DensityRecord:
    section = DosSection.model_validate({"enabled": True, "window": [-3.0, 3.0], "resolution": SIGMA, **keys})
    structure, _ = world.on_root(read_geometry, directory)
    center = float(np.median(dense(directory, kpoints[0])[0][:20]))
    plan = DosPlan(section, np.array(kpoints), np.full(len(kpoints), 1 / len(kpoints)), 2, center)
    rows, h, s = blocks(world, directory)
    return run_dos(DosTables(world, rows, structure, h, s, plan), plan)


def blocks(world: World, directory: Path) -> tuple[RowMap, object, object]:
    structure, info = world.on_root(read_geometry, directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    h, s = (
        read_rows(world, directory / f"{name}.h5", partition.owner, orbitals) for name in ("hamiltonian", "overlap")
    )
    return RowMap(partition, orbitals), h, s


@pytest.mark.parametrize(("name", "k", "projection"), [("ab_bilayer", K, "mulliken"), ("hbn_c", GAMMA, "lowdin")])
def test_local_densities_are_those_of_the_states(
    world: World, name: str, k: tuple[float, float, float], projection: str
) -> None:
    directory = DATA / name
    atoms = [0, 3]
    found = sampled(world, directory, [k], atoms=atoms, vectors=2, projection=projection)
    levels, states, s = dense(directory, k)
    sizes = read_crystal(directory).sizes
    lowdin, mulliken = np.abs(scipy.linalg.sqrtm(s) @ states) ** 2, (states.conj() * (s @ states)).real
    weights = lowdin if projection == "lowdin" else mulliken
    first = np.concatenate([[0], np.cumsum(sizes)])
    for n, atom in enumerate(atoms):
        weight = weights[first[atom] : first[atom + 1]].sum(axis=0)
        exact = 2 * broadened(levels, found.energies, SIGMA) @ weight
        np.testing.assert_allclose(found.local[n], exact, atol=4e-3 * exact.max(), rtol=0)


def test_local_densities_of_spinors(world: World) -> None:
    """Complex blocks of H with two spins, real ones of S without."""
    system = random_system(3, spinful=True)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    system.hamiltonian.entries[:] *= 0.05
    system.overlap.entries[:] *= 0.01  # and more on the diagonal: S ≻ 0
    onsite = np.flatnonzero(
        (system.overlap.pairs[:, :3] == 0).all(axis=1) & (np.ptp(system.overlap.pairs[:, 3:], axis=1) == 0)
    )
    for index in onsite:
        system.overlap.block(int(index), orbitals)[:] += np.eye(orbitals[system.overlap.pairs[index, 3]])
    sizes, atoms = 2 * orbitals, [0, 3]
    partition = partition_atoms(system.structure, np.ones(len(orbitals)), world.size)
    mine = partition.atoms(world.rank)
    h, s = part(system.hamiltonian, sizes, mine), part(system.overlap, orbitals, mine)
    keys = {"enabled": True, "window": [-1.5, 1.5], "resolution": SIGMA, "atoms": atoms, "vectors": 2}
    plan = DosPlan(DosSection.model_validate({**keys, "projection": "mulliken"}), np.array([K]), np.ones(1), 1, 0.0)
    found = run_dos(DosTables(world, RowMap(partition, sizes), system.structure, h, s, plan, spinful=True), plan)
    first = np.concatenate([[0], np.cumsum(sizes)])
    one_spin, overlap = bloch(system.overlap, orbitals, K), np.zeros((first[-1], first[-1]), dtype=complex)
    spins = [np.concatenate([start + n * half + np.arange(half) for start, half in zip(first, orbitals, strict=False)])
             for n in range(2)]  # fmt: skip
    for rows in spins:
        overlap[np.ix_(rows, rows)] = one_spin
    hamiltonian = bloch(system.hamiltonian, sizes, K)
    levels, states = scipy.linalg.eigh(hamiltonian, overlap)
    weights = (states.conj() * (overlap @ states)).real
    for n, atom in enumerate(atoms):
        exact = broadened(levels, found.energies, SIGMA) @ weights[first[atom] : first[atom + 1]].sum(axis=0)
        np.testing.assert_allclose(found.local[n], exact, atol=4e-3 * exact.max(), rtol=0)


def test_total_density_within_its_own_error_bars(world: World) -> None:
    directory = DATA / "ab_bilayer"
    found = sampled(world, directory, [K, GAMMA], vectors=32, seed=3)
    exact = 2 * np.mean(
        [broadened(dense(directory, k)[0], found.energies, SIGMA).sum(axis=1) for k in (K, GAMMA)], axis=0
    )
    z = (found.density - exact) / found.error
    # neighbouring energies are correlated, so the mean square of z scatters around 1 by more than √(2/m)
    assert np.sqrt(np.mean(z**2)) < 1.8
    assert np.abs(z).max() < 4
    assert np.median(found.error) < 0.3 * exact.mean()  # and the bars say something
    assert found.vectors == 64


def test_random_vectors_belong_to_orbitals(world: World) -> None:
    whole = random_signs((5, 2), np.arange(2500), 2500)
    own = np.arange(2500)[world.rank :: world.size]
    np.testing.assert_array_equal(random_signs((5, 2), own, 2500), whole[own])
    assert set(np.unique(whole)) == {-1.0, 1.0}
    overlaps = whole.T @ whole / 2500
    assert np.abs(overlaps - np.eye(32)).max() < 0.12
    assert not np.array_equal(whole, random_signs((5, 3), np.arange(2500), 2500))


def test_the_same_density_from_any_number_of_ranks(world: World) -> None:
    directory = DATA / "hbn_c"
    together = sampled(world, directory, [GAMMA], vectors=32, atoms=[1], tolerance=1e-5)
    alone = sampled(World.alone(), directory, [GAMMA], vectors=32, atoms=[1], tolerance=1e-5)
    scale = alone.density.max()
    np.testing.assert_allclose(together.density, alone.density, atol=2e-4 * scale, rtol=0)
    np.testing.assert_allclose(together.local, alone.local, atol=2e-4 * alone.local.max(), rtol=0)


def test_levels_counted_between_energies(world: World) -> None:
    directory = DATA / "ab_bilayer"
    section = DosSection.model_validate(
        {"enabled": True, "method": "inertia", "window": [-4.0, 4.0], "resolution": 0.5}
    )
    plan = DosPlan(section, np.array([K, GAMMA]), np.array([0.25, 0.75]), 2, -4.0)
    rows, h, s = blocks(world, directory)
    found = count_levels(PencilAssembler(world, rows, h, s), plan)
    below = [np.searchsorted(dense(directory, k)[0], found.edges) for k in (K, GAMMA)]
    np.testing.assert_allclose(found.integrated, 2 * (0.25 * below[0] + 0.75 * below[1]), atol=1e-12)
    np.testing.assert_allclose(found.density, np.diff(found.integrated) / 0.5, atol=1e-9)
    assert found.integrated[-1] > found.integrated[0] > 0
