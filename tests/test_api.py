"""The Python interface against plain loops and the command line, and files for other tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from ase import Atoms

import deeph_mpi
from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.deeph import in_users_order, read_system, write_system
from deeph_mpi.data.supercell import read_npz
from deeph_mpi.errors import DataError
from deeph_mpi.hamiltonian import Hamiltonian
from deeph_mpi.parallel.world import World
from tests.dense import read_crystal
from tests.mpi import DATA, ROOT
from tests.systems import bloch, random_system
from tests.test_data_siesta import bloch_spinor

CHECKPOINT = ROOT / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"


def test_importing_it_is_light() -> None:
    code = "import sys, deeph_mpi; print([m for m in ('torch', 'numpy', 'ase', 'mpi4py', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
    assert set(dir(deeph_mpi)) >= {"load_model", "read", "Hamiltonian", "Model"}
    with pytest.raises(AttributeError):
        deeph_mpi.nothing  # noqa: B018


def test_levels_of_a_file() -> None:
    hamiltonian = deeph_mpi.read(DATA / "ab_bilayer")
    crystal = read_crystal(DATA / "ab_bilayer")
    k = (0.2, -0.1, 0.0)
    h, s = crystal.at(k)
    np.testing.assert_allclose(hamiltonian.hk(k), h, atol=1e-5)
    np.testing.assert_allclose(hamiltonian.sk(k, sparse=True).toarray(), s, atol=1e-6)
    energies, states = hamiltonian.eigh(k, vectors=True)
    np.testing.assert_allclose(energies, crystal.energies(k), atol=1e-4)
    np.testing.assert_allclose(states.conj().T @ hamiltonian.sk(k) @ states, np.eye(len(states)), atol=1e-9)
    assert hamiltonian.electrons == crystal.electrons
    assert "4 atoms, 52 orbitals" in repr(hamiltonian)
    assert len(hamiltonian.to_ase()) == 4


@pytest.mark.parametrize("spinful", [False, True])
def test_atoms_stay_in_the_users_order(tmp_path: Path, spinful: bool) -> None:
    system = random_system(6, spinful=spinful)
    write_system(tmp_path, system)  # groups them by element
    hamiltonian = deeph_mpi.read(tmp_path)
    k = [0.1, 0.2, -0.3]
    np.testing.assert_allclose(hamiltonian.hk(k), bloch_spinor(system, k), atol=1e-12)
    overlap = hamiltonian.sk(k)
    plain = bloch(system, "overlap", k)
    if not spinful:
        np.testing.assert_allclose(overlap, plain, atol=1e-12)
    assert isinstance(overlap, np.ndarray)
    assert np.linalg.norm(overlap) ** 2 == pytest.approx((2 if spinful else 1) * np.linalg.norm(plain) ** 2)
    np.testing.assert_array_equal(hamiltonian.to_ase().numbers, system.structure.numbers)
    with pytest.raises(DataError, match="not positive definite"):  # random blocks
        hamiltonian.eigh(k)
    with pytest.raises(DataError, match="three fractional"):
        hamiltonian.hk([0.0, 0.0])


def test_prediction_of_a_checkpoint() -> None:
    """Against the DFT data, which the example's model meets to some meV, and invariant under the order of atoms."""
    system = read_system(DATA / "ab_bilayer")
    structure = system.structure
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
    model = deeph_mpi.load_model(CHECKPOINT)
    assert model.shells == {"C": [0, 0, 1, 1, 2]}
    hamiltonian = model.predict(atoms)
    assert hamiltonian.electrons == 16
    reference = Hamiltonian(system)
    k = [0.1, 0.2, 0.0]
    ours, theirs = hamiltonian.eigh(k), reference.eigh(k)
    gaps = np.diff(ours[:10]) - np.diff(theirs[:10])  # whatever the zero of energy
    assert np.abs(gaps).max() < 0.05
    np.testing.assert_allclose(hamiltonian.sk(k), reference.sk(k), atol=1e-4)
    turned = model.predict(atoms[[2, 0, 3, 1]])
    np.testing.assert_allclose(turned.eigh(k), ours, atol=1e-4)
    with pytest.raises(ValueError, match="float32"):
        deeph_mpi.load_model(CHECKPOINT, dtype="half")


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("kind", ["npz", "mtx", "legacy"])
def test_out_and_in_again_to_the_bit(tmp_path: Path, kind: str, spinful: bool) -> None:
    system = random_system(8, spinful=spinful)
    write_system(tmp_path / "a", system)
    for name, source, target in ((f"to-{kind}", "a", "b"), (kind, "b", "c")):
        outcome = convert_all(World.alone(), plan(name, [tmp_path / source], tmp_path / target, Options()))[0]
        assert outcome.state == "converted", outcome.detail
    one, other = (in_users_order(read_system(tmp_path / name)) for name in "ac")
    for first, second in ((one.overlap, other.overlap), (one.hamiltonian, other.hamiltonian)):
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first.pairs, second.pairs)
        np.testing.assert_array_equal(first.entries, second.entries)


def test_what_other_tools_find(tmp_path: Path) -> None:
    """H(k) from the matrices that SciPy loads, by the rule the module states."""
    system = read_system(DATA / "hbn_primitive")
    write_system(tmp_path / "a", system)
    for kind in ("npz", "mtx"):
        convert_all(World.alone(), plan(f"to-{kind}", [tmp_path / "a"], tmp_path / kind, Options()))
    k = np.array([0.1, 0.3, 0.2])
    for load, kind, images in (
        (scipy.sparse.load_npz, "npz", np.load(tmp_path / "npz" / "images.npy")),
        (scipy.io.mmread, "mtx", np.loadtxt(tmp_path / "mtx" / "images.txt")),
    ):
        wide = load(tmp_path / kind / f"hamiltonian.{kind}").toarray().reshape(26, len(images), 26)
        np.testing.assert_allclose(
            np.einsum("amb,m->ab", wide, np.exp(2j * np.pi * images @ k)), bloch(system, "hamiltonian", k), atol=1e-12
        )


def test_sisl_reads_its_file(tmp_path: Path) -> None:
    sisl = pytest.importorskip("sisl")
    pytest.importorskip("netCDF4")
    system = read_system(DATA / "hbn_primitive")
    write_system(tmp_path / "a", system)
    outcome = convert_all(World.alone(), plan("to-sisl", [tmp_path / "a"], tmp_path / "h.nc", Options()))[0]
    assert outcome.state == "converted", outcome.detail
    matrix = sisl.get_sile(tmp_path / "h.nc").read_hamiltonian()
    k = [0.1, 0.3, 0.0]
    np.testing.assert_allclose(matrix.eigh(k), deeph_mpi.read(tmp_path / "a").eigh(k), atol=1e-8)


def test_petsc_loads_every_image(tmp_path: Path) -> None:
    """In the order of images.txt, from one viewer per file."""
    petsc = pytest.importorskip("deeph_mpi.solvers.petsc")
    library, _ = petsc.load()
    if library.ScalarType is not np.float64:
        pytest.skip("a complex PETSc reads complex files")
    system = read_system(DATA / "hbn_primitive")
    write_system(tmp_path / "a", system)
    convert_all(World.alone(), plan("to-petsc", [tmp_path / "a"], tmp_path / "b", Options()))
    images = np.loadtxt(tmp_path / "b" / "images.txt")
    k = np.array([0.1, 0.3, 0.2])
    for name in ("hamiltonian", "overlap"):
        viewer = library.Viewer().createBinary(str(tmp_path / "b" / f"{name}.petsc"), "r", comm=library.COMM_SELF)
        total = np.zeros((26, 26), dtype=complex)
        for image in images:
            matrix = library.Mat().create(comm=library.COMM_SELF)
            matrix.load(viewer)
            matrix.convert("dense")
            total += np.exp(2j * np.pi * image @ k) * matrix.getDenseArray()
            matrix.destroy()
        viewer.destroy()
        np.testing.assert_allclose(total, bloch(system, name, k), atol=1e-12)


def test_pieces_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements are worked on a few at a time."""
    write_system(tmp_path / "a", random_system(8, spinful=True))
    convert_all(World.alone(), plan("to-npz", [tmp_path / "a"], tmp_path / "b", Options()))
    whole = read_npz(tmp_path / "b", cutoff=5.0)
    monkeypatch.setattr("deeph_mpi.data.elements.PIECE", 37)
    pieces = read_npz(tmp_path / "b", cutoff=5.0)
    assert whole.hamiltonian is not None
    assert pieces.hamiltonian is not None
    np.testing.assert_array_equal(whole.hamiltonian.pairs, pieces.hamiltonian.pairs)
    np.testing.assert_array_equal(whole.hamiltonian.entries, pieces.hamiltonian.entries)
