"""Files that all ranks write together, none holding the whole: the same as those of one rank, to the bit."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.deeph import DeephSystem, in_users_order, read_system, write_system
from deeph_mpi.parallel import World
from tests.systems import bloch, random_system


def converted(world: World, form: str, source: Path, target: Path, **options: object) -> None:
    tasks = world.on_root(plan, form, [source], target, Options(reader=tuple(options.items())))
    outcome = convert_all(world, tasks)[0]
    assert outcome.state == "converted", outcome.detail
    assert convert_all(world, tasks)[0].state == "finished before"


def petsc_matrices(path: Path, dtype: str) -> list[csr_matrix]:
    """All matrices of a binary file, by PETSc's description of the format."""
    data = path.read_bytes()
    place, found = 0, []

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal place
        values = np.frombuffer(data, kind, count, place)
        place += values.nbytes
        return values.astype(kind.replace(">", "="))

    while place < len(data):
        classid, rows, columns, nonzero = take(">i4", 4).tolist()
        assert classid == 1211216
        pointers = np.concatenate([[0], np.cumsum(take(">i4", rows))])
        indices = take(">i4", nonzero)
        found.append(csr_matrix((take(dtype, nonzero), indices, pointers), shape=(rows, columns)))
    return found


@pytest.mark.parametrize("spinful", [False, True])
def test_petsc_files(world: World, shared_path: Path, spinful: bool) -> None:
    """Against H(k) summed block by block, and byte by byte against one rank."""
    system = random_system(5, spinful=spinful, noise=1e-7)
    world.on_root(lambda: write_system(shared_path / "in", system))
    converted(world, "to-petsc", shared_path / "in", shared_path / "out")
    if not world.is_root:
        return
    converted(World.alone(), "to-petsc", shared_path / "in", shared_path / "alone")
    k = np.array([0.1, 0.3, 0.2])
    kept = read_system(shared_path / "in")
    images = np.loadtxt(shared_path / "out" / "images.txt")
    for name in ("overlap", "hamiltonian"):
        ours, other = ((shared_path / where / f"{name}.petsc").read_bytes() for where in ("out", "alone"))
        assert ours == other
        spinors = spinful and name == "hamiltonian"
        matrices = petsc_matrices(shared_path / "out" / f"{name}.petsc", ">c16" if spinors else ">f8")
        total = sum(np.exp(2j * np.pi * image @ k) * m.toarray() for image, m in zip(images, matrices, strict=True))
        np.testing.assert_allclose(total, dense(kept, name, k), atol=1e-12)


@pytest.mark.parametrize("spinful", [False, True])
def test_petsc_files_of_kpoints(world: World, shared_path: Path, spinful: bool) -> None:
    """H(k) and S(k) of spinors have the same rows; all points are on one pattern."""
    system = random_system(5, spinful=spinful, noise=1e-7)
    world.on_root(lambda: write_system(shared_path / "in", system))
    kpoints = ((0.1, 0.3, 0.2), (0.0, 0.0, 0.0), (1 / 3, -2 / 3, 0.5))
    converted(world, "to-petsc", shared_path / "in", shared_path / "out", kpoint=kpoints)
    if not world.is_root:
        return
    converted(World.alone(), "to-petsc", shared_path / "in", shared_path / "alone", kpoint=kpoints)
    kept = read_system(shared_path / "in")
    np.testing.assert_array_equal(np.loadtxt(shared_path / "out" / "kpoints.txt"), kpoints)
    orbitals = kept.info.orbital_map.orbitals(kept.structure.numbers)
    first = np.cumsum(orbitals) - orbitals
    pairs = list(zip(orbitals, first, strict=True))
    places = [np.concatenate([np.arange(n) + 2 * at + spin * n for n, at in pairs]) for spin in (0, 1)]
    for name in ("overlap", "hamiltonian"):
        matrices, alone = (petsc_matrices(shared_path / where / f"{name}.petsc", ">c16") for where in ("out", "alone"))
        for k, matrix, other in zip(kpoints, matrices, alone, strict=True):
            expected = dense(kept, name, np.array(k))
            if spinful and name == "overlap":
                scalar, expected = expected, np.zeros(matrix.shape, dtype=complex)
                for place in places:
                    expected[np.ix_(place, place)] = scalar
            np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-12)
            np.testing.assert_allclose(matrix.toarray(), matrix.toarray().conj().T, atol=1e-14)
            np.testing.assert_allclose(matrix.data, other.data, atol=1e-13)
            for table in ("indptr", "indices"):
                np.testing.assert_array_equal(getattr(matrix, table), getattr(other, table))
                np.testing.assert_array_equal(getattr(matrix, table), getattr(matrices[0], table))


def dense(system: DeephSystem, name: str, k: np.ndarray) -> np.ndarray:
    """H(k) of plain matrices; of spinors with each atom's ↑ and ↓ one after the other."""
    if not (system.info.spinful and name == "hamiltonian"):
        return bloch(system, name, k.tolist())
    assert system.hamiltonian is not None
    sizes = 2 * system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(sizes)])
    total = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*image, i, j) in enumerate(system.hamiltonian.pairs.tolist()):
        place = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
        total[place] += np.exp(2j * np.pi * np.dot(image, k)) * system.hamiltonian.block(index, sizes)
    return total


@pytest.mark.parametrize("spinful", [False, True])
def test_shards(world: World, shared_path: Path, spinful: bool) -> None:
    """A virtual dataset over a shard of every rank, atoms in the user's order kept."""
    system = random_system(6, spinful=spinful, noise=1e-7)
    world.on_root(lambda: write_system(shared_path / "in", system))
    converted(world, "to-shards", shared_path / "in", shared_path / "out")
    if not world.is_root:
        return
    assert len(list((shared_path / "out" / "shards").glob("hamiltonian.*.h5"))) == world.size
    with h5py.File(shared_path / "out" / "hamiltonian.h5") as file:
        assert file["entries"].is_virtual
    one, other = (in_users_order(read_system(shared_path / where)) for where in ("in", "out"))
    assert one.info == other.info
    np.testing.assert_array_equal(one.structure.positions, other.structure.positions)
    for name in ("overlap", "hamiltonian"):
        for key in ("pairs", "entries"):
            np.testing.assert_array_equal(getattr(getattr(one, name), key), getattr(getattr(other, name), key))


def test_damage_is_told_on_all_ranks(world: World, shared_path: Path) -> None:
    """The file is damaged in rows of one rank; the next structure is converted all the same."""

    def spoil() -> None:
        for name in ("a", "b"):
            write_system(shared_path / "in" / name, random_system(4))
        with h5py.File(shared_path / "in" / "a" / "hamiltonian.h5", "r+") as file:
            file["entries"][-3] = np.nan

    world.on_root(spoil)
    for form in ("to-petsc", "to-shards"):
        tasks = world.on_root(plan, form, [shared_path / "in"], shared_path / form, Options())
        outcomes = convert_all(world, tasks)
        assert [one.state for one in outcomes] == ["failed", "converted"]
        assert "not finite" in outcomes[0].detail
