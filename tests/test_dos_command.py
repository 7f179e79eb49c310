"""Section [dos] through the command line: files written, files drawn again, mistakes told before work starts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.config import SolveConfig, load
from deeph_mpi.errors import ConfigError
from tests.dense import read_crystal
from tests.mpi import DATA, deeph_mpi

CONFIG = f"""
[hamiltonian]
directory = "{DATA / "ab_bilayer"}"
[solve]
enabled = false
[dos]
enabled = true
center = -4.0
window = [-3.0, 3.0]
resolution = 0.5
vectors = 32
atoms = [0]
projection = "lowdin"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dos")
    (folder / "dos.toml").write_text(CONFIG)
    (folder / "K_PATH").write_text("2 0.0 0.0 0.0 0.5 0.0 0.0 G M\n")
    return folder


def test_densities_without_states(folder: Path) -> None:
    run = deeph_mpi(2, "solve", "dos.toml", cwd=folder)
    assert run.returncode == 0, run.stdout
    with h5py.File(folder / "out" / "results.h5") as file:
        assert "spectrum" not in file
        energies, density, error = (file["dos"][name][:] for name in ("energies", "density", "error"))
        levels = read_crystal(DATA / "ab_bilayer").energies((0.0, 0.0, 0.0))
        exact = 2 * np.exp(-2 * (energies[:, None] - levels) ** 2).sum(axis=1) / (0.5 * np.sqrt(2 * np.pi))
        z = (density - exact) / error
        assert np.sqrt(np.mean(z**2)) < 2
        assert file["ldos/density"].shape == (1, len(energies))
        assert file["ldos/density"][:].min() > -0.01 * density.max()
        assert file.attrs["ranks"] == 2
    for name in ("density.png", "density.pdf"):
        (folder / "out" / name).unlink()
    run = deeph_mpi(1, "plot", "out", "--window", "-5", "-3", cwd=folder)
    assert run.returncode == 0, run.stdout
    assert (folder / "out" / "density.png").stat().st_size > 5000


def test_levels_counted_beside_states(folder: Path) -> None:
    settings = ["solve.enabled=true", "solve.states=4", "dos.method=inertia", "output.directory=both", "dos.atoms=[]"]
    run = deeph_mpi(1, "solve", "dos.toml", *(word for s in settings for word in ("--set", s)), cwd=folder)
    assert run.returncode == 0, run.stdout
    levels = read_crystal(DATA / "ab_bilayer").energies((0.0, 0.0, 0.0))
    with h5py.File(folder / "both" / "results.h5") as file:
        assert file["spectrum/eigenvalues"].shape[1] >= 4
        assert np.isfinite(file["spectrum"].attrs["fermi_energy_eV"])
        below = np.searchsorted(levels, file["dos/edges"][:])
        np.testing.assert_allclose(file["dos/integrated"][:], 2 * below)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("solve.kpath=K_PATH", "a density of states along solve.kpath has no meaning"),
        ("dos.atoms=[4]", "there is no atom 4"),
    ],
)
def test_mistakes_are_told_before_work_starts(folder: Path, setting: str, message: str) -> None:
    run = deeph_mpi(1, "solve", "dos.toml", "--set", setting, "--set", "output.directory=never", cwd=folder)
    assert run.returncode != 0
    assert message in run.stdout
    assert run.stdout.count("deeph-mpi: error") == 1
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dos.window=[1.0, -1.0]", "lower < upper"),
        ("dos.window=3", "two energies"),
        ("dos.projection=green", "dos.projection must be"),
        ("dos.enabled=false", "nothing to do"),
    ],
)
def test_wrong_values_are_one_line(folder: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder / "dos.toml", SolveConfig, [setting])
    assert "\n" not in str(caught.value)
