"""k-paths and meshes, results.h5 and back, density of states, summary and pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.errors import ConfigError, DataError
from deeph_mpi.parallel import Spread, StageRow, World
from deeph_mpi.results.dos import density_of_states
from deeph_mpi.results.kpath import mesh_points, read_kpath
from deeph_mpi.results.plot import plot_spectrum
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.store import read_results, write_results
from deeph_mpi.results.summary import summarize
from deeph_mpi.results.textfile import write_text
from tests.mpi import deeph_mpi

CELL = np.array([[2.5, 0.0, 0.0], [-1.25, 1.25 * 3**0.5, 0.0], [0.0, 0.0, 20.0]])


def run_record() -> RunRecord:
    stages = [StageRow("solve", Spread(3.0, 2.5, 2.0), Spread(2e9, 1.5e9, 1e9), Spread(5e6, 4e6, 3e6))]
    return RunRecord("0.1", '{"solve": {}}', 2, "BN", 2, 26, 676, 8.0, 2, 300.0, stages)


def two_bands(nk: int = 3) -> SpectrumRecord:
    """Valence levels (indices 2, 3) and one empty (4); at the last k-point the lowest is not given."""
    levels = np.array([[-2.0, -1.0, 3.0]] * (nk - 1) + [[-0.5, 2.0, np.nan]])
    return SpectrumRecord(
        kpoints=np.linspace([0, 0, 0], [0.5, 0, 0], nk),
        weights=np.full(nk, 1 / nk),
        eigenvalues=levels,
        residuals=np.where(np.isnan(levels), np.nan, 1e-11),
        verified=np.array([True] * (nk - 1) + [False]),
        first=np.array([2] * (nk - 1) + [3]),
        intervals=np.array([[-2.5, 3.5]] * nk),
        fermi=0.75,
        homo=-0.5,
        lumo=2.0,
        gap=2.5,
        notes=["E_F of these k-points"],
    )


def test_path_lengths_and_labels(tmp_path: Path) -> None:
    # hexagonal lattice, a = 2.5 Å: |ΓM| = 2π/(a√3), |MK| = 2π/(3a), |ΓK| = 4π/(3a)
    file = tmp_path / "K_PATH"
    file.write_text("# comment\n5 0 0 0 0.5 0 0 G M\n\n3 0.5 0 0 0.3333333333333333 0.3333333333333333 0 M K\n")
    path = read_kpath(file, CELL)
    assert path.labels == ["Γ", "M", "K"]
    assert path.kpoints.shape == (7, 3), "M is kept once"
    a = 2.5
    np.testing.assert_allclose(path.ticks, np.cumsum([0, 2 * np.pi / (a * 3**0.5), 2 * np.pi / (3 * a)]))
    np.testing.assert_allclose(path.distances[[0, 4, 6]], path.ticks)
    file.write_text("2 0 0 0 0.3333333333333333 0.3333333333333333 0 G K\n2 0.5 0 0 0 0 0 M G\n")
    jump = read_kpath(file, CELL)
    assert jump.labels == ["Γ", "K|M", "Γ"]
    np.testing.assert_allclose(jump.distances, [0, 4 * np.pi / (3 * a), 4 * np.pi / (3 * a), jump.ticks[2]])


@pytest.mark.parametrize(
    "line", ["5 0 0 0 0.5 0 0 G", "1 0 0 0 0.5 0 0 G M", "five 0 0 0 0.5 0 0 G M", "5 0 0 nan 1 0 0 G M"]
)
def test_bad_path_names_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "K_PATH"
    file.write_text(f"3 0 0 0 0.5 0 0 G M\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_kpath(file, CELL)


@pytest.mark.parametrize("mesh", [[1, 1, 1], [2, 2, 1], [3, 3, 1], [4, 3, 2]])
def test_folded_mesh_samples_like_the_full_one(mesh: list[int]) -> None:
    # any function with f(k) = f(−k) and the period of the zone has the same mean
    def even(k: np.ndarray) -> np.ndarray:
        x, y, z = 2 * np.pi * k.T
        return np.cos(x + 0.3 * np.sin(x)) + np.cos(x - 2 * y) + np.cos(y) * np.cos(z) + np.cos(2 * z)

    full, equal = mesh_points(mesh, time_reversal=False)
    folded, weights = mesh_points(mesh, time_reversal=True)
    assert len(full) == np.prod(mesh)
    assert len(folded) < len(full) or max(mesh) <= 2
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(weights @ even(folded), equal @ even(full), atol=1e-12)


def test_results_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.h5"
    along = dataclasses.replace(two_bands(), distances=np.array([0.0, 0.5, 1.0]), ticks=[0.0, 1.0], labels=["Γ", "M"])
    write_results(World.alone(), path, run_record(), along)
    assert [p.name for p in path.parent.iterdir()] == ["results.h5"], "no temporary file is left"
    run, back = read_results(path)
    assert run == run_record()
    for field in dataclasses.fields(SpectrumRecord):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(along, field.name), err_msg=field.name)
    with h5py.File(path) as file:
        assert file["spectrum"].attrs["fermi_energy_eV"] == 0.75
        assert file["spectrum/verified"].dtype == bool
        np.testing.assert_array_equal(file.attrs["stage_seconds_max"], [3.0])
        np.testing.assert_array_equal(file.attrs["stage_sent_min"], [3e6])


def test_results_of_the_first_version_are_read(tmp_path: Path) -> None:
    """Its stages had no minima and no bytes sent, and the sum of the memory."""
    path = tmp_path / "results.h5"
    write_results(World.alone(), path, run_record(), two_bands())
    with h5py.File(path, "r+") as file:
        for name in [name for name in file.attrs if name.startswith("stage_")]:
            del file.attrs[name]
        for name, value in (("seconds_max", 3.0), ("seconds_mean", 2.5), ("memory_max", 2e9), ("memory_sum", 3e9)):
            file.attrs[f"stage_{name}"] = np.array([value])
    run, _ = read_results(path)
    assert run.stages[0].seconds[:2] == (3.0, 2.5)
    assert run.stages[0].memory[:2] == (2e9, 1.5e9)
    assert np.isnan([run.stages[0].seconds.min, *run.stages[0].sent]).all()
    plot = deeph_mpi(1, "plot", str(tmp_path))
    assert plot.returncode == 0, plot.stdout


def test_not_a_results_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "results.h5")
    (tmp_path / "results.h5").write_text("text")
    with pytest.raises(DataError, match="not a complete results"):
        read_results(tmp_path / "results.h5")


def test_density_of_states_counts_the_states() -> None:
    # two spins, 2 levels below E_F at two of three k-points and 1 at the last, all inside the common interval
    spectrum = dataclasses.replace(two_bands(), intervals=np.array([[-10.0, 10.0]] * 3), is_mesh=True)
    energies, density = density_of_states(spectrum, 2, width=0.05)
    below = energies < 0.75
    step = energies[1] - energies[0]
    np.testing.assert_allclose(density[below].sum() * step, 2 * (2 + 2 + 1) / 3, rtol=1e-3)


def test_summary_says_what_was_found() -> None:
    text = summarize(run_record(), two_bands())
    for part in ("BN: 2 atoms", "26 orbitals", "676", "2 ranks", "8 electrons", "gap 2.5000 eV", "HOMO -0.500000"):
        assert part in text
    assert "8 states at 3 k-points; count proved by inertia at 2 of 3" in text
    assert "E_F of these k-points" in text
    assert any(line.split()[:2] == ["3", "-1.000000"] and line.split()[3] == "2.00" for line in text.splitlines())
    assert any(line.split()[:2] == ["4", "3.000000"] and line.split()[3] == "0.00" for line in text.splitlines())
    metal = dataclasses.replace(two_bands(), fermi=-1.0, gap=0.0)
    at_fermi = next(line.split() for line in summarize(run_record(), metal).splitlines() if "-1.000000  " in line)
    assert at_fermi[3] == "1.00", "a level at the Fermi energy is half filled"
    open_above = summarize(run_record(), dataclasses.replace(metal, lumo=np.nan))
    assert "nearest below -0.500000 eV, above not among the states found" in open_above
    unknown = dataclasses.replace(two_bands(), fermi=np.nan, homo=np.nan, lumo=np.nan, gap=np.nan)
    assert "Fermi level not determined" in summarize(run_record(), unknown)


def test_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "summary.txt"
    write_text(path, "E_F −1 eV\n")
    assert path.read_text(encoding="utf-8") == "E_F −1 eV\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half\n\ud800")
    assert path.read_text(encoding="utf-8") == "E_F −1 eV\n", "the former text survives a failure"
    assert [p.name for p in path.parent.iterdir()] == ["summary.txt"]


def test_pictures(tmp_path: Path) -> None:
    path = tmp_path / "results.h5"
    along = dataclasses.replace(two_bands(), distances=np.array([0.0, 0.5, 1.0]), ticks=[0.0, 1.0], labels=["Γ", "M"])
    write_results(World.alone(), path, run_record(), along)
    run = deeph_mpi(1, "plot", str(tmp_path), "--window", "-3", "4")
    assert run.returncode == 0, run.stdout
    for name, start in (("bands.png", b"\x89PNG"), ("bands.pdf", b"%PDF")):
        assert (tmp_path / name).read_bytes().startswith(start)
    unknown = dataclasses.replace(two_bands(), fermi=np.nan, first=np.full(3, -1), verified=np.zeros(3, bool))
    for record, name in (
        (unknown, "levels.png"),
        (dataclasses.replace(unknown, distances=along.distances, ticks=along.ticks, labels=along.labels), "bands.png"),
        (dataclasses.replace(two_bands(), is_mesh=True), "dos.png"),
    ):
        written = plot_spectrum(run_record(), record, tmp_path / "more")
        assert [p.name for p in written] == [name, name.replace("png", "pdf")]
        assert all(p.stat().st_size > 1000 for p in written)
