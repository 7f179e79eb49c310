"""The whole way through the command line: structure → network → H, S on disk → states, on 1 to 4 ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import read

from deeph_mpi.data.deeph import read_system
from tests.dense import read_crystal
from tests.mpi import DATA, ROOT, deeph_mpi

CHECKPOINT = ROOT / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"

INFER = """
[structure]
file = "moire.vasp"
[model]
checkpoint = "{checkpoint}"
dtype = "float64"
[solve]
states = 12
[output]
directory = "out{ranks}"
hamiltonian = "deeph"
"""

SOLVE = """
[hamiltonian]
directory = "out1"
[solve]
kpoints = [[0.0, 0.0, 0.0], [0.21, -0.13, 0.0]]
window = [-0.4, 0.4]
[output]
directory = "solved"
plot = false
"""


def spectrum(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Eigenvalues (nk, n), verified (nk,) and E_F of a results file."""
    with h5py.File(path) as file:
        group = file["spectrum"]
        return group["eigenvalues"][:], group["verified"][:], float(group.attrs["fermi_energy_eV"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 atoms of 21.8° twisted bilayer graphene, and its H and S predicted on one rank."""
    folder = tmp_path_factory.mktemp("pipeline")
    run = deeph_mpi(1, "build", "twist", "--m", "1", "--r", "1", "--out", "moire.vasp", cwd=folder)
    assert run.returncode == 0, run.stdout
    infer(folder, 1)
    return folder


def infer(folder: Path, ranks: int, *arguments: str) -> str:
    (folder / f"infer{ranks}.toml").write_text(INFER.format(checkpoint=CHECKPOINT, ranks=ranks))
    run = deeph_mpi(ranks, "infer", f"infer{ranks}.toml", *arguments, cwd=folder)
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_inference_on_any_number_of_ranks(folder: Path) -> None:
    reference = read_system(folder / "out1")
    energies, verified, fermi = spectrum(folder / "out1" / "results.h5")
    assert verified.all()
    count = energies.shape[1]
    assert count >= 12  # degenerate states are not torn apart
    assert reference.hamiltonian is not None
    exact = read_crystal(folder / "out1").energies((0.0, 0.0, 0.0))
    filled = 28 * 4 // 2
    assert exact[filled - 1] <= fermi <= exact[filled]
    first = int(np.searchsorted(exact, energies[0, 0] - 1e-8))  # the lowest of a degenerate level
    np.testing.assert_allclose(energies[0], exact[first : first + count], rtol=0, atol=1e-8)
    atoms = read(folder / "out1" / "environments.extxyz")
    novelty, expected = atoms.get_array("novelty"), atoms.get_array("expected_error")
    assert len(novelty) == 28
    assert 0.2 < np.median(novelty) < 3.0  # flat sheets at the usual distance are nothing new
    assert (np.diff(expected[np.argsort(novelty)]) >= 0).all()
    for ranks in (2, 3, 4):
        options = "model.ranks_per_node=1" if ranks == 2 else "solve.enabled=false"  # rank 1 solves only
        infer(folder, ranks, "--set", options)
        found = read_system(folder / f"out{ranks}")
        assert found.hamiltonian is not None
        for one, other in ((found.hamiltonian, reference.hamiltonian), (found.overlap, reference.overlap)):
            assert np.array_equal(one.pairs, other.pairs)
            assert np.abs(one.entries - other.entries).max() < 1e-10
        atoms = read(folder / f"out{ranks}" / "environments.extxyz")
        np.testing.assert_allclose(atoms.get_array("novelty"), novelty, rtol=1e-6)
        np.testing.assert_allclose(atoms.get_array("expected_error"), expected, rtol=1e-6)
    np.testing.assert_allclose(spectrum(folder / "out2" / "results.h5")[0], energies, rtol=0, atol=1e-8)


def test_solve_reads_what_infer_wrote_on_other_numbers_of_ranks(folder: Path) -> None:
    infer(folder, 4, "--set", "solve.enabled=false")
    (folder / "solve.toml").write_text(SOLVE)
    results = []
    for ranks, source in ((1, "out4"), (3, "out1")):
        run = deeph_mpi(ranks, "solve", "solve.toml", "--set", f"hamiltonian.directory={source}", cwd=folder)
        assert run.returncode == 0, run.stdout
        assert "proved" in run.stdout
        results.append(spectrum(folder / "solved" / "results.h5"))
        assert results[-1][1].all()
    for energies, _, fermi in results[1:]:
        np.testing.assert_allclose(energies, results[0][0], rtol=0, atol=1e-8)
        assert abs(fermi - results[0][2]) < 1e-8
    crystal = read_crystal(folder / "out1")
    for energies, k in zip(results[0][0], ((0.0, 0.0, 0.0), (0.21, -0.13, 0.0)), strict=True):
        exact = crystal.energies(k)
        inside = exact[np.abs(exact - results[0][2]) < 0.4]
        np.testing.assert_allclose(energies[np.isfinite(energies)], inside, rtol=0, atol=1e-8)


def test_a_given_overlap_replaces_the_table(folder: Path) -> None:
    """With a copy of the written overlap times 1.1 all energies become 1/1.1 of what they were."""
    shutil.copytree(folder / "out1", folder / "mine")
    with h5py.File(folder / "out1" / "overlap.h5") as source:
        content = {name: source[name][:] for name in source}
    (folder / "mine" / "overlap.h5").unlink()
    with h5py.File(folder / "mine" / "overlap.h5", "w") as target:
        for name, values in content.items():
            target[name] = 1.1 * values if name == "entries" else values
    overlap = folder / "mine" / "overlap.h5"
    run = deeph_mpi(
        2, "infer", "infer1.toml", "--set", f"model.overlap={overlap}", "--set", "output.directory=again", cwd=folder
    )
    assert run.returncode == 0, run.stdout
    expected = spectrum(folder / "out1" / "results.h5")[0][0] / 1.1
    found = spectrum(folder / "again" / "results.h5")[0][0]
    assert len(found) >= 12
    assert max(np.abs(expected - energy).min() for energy in found[:12]) < 1e-8


def test_rows_may_be_kept_in_single_precision_or_not_at_all(folder: Path) -> None:
    reference = read_system(folder / "out1")
    assert reference.hamiltonian is not None
    infer(folder, 2, "--set", "solve.enabled=false", "--set", "output.dtype=float32", "--set", "output.directory=half")
    found = read_system(folder / "half").hamiltonian
    assert found is not None
    assert found.entries.dtype == np.float32
    assert np.array_equal(found.pairs, reference.hamiltonian.pairs)
    size = np.abs(reference.hamiltonian.entries).max()
    assert np.abs(found.entries - reference.hamiltonian.entries).max() < 2e-7 * size
    infer(
        folder, 2, "--set", "solve.enabled=false", "--set", "output.hamiltonian=none", "--set", "output.directory=bare"
    )
    assert [path.name for path in (folder / "bare").iterdir()] == ["environments.extxyz"]


def test_a_plan_runs_no_network(folder: Path) -> None:
    (folder / "plan.toml").write_text(INFER.format(checkpoint=CHECKPOINT, ranks="plan"))
    run = deeph_mpi(2, "infer", "plan.toml", "--plan", "--ranks", "3", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert "plan for 28 atoms on 3 rank(s)" in run.stdout
    rows = {line.split("  ")[0]: line.split()[-3:] for line in run.stdout.splitlines() if line.count("  ") > 2}
    assert float(rows["atoms"][0]) == 9.0  # 28 / 3, rounded
    assert float(rows["neighbouring ranks"][2]) == 2.0
    reference = read_system(folder / "out1").hamiltonian
    assert reference is not None
    assert abs(3 * float(rows["directed pairs"][0]) - (len(reference.pairs) - 28)) <= 2
    assert not (folder / "outplan").exists()
    run = deeph_mpi(1, "infer", "plan.toml", "--plan", "--ranks", "29", cwd=folder)
    assert run.returncode
    assert "29 ranks are more than the 28 atoms" in run.stdout
    run = deeph_mpi(1, "infer", "plan.toml", "--ranks", "2", cwd=folder)
    assert run.returncode
    assert "--ranks-per-node go with --plan" in run.stdout


def test_foreign_matrices_are_not_overwritten(folder: Path) -> None:
    shutil.copytree(DATA / "ab_bilayer", folder / "precious")
    run = deeph_mpi(1, "infer", "infer1.toml", "--set", "output.directory=precious", cwd=folder)
    assert run.returncode == 1
    assert "would be lost: choose another output.directory" in run.stdout
    assert read_system(folder / "precious").hamiltonian is not None
