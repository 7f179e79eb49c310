"""Eigenvalues, counts and Fermi levels of real DFT matrices against dense diagonalization of independent H(k), S(k)."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import brentq

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.config import SolveConfig
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel import World
from deeph_mpi.results.store import read_results
from deeph_mpi.solve import solve
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.spectrum import SolveOptions, Spectrum, spectrum
from tests.dense import DenseCrystal, read_crystal
from tests.mpi import DATA, SHARED

STRUCTURES = [DATA / name for name in ("hbn_primitive", "ab_bilayer", "hbn_c")]
KPOINTS = [(0.0, 0.0, 0.0), (0.21, -0.13, 0.0), (1 / 3, 1 / 3, 0.0), (0.05, 0.4, 0.3)]
NEAR = 1e-8  # eV


@cache
def crystal(directory: Path) -> DenseCrystal:
    return read_crystal(directory)


@cache
def energies(directory: Path, k: tuple[float, float, float]) -> np.ndarray:
    return crystal(directory).energies(k)


def assembler(world: World, directory: Path) -> PencilAssembler:
    structure, info = world.on_root(read_geometry, directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    h, s = (
        read_rows(world, directory / f"{name}.h5", partition.owner, orbitals) for name in ("hamiltonian", "overlap")
    )
    return PencilAssembler(world, RowMap(partition, orbitals), h, s)


def compare(result: Spectrum, n: int, dense: np.ndarray) -> np.ndarray:
    """The states of k-point n are consecutive dense ones, from the index that inertia gives; returns them."""
    found = result.energies[n][np.isfinite(result.energies[n])]
    first = int(result.first[n])
    np.testing.assert_allclose(found, dense[first : first + len(found)], atol=NEAR, rtol=0)
    return found


@pytest.mark.parametrize("directory", STRUCTURES, ids=lambda path: path.name)
def test_states_nearest_the_fermi_level(world: World, directory: Path) -> None:
    electrons = crystal(directory).electrons
    result = spectrum(assembler(world, directory), np.array(KPOINTS), SolveOptions(states=8, electrons=electrons))
    assert result.verified.all()
    for n, k in enumerate(KPOINTS):
        dense = energies(directory, k)
        found = compare(result, n, dense)
        homo, lumo = dense[int(np.ceil(electrons / 2)) - 1], dense[int(electrons // 2)]
        nearest = np.sort(np.abs(dense - (homo + lumo) / 2))
        within = np.count_nonzero(nearest <= nearest[7] + 1e-6)
        assert within <= len(found), "one of the nearest is missing, or a degenerate level was cut"
        assert np.nanmax(result.residuals[n]) < 1e-6


@pytest.mark.parametrize("directory", STRUCTURES, ids=lambda path: path.name)
def test_all_states_of_a_window(world: World, directory: Path) -> None:
    options = SolveOptions(target=-1.0, states=None, window=(-7.0, 6.0))
    result = spectrum(assembler(world, directory), np.array(KPOINTS[1:2]), options)
    assert result.verified.all()
    for n, k in enumerate(KPOINTS[1:2]):
        dense = energies(directory, k)
        assert len(compare(result, n, dense)) == np.count_nonzero((dense >= -8.0) & (dense <= 5.0))


@pytest.mark.parametrize("k", KPOINTS[:2])
def test_inertia_counts_the_eigenvalues_below(world: World, k: tuple[float, float, float]) -> None:
    directory = DATA / "ab_bilayer"
    dense = energies(directory, k)
    pencil = assembler(world, directory).pencil(np.array(k))
    factor = ShiftedFactor(pencil)
    factor.require_positive_overlap()
    for shift in (-30.0, -9.0, -1.07, 3.0, 100.0, 400.0):
        used, below = factor.below(shift)
        assert used == shift
        assert below == np.count_nonzero(dense < shift)
    factor.destroy()
    pencil.destroy()


@pytest.mark.parametrize("k", KPOINTS[:2])
def test_target_on_a_degenerate_eigenvalue(world: World, k: tuple[float, float, float]) -> None:
    # The shift cannot be factored there; all copies of the level must come out, whatever was done about it.
    directory = DATA / "ab_bilayer"
    dense = energies(directory, k)
    level = float(dense[np.argmin(np.diff(dense[:12]))])
    result = spectrum(assembler(world, directory), np.array([k]), SolveOptions(target=level, states=2))
    assert result.verified.all()
    found = compare(result, 0, dense)
    copies = np.count_nonzero(np.abs(dense - level) < 1e-7)
    assert np.count_nonzero(np.abs(found - level) < 1e-7) == copies


@pytest.mark.parametrize("guess", [None, 40.0, -60.0])
def test_fermi_search_from_afar(world: World, guess: float | None) -> None:
    directory = DATA / "hbn_primitive"
    options = SolveOptions(states=2, electrons=8.0, guess=guess)
    result = spectrum(assembler(world, directory), np.array(KPOINTS[:1]), options)
    dense = energies(directory, KPOINTS[0])
    assert result.fermi is not None
    assert result.fermi.certain
    np.testing.assert_allclose([result.fermi.homo, result.fermi.lumo], dense[3:5], atol=NEAR)


def test_all_states_of_a_small_matrix(world: World) -> None:
    # 26 orbitals: more states asked for than there are
    result = spectrum(assembler(world, STRUCTURES[0]), np.array(KPOINTS[:2]), SolveOptions(target=0.0, states=100))
    for n, k in enumerate(KPOINTS[:2]):
        assert len(compare(result, n, energies(STRUCTURES[0], k))) == 26
    assert result.verified.all()


def test_fermi_level_of_a_metal(world: World) -> None:
    # hbn_c has an odd number of electrons; occupations at 2000 K summed over k-points with unequal weights
    directory = DATA / "hbn_c"
    weights = np.array([0.1, 0.4, 0.2, 0.3])
    options = SolveOptions(states=4, electrons=33.0, temperature=2000.0)
    result = spectrum(assembler(world, directory), np.array(KPOINTS), options, weights)
    kt = 8.617333262e-5 * 2000

    def surplus(mu: float) -> float:
        filled = [
            w * (2 / (1 + np.exp(np.clip((energies(directory, k) - mu) / kt, -700, 700)))).sum()
            for k, w in zip(KPOINTS, weights, strict=True)
        ]
        return float(sum(filled)) - 33.0

    assert result.fermi is not None
    assert result.fermi.certain
    assert result.fermi.gap == 0.0
    # levels beyond 10 kT count as full or empty: an error of a few e^-10 of an electron
    np.testing.assert_allclose(result.fermi.energy, brentq(surplus, -10, 10, xtol=1e-12), atol=1e-4)


def test_indefinite_overlap_is_explained(world: World, shared_path: Path) -> None:
    # Only images next to the home cell, as a radius shorter than the range of the basis would leave
    k = KPOINTS[1]
    cut = shared_path / "cut"
    world.on_root(_keep_adjacent_images, DATA / "ab_bilayer", cut)
    negative = np.count_nonzero(scipy.linalg.eigvalsh(crystal(cut).at(k)[1]) <= 0)
    assert negative > 0
    with pytest.raises(SolverError, match=f"{negative} of its 52 eigenvalues") as caught:
        spectrum(assembler(world, cut), np.array([k]), SolveOptions(target=0.0, states=4))
    assert "radius" in str(caught.value)


def _keep_adjacent_images(source: Path, target: Path) -> None:
    target.mkdir()
    for name in ("POSCAR", "info.json"):
        shutil.copy(source / name, target / name)
    for name in ("hamiltonian.h5", "overlap.h5"):
        with h5py.File(source / name) as old, h5py.File(target / name, "w") as new:
            pairs, bounds, entries = (old[key][:] for key in ("atom_pairs", "chunk_boundaries", "entries"))
            keep = np.flatnonzero(np.abs(pairs[:, :3]).max(axis=1) <= 1)
            parts = [entries[bounds[n] : bounds[n + 1]] for n in keep]
            new["atom_pairs"], new["chunk_shapes"] = pairs[keep], old["chunk_shapes"][:][keep]
            new["chunk_boundaries"] = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
            new["entries"] = np.concatenate(parts)


def test_solve_writes_what_it_found(world: World, shared_path: Path) -> None:
    directory = DATA / "hbn_c"
    config = SolveConfig.model_validate(
        {
            "hamiltonian": {"directory": str(directory)},
            "solve": {"kpoints": [list(k) for k in KPOINTS[:2]], "states": 6, "eigenvectors": True},
            "output": {"directory": str(shared_path / "out"), "plot": False},
        }
    )
    solve(config, world)
    run, record = read_results(shared_path / "out" / "results.h5")
    assert (run.ranks, run.atoms, run.orbitals) == (world.size, 8, 104)
    assert json.loads(run.config)["solve"]["states"] == 6
    assert record.verified.all()
    with h5py.File(shared_path / "out" / "results.h5") as file:
        vectors = file["spectrum/eigenvectors"][:]
    for n, k in enumerate(KPOINTS[:2]):
        h, s = crystal(directory).at(k)
        found = record.eigenvalues[n][np.isfinite(record.eigenvalues[n])]
        x = vectors[n, : len(found)].T
        assert np.abs(h @ x - s @ x * found).max() < 1e-7
        np.testing.assert_allclose(x.conj().T @ s @ x, np.eye(len(found)), atol=1e-10)
        first = record.first[n]
        np.testing.assert_allclose(found, energies(directory, k)[first : first + len(found)], atol=NEAR)
    summary = (shared_path / "out" / "summary.txt").read_text()
    assert "count proved by inertia at 2 of 2" in summary
    assert f"E_F {record.fermi:.6f} eV" in summary


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the shared data")
def test_against_the_complete_matrices_of_cp2k(world: World) -> None:
    # reference.json: CP2K's untruncated matrices; pairs to 8 Å change states near E_F by at most 0.1 meV
    directory = SHARED / "data" / "bilayer_graphene" / "035"
    reference = json.loads((directory / "reference.json").read_text())
    fermi = json.loads((directory / "info.json").read_text())["fermi_energy_eV"]
    options = SolveOptions(target=fermi, states=None, window=(-2.0, 2.0))
    result = spectrum(assembler(world, directory), np.array(reference["kpoints"][:2]), options)
    assert result.verified.all()
    for n, k in enumerate(reference["kpoints"][:2]):
        found = compare(result, n, energies(directory, tuple(k)))
        levels = np.array(reference["eigenvalues_eV"][n])[int(result.first[n]) :]
        np.testing.assert_allclose(found, levels[: len(found)], atol=2e-4)
