"""Eigenvalues, counts and Fermi levels of real DFT matrices against dense diagonalization of independent H(k), S(k)."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
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
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import ConfigError, SolverError
from deeph_mpi.parallel import World
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.store import read_results, write_results
from deeph_mpi.solve import solve
from deeph_mpi.solvers.backends import FactorOptions, available_backends, choose_backend
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.spectrum import SolveOptions, Spectrum, spectrum
from tests.dense import DenseCrystal, read_crystal
from tests.mpi import DATA, SHARED

STRUCTURES = [DATA / name for name in ("hbn_primitive", "ab_bilayer", "hbn_c")]
K = (1 / 3, 2 / 3, 0.0)  # of lattice vectors at 60°, as all of these have
KPOINTS = [(0.0, 0.0, 0.0), (0.21, -0.13, 0.0), K, (0.05, 0.4, 0.3), (-0.37, 0.11, 0.0)]
NEAR = 1e-8  # eV


@cache
def crystal(directory: Path) -> DenseCrystal:
    return read_crystal(directory)


@cache
def energies(directory: Path, k: tuple[float, float, float]) -> np.ndarray:
    return crystal(directory).energies(k)


def assembler(world: World, directory: Path, backend: str = "auto") -> PencilAssembler:
    structure, info = world.on_root(read_geometry, directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    h, s = (
        read_rows(world, directory / f"{name}.h5", partition.owner, orbitals) for name in ("hamiltonian", "overlap")
    )
    return PencilAssembler(world, RowMap(partition, orbitals), h, s, backend=backend)


def compare(result: Spectrum, n: int, dense: np.ndarray) -> np.ndarray:
    """The states of k-point n are consecutive dense ones, from the index that inertia gives; returns them."""
    found = levels_of(result, n)
    first = int(result.first[n])
    np.testing.assert_allclose(found, dense[first : first + len(found)], atol=NEAR, rtol=0)
    return found


def levels_of(result: Spectrum, n: int) -> np.ndarray:
    return result.energies[n][np.isfinite(result.energies[n])]


def near(dense: np.ndarray, energy: float, count: int) -> np.ndarray:
    """The `count` dense levels nearest `energy`, with all copies of the farthest; ascending."""
    distance = np.abs(dense - energy)
    return dense[distance <= np.sort(distance)[count - 1] + 1e-6]


@pytest.mark.parametrize("directory", STRUCTURES, ids=lambda path: path.name)
def test_states_nearest_the_fermi_level(world: World, directory: Path) -> None:
    electrons = crystal(directory).electrons
    result = spectrum(assembler(world, directory), np.array(KPOINTS), SolveOptions(states=8, electrons=electrons))
    assert result.verified.all()
    assert result.fermi is not None
    assert result.fermi.certain
    check_fermi_level(result.fermi.energy, directory, KPOINTS, electrons)
    for n, k in enumerate(KPOINTS):
        found = compare(result, n, energies(directory, k))
        nearest = near(energies(directory, k), result.fermi.energy, 8)
        np.testing.assert_allclose(found, nearest, atol=NEAR, rtol=0)
        assert np.nanmax(result.residuals[n]) < 1e-6


def check_fermi_level(
    fermi: float, directory: Path, kpoints: list[tuple[float, float, float]], electrons: float
) -> None:
    """In the gap of the dense levels, at its middle; without a gap, where occupations at 300 K sum to the electrons."""
    every = np.array([energies(directory, k) for k in kpoints])
    homo, lumo = every[:, int(np.ceil(electrons / 2)) - 1].max(), every[:, int(electrons // 2)].min()
    if lumo - homo > 1e-6:
        np.testing.assert_allclose(fermi, (homo + lumo) / 2, atol=NEAR)
    else:
        np.testing.assert_allclose(fermi, brentq(lambda mu: filled(every, mu, 300.0) - electrons, -9, 9), atol=1e-4)


def filled(levels: np.ndarray, mu: float, temperature: float) -> float:
    """Electrons in the levels (nk, n) with equal weights, two per level."""
    kt = 8.617333262e-5 * temperature
    return float((2 / (1 + np.exp(np.clip((levels - mu) / kt, -700, 700)))).sum() / len(levels))


@pytest.mark.parametrize("directory", STRUCTURES, ids=lambda path: path.name)
def test_all_states_of_a_window_around_the_fermi_level(world: World, directory: Path) -> None:
    electrons = crystal(directory).electrons
    options = SolveOptions(states=None, window=(-2.9, 2.7), electrons=electrons)
    result = spectrum(assembler(world, directory), np.array(KPOINTS), options)
    assert result.verified.all()
    assert result.fermi is not None
    check_fermi_level(result.fermi.energy, directory, KPOINTS, electrons)
    for n, k in enumerate(KPOINTS):
        dense = energies(directory, k) - result.fermi.energy
        assert len(compare(result, n, energies(directory, k))) == np.count_nonzero((dense >= -2.9) & (dense <= 2.7))


def test_bands_of_bernal_bilayer_touch_at_K(world: World) -> None:
    # Two of the four π states are degenerate at E_F by the lattice's symmetry: both are there, E_F between them
    directory = DATA / "ab_bilayer"
    result = spectrum(assembler(world, directory), np.array([K]), SolveOptions(states=2, electrons=16.0))
    dense = energies(directory, K)
    assert dense[8] - dense[7] < 1e-3 < min(dense[7] - dense[6], dense[9] - dense[8])
    assert result.first[0] == 7
    np.testing.assert_allclose(compare(result, 0, dense), dense[7:9], atol=NEAR)
    assert result.fermi is not None
    assert abs(result.fermi.energy - (dense[7] + dense[8]) / 2) < 1e-4
    assert result.verified.all()


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


@pytest.mark.parametrize(
    "options",
    [
        FactorOptions(backend="superlu_dist"),
        FactorOptions(backend="petsc"),
        FactorOptions(out_of_core="always"),
        FactorOptions(low_rank=1e-12),
    ],
    ids=["superlu_dist", "petsc", "on disk", "low rank"],
)
@pytest.mark.parametrize("k", [KPOINTS[0], KPOINTS[1]], ids=["Γ", "k"])
def test_every_factorization_finds_the_same_states(
    world: World, options: FactorOptions, k: tuple[float, float, float], shared_path: Path
) -> None:
    directory = DATA / "ab_bilayer"
    dense = energies(directory, k)
    options = replace(options, scratch=shared_path)
    if options.backend == "petsc" and world.size > 1:
        with pytest.raises(SolverError, match=r"no factorization 'petsc' for .* ranks; it has: mumps"):
            choose_backend("petsc", world.size)
        return
    if options.backend not in ("auto", *available_backends()):
        pytest.skip(f"PETSc without {options.backend}")
    # blocks of vectors would fill the whole space here, and all states are their own proof
    asked = SolveOptions(target=-1.0, states=6, factor=options, eigensolver="krylov-schur")
    assembled = assembler(world, directory, options.backend)
    result = spectrum(assembled, np.array([k]), asked)
    np.testing.assert_allclose(levels_of(result, 0), near(dense, -1.0, 6), atol=NEAR, rtol=0)
    exact = options.backend == "auto" and options.low_rank == 0
    assert result.verified.all() == exact
    if options.low_rank > 0:
        assert any("compressed" in note for note in result.notes)


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
    weights = np.array([0.1, 0.4, 0.1, 0.3, 0.1])
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


def configured(directory: Path, output: Path, **solve_section: object) -> SolveConfig:
    return SolveConfig.model_validate(
        {
            "hamiltonian": {"directory": str(directory)},
            "solve": solve_section,
            "output": {"directory": str(output), "plot": False},
        }
    )


@pytest.mark.parametrize("directory", STRUCTURES, ids=lambda path: path.name)
def test_solve_writes_what_it_found(world: World, directory: Path, shared_path: Path) -> None:
    config = configured(directory, shared_path / "out", kpoints=[list(k) for k in KPOINTS], states=8, eigenvectors=True)
    solve(config, world)
    run, record = read_results(shared_path / "out" / "results.h5")
    dense = crystal(directory)
    assert (run.ranks, run.atoms, run.orbitals) == (world.size, len(dense.sizes), sum(dense.sizes))
    assert json.loads(run.config)["solve"]["states"] == 8
    assert record.verified.all()
    check_fermi_level(record.fermi, directory, KPOINTS, dense.electrons)
    with h5py.File(shared_path / "out" / "results.h5") as file:
        vectors = file["spectrum/eigenvectors"][:]
    for n, k in enumerate(KPOINTS):
        h, s = dense.at(k)
        found = record.eigenvalues[n][np.isfinite(record.eigenvalues[n])]
        first = record.first[n]
        np.testing.assert_allclose(found, energies(directory, k)[first : first + len(found)], atol=NEAR, rtol=0)
        nearest = near(energies(directory, k), record.fermi, 8)
        np.testing.assert_allclose(found, nearest, atol=NEAR, rtol=0)
        x = vectors[n, : len(found)].T
        assert np.abs(h @ x - s @ x * found).max() < 1e-7
        np.testing.assert_allclose(x.conj().T @ s @ x, np.eye(len(found)), atol=1e-10)
    summary = (shared_path / "out" / "summary.txt").read_text(encoding="utf-8")
    assert "count proved by inertia at 5 of 5" in summary
    assert f"E_F {record.fermi:.6f} eV" in summary


@pytest.mark.parametrize(
    "asked", [{"states": 8}, {"states": None, "window": [-2.0, 1.5]}, {"states": 5, "target": -3.0}]
)
def test_pools_find_what_all_ranks_together_find(world: World, asked: dict[str, object], shared_path: Path) -> None:
    directory = DATA / "hbn_c"  # a metal
    kpoints = [list(k) for k in KPOINTS]
    results, weights = [], []
    for pools in (1, *(n for n in (2, 4) if world.size % n == 0), "auto"):
        result = solve(configured(directory, shared_path / "out", kpoints=kpoints, pools=pools, **asked), world)
        assert result is not None
        assert result.verified.all()
        results.append(result)
        with h5py.File(shared_path / "out" / "results.h5") as file:
            weights.append(file["projections/weights"][:])
        world.comm.Barrier()  # the next writes that file
    for result, weight in zip(results[1:], weights[1:], strict=True):
        np.testing.assert_allclose(result.energies, results[0].energies, atol=1e-9)
        np.testing.assert_array_equal(result.first, results[0].first)
        np.testing.assert_allclose(weight, weights[0], atol=1e-5)
        if "target" not in asked:
            assert result.fermi is not None
            assert results[0].fermi is not None
            np.testing.assert_allclose(result.fermi.energy, results[0].fermi.energy, atol=1e-9)


@pytest.mark.parametrize("target", ["fermi", -3.0])
def test_pools_share_a_window(world: World, target: object, shared_path: Path) -> None:
    asked = {"states": None, "window": [-8.0, 3.0], "target": target}
    for count in (1, 2):
        if world.size % count:
            continue
        kpoints = [list(k) for k in KPOINTS[1 : 1 + count]]
        results, weights = [], []
        for pools in (1, world.size):
            result = solve(
                configured(DATA / "hbn_c", shared_path / "out", kpoints=kpoints, pools=pools, **asked), world
            )
            assert result is not None
            assert result.verified.all()
            results.append(result)
            with h5py.File(shared_path / "out" / "results.h5") as file:
                weights.append(file["projections/weights"][:])
            world.comm.Barrier()  # the next writes that file
        assert np.isfinite(results[0].energies).sum(axis=1).min() > 4
        np.testing.assert_allclose(results[1].energies, results[0].energies, atol=1e-9)
        np.testing.assert_array_equal(results[1].first, results[0].first)
        np.testing.assert_allclose(results[1].intervals, results[0].intervals, atol=1e-9)
        np.testing.assert_allclose(weights[1], weights[0], atol=1e-5)


@pytest.mark.parametrize("k", KPOINTS[:2], ids=["Γ", "k"])
def test_eigensolvers_agree(world: World, k: tuple[float, float, float]) -> None:
    directory = DATA / "hbn_c"
    found = [
        spectrum(assembler(world, directory), np.array([k]), SolveOptions(target=-3.0, states=4, eigensolver=name))
        for name in ("lanczos", "krylov-schur")
    ]
    np.testing.assert_allclose(found[0].energies, found[1].energies, atol=1e-10)
    np.testing.assert_array_equal(found[0].first, found[1].first)


def test_impossible_pools_are_refused(world: World, shared_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"solve\.pools = 7 is not possible with \d ranks and 5 k-points") as caught:
        solve(configured(STRUCTURES[0], shared_path / "out", kpoints=[list(k) for k in KPOINTS], pools=7), world)
    assert caught.value.everywhere


@pytest.mark.parametrize("charge", [2.0, -2.0])
def test_charge_moves_the_fermi_level_by_a_band(world: World, shared_path: Path, charge: float) -> None:
    # 8 electrons fill levels 0 … 3; the cation's gap is below level 3, the anion's above level 4
    directory = DATA / "hbn_primitive"
    result = solve(
        configured(directory, shared_path / "out", kpoints=[list(KPOINTS[1])], states=4, charge=charge), world
    )
    dense = energies(directory, KPOINTS[1])
    levels = int(8 - charge) // 2
    assert result.fermi is not None
    np.testing.assert_allclose([result.fermi.homo, result.fermi.lumo], dense[levels - 1 : levels + 1], atol=NEAR)
    np.testing.assert_allclose(result.fermi.energy, dense[levels - 1 : levels + 1].mean(), atol=NEAR)
    assert read_results(shared_path / "out" / "results.h5")[0].electrons == 8 - charge


def test_vectors_are_written_one_state_at_a_time(world: World, shared_path: Path) -> None:
    # 48 states of 20000 rows, atoms dealt to the ranks at random: the file has them in atom order, and no rank needs
    # room for more than a few of them
    sizes = np.random.default_rng(3).integers(1, 20, 2000)
    owner = np.random.default_rng(4).integers(0, world.size, len(sizes)).astype(np.int32)
    rows = RowMap(Partition(owner, world.size), sizes)
    local = rows.atom_order(world.rank)[:, None] + 1j * np.arange(48)
    states = np.full((1, 48), 0.0)
    record = SpectrumRecord(
        np.zeros((1, 3)), np.ones(1), states, states, np.ones(1, bool), np.zeros(1, np.int64), np.zeros((1, 2)),
        0.0, 0.0, 0.0, 0.0, [],
    )  # fmt: skip
    run = RunRecord("0", "{}", world.size, "X", len(sizes), rows.dimension, 1, 1.0, 2, 300.0, [])
    path = shared_path / "results.h5"
    tracemalloc.start()
    write_results(world, path, run, record, [local], rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * rows.dimension * 16
    with h5py.File(path) as file:
        stored = file["spectrum/eigenvectors"][0]
    np.testing.assert_array_equal(stored, np.arange(rows.dimension) + 1j * np.arange(48)[:, None])


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
