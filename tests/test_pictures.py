"""`deeph-mpi plot` on results of real solves: what is drawn, what the files of atoms hold, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import read

from deeph_mpi.errors import ConfigError, DataError
from deeph_mpi.results.colours import Colouring
from deeph_mpi.results.dos import density_of_states
from deeph_mpi.results.pictures import Request, draw
from deeph_mpi.results.plot import plot_spectrum
from deeph_mpi.results.projections import Projections, participation
from deeph_mpi.results.selection import select
from deeph_mpi.results.store import read_results
from tests.mpi import DATA, deeph_mpi

SOLVE = """
[hamiltonian]
directory = "{directory}"
[solve]
{solve}
[output]
directory = "{name}"
plot = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solved: hBN with carbon at two k-points, Bernal bilayer along a path and on a mesh."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "K_PATH").write_text("4 0 0 0 0.5 0 0 G M\n3 0.5 0 0 0.3333333333333333 0.6666666666666666 0 M K\n")
    for name, data, asked in (
        ("points", "hbn_c", "kpoints = [[0.0, 0.0, 0.0], [0.21, -0.13, 0.0]]\nstates = 12"),
        ("path", "ab_bilayer", 'kpath = "K_PATH"\nstates = 8'),
        ("mesh", "ab_bilayer", "mesh = [3, 3, 1]\nstates = 8\nprojections = false"),
    ):
        (folder / f"{name}.toml").write_text(SOLVE.format(directory=DATA / data, solve=asked, name=name))
        run = deeph_mpi(1, "solve", f"{name}.toml", cwd=folder)
        assert run.returncode == 0, run.stdout
    return folder


def plot(folder: Path, *options: str) -> list[str]:
    """Names of the files that the command says it wrote, each of which is there and a picture of its kind."""
    run = deeph_mpi(1, "plot", *options, cwd=folder)
    assert run.returncode == 0, run.stdout
    paths = [folder / line for line in run.stdout.splitlines() if line.endswith((".png", ".pdf", ".extxyz"))]
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".extxyz": b""}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in paths)
    return [path.name for path in paths]


def test_the_command_draws_what_it_is_asked_for(folder: Path) -> None:
    options = ("--ipr", "--color-by", "element:C", "--map", "-1", "1", "--project", "element", "--window", "-2", "2")
    names = ["pdos.png", "pdos.pdf", "ipr.png", "ipr.pdf", "map.extxyz", "map.png", "map.pdf"]
    assert plot(folder, "points", *options) == names
    names = ["bands.png", "bands.pdf"]
    assert plot(folder, "path", "--color-by", "shell:p/layer:1", "--output", "elsewhere") == names


def test_a_window_mapped(folder: Path) -> None:
    path = folder / "points" / "results.h5"
    run, record = read_results(path)
    energies = record.eigenvalues - record.fermi
    low, high = energies[0, 1] - 1e-3, energies[0, -2] + 1e-3
    draw(path, folder / "map", Request(map=(low, high)))
    atoms = read(folder / "map" / "map.extxyz")
    with h5py.File(path) as file:
        weights, atom = file["projections/weights"][:], file["projections/atom"][:]
        np.testing.assert_array_equal(atoms.numbers, file["structure/numbers"][:])
    inside = (energies >= low) & (energies <= high)
    expected = np.zeros(len(atoms))
    for k in range(2):
        np.add.at(expected, atom, 2 * 0.5 * weights[k][inside[k]].sum(axis=0))
    np.testing.assert_allclose(atoms.arrays["ldos"], expected, atol=1e-6)
    assert atoms.arrays["ldos"].sum() == pytest.approx(inside.sum(), abs=1e-5)  # two electrons, half of each k-point
    assert run.atoms == len(atoms)


def test_single_states_mapped(folder: Path) -> None:
    path = folder / "points" / "results.h5"
    record = read_results(path)[1]
    first = int(record.first[1])
    written = draw(path, folder / "states", Request(states=[first, first + 3], kpoint=1))
    assert [p.name for p in written[:2]] == ["states.extxyz", f"state_{first}.png"]
    atoms = read(folder / "states" / "states.extxyz")
    expected = Projections.open(path).on_atoms(1)
    for n in (0, 3):
        np.testing.assert_allclose(atoms.arrays[f"state_{first + n}"], expected[n], atol=1e-6)
        assert atoms.arrays[f"state_{first + n}"].sum() == pytest.approx(1.0, abs=1e-5)


def test_parts_of_a_density_add_up(folder: Path) -> None:
    path = folder / "points" / "results.h5"
    projections, (run, record) = Projections.open(path), read_results(path)
    total = density_of_states(record, run.degeneracy)[1]
    for word, count in (("element", 3), ("shell", 3), ("layer", 1)):
        parts = select(word, projections.structure, projections.shells)
        assert len(parts) == count
        densities = [density_of_states(record, run.degeneracy, shares=projections.shares(p.chosen))[1] for p in parts]
        np.testing.assert_allclose(np.sum(densities, axis=0), total, atol=1e-4 * total.max())


def test_selections(folder: Path) -> None:
    projections = Projections.open(folder / "path" / "results.h5")
    structure, shells = projections.structure, projections.shells

    def chosen(word: str) -> np.ndarray:
        (one,) = select(word, structure, shells)
        return one.chosen

    np.testing.assert_array_equal(chosen("atoms:0-1,3"), np.isin(shells.atom, [0, 1, 3]))
    np.testing.assert_array_equal(chosen("shell:p"), shells.l == 1)
    lower = np.flatnonzero(structure.positions[:, 2] < structure.positions[:, 2].mean())
    np.testing.assert_array_equal(chosen("layer:1/shell:d"), np.isin(shells.atom, lower) & (shells.l == 2))
    halves = [projections.shares(part.chosen) for part in select("layer", structure, shells)]
    found = np.isfinite(read_results(projections.path)[1].eigenvalues)
    np.testing.assert_allclose(halves[0] + halves[1], found.astype(float), atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(color_by="elements:C"), "did you mean 'element'"),
        (Request(color_by="element:Xe"), r"no element 'Xe' \(there are: C\)"),
        (Request(color_by="shell:f"), "no shell 'f'"),
        (Request(color_by="layer:3"), "no layer '3'"),
        (Request(color_by="atoms:0-99"), "atoms 0 to 3"),
        (Request(color_by="atoms:a"), "is not a list"),
        (Request(color_by="layer"), "takes one selection"),
        (Request(color_by="layer:1", states=[7]), "not densities or maps"),
        (Request(dos=True), "a path does not sample the zone"),
        (Request(map=(-40.0, -30.0)), "no states within"),
        (Request(map=(-40.0, 0.0)), "beyond the states computed"),
        (Request(map=(1.0, -1.0)), "the lower first"),
        (Request(states=[99]), "no state 99 at k-point 0"),
        (Request(states=[7], kpoint=9), "no k-point 9"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, request_: Request, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(folder / "path" / "results.h5", folder / "refused", request_)
    assert not (folder / "refused").exists()


def test_without_populations(folder: Path) -> None:
    path = folder / "mesh" / "results.h5"
    assert [p.name for p in draw(path, folder / "plain", Request())] == ["dos.png", "dos.pdf"]
    with pytest.raises(DataError, match=r"solve again with solve\.projections = true"):
        draw(path, folder / "refused", Request(ipr=True))


def test_counted_densities_are_drawn_with_and_without_states(folder: Path) -> None:
    """[dos] by inertia in three intervals: alone, and beside the levels of the same k-point."""
    dos = "\n[dos]\nenabled = true\nmethod = 'inertia'\ncenter = -3.0\nwindow = [-1.5, 1.5]\nresolution = 1.0\n"
    for name, asked, names in (
        ("alone", "enabled = false", ["density.png", "density.pdf"]),
        ("both", "states = 4", ["density.png", "density.pdf", "levels.png", "levels.pdf"]),
    ):
        text = SOLVE.format(directory=DATA / "hbn_primitive", solve=asked, name=name)
        (folder / f"{name}.toml").write_text(text + dos)
        run = deeph_mpi(1, "solve", f"{name}.toml", cwd=folder)
        assert run.returncode == 0, run.stdout
        assert plot(folder, name) == names


def test_bands_that_could_not_be_numbered_are_coloured_too(folder: Path, tmp_path: Path) -> None:
    run, record = read_results(folder / "path" / "results.h5")
    unknown = dataclasses.replace(record, first=np.full(len(record.first), -1))
    colouring = Colouring("p", np.linspace(0, 1, record.eigenvalues.size).reshape(record.eigenvalues.shape))
    assert [p.name for p in plot_spectrum(run, unknown, tmp_path, None, colouring)] == ["bands.png", "bands.pdf"]


def test_participation() -> None:
    assert participation(np.full(50, 1 / 50)) == pytest.approx(1 / 50)
    assert participation(np.eye(5)[2]) == pytest.approx(1.0)
    np.testing.assert_allclose(participation(np.array([[2.0, 2.0, 0.0], [3.0, 1.0, 0.0]])), [0.5, 10 / 16])
    assert np.isnan(participation(np.zeros(3)))
