"""The DeepH layout: what is written is read back to the bit, and what is wrong is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.linalg import eigh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem, in_users_order, read_system, write_system
from deeph_mpi.errors import DataError
from tests.mpi import DATA
from tests.systems import bloch, random_system

REAL = sorted(path.name for path in DATA.iterdir() if (path / "info.json").is_file())


def assert_same(left: BlockSet | None, right: BlockSet | None) -> None:
    assert left is not None
    assert right is not None
    np.testing.assert_array_equal(left.pairs, right.pairs)
    np.testing.assert_array_equal(left.entries, right.entries)
    assert left.entries.dtype == right.entries.dtype


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_restores_the_users_order(tmp_path: Path, spinful: bool, compress: bool, dtype: type) -> None:
    system = random_system(1, spinful=spinful, dtype=dtype)
    write_system(tmp_path / "a", system, compress=compress)
    read = read_system(tmp_path / "a")
    symbols = (tmp_path / "a" / "POSCAR").read_text().splitlines()[5].split()
    assert len(symbols) == len(set(symbols))  # grouped by element
    assert not np.array_equal(read.structure.numbers, system.structure.numbers)
    restored = in_users_order(read)
    np.testing.assert_array_equal(restored.structure.numbers, system.structure.numbers)
    np.testing.assert_allclose(restored.structure.positions, system.structure.positions, atol=1e-14)
    assert_same(restored.overlap, system.overlap)
    assert_same(restored.hamiltonian, system.hamiltonian)
    write_system(tmp_path / "b", read)
    again = read_system(tmp_path / "b")
    assert_same(again.hamiltonian, read.hamiltonian)
    np.testing.assert_array_equal(again.structure.positions, read.structure.positions)


def test_float32_on_request(tmp_path: Path) -> None:
    system = random_system(2)
    write_system(tmp_path, system, np.float32)
    read = in_users_order(read_system(tmp_path))
    assert read.hamiltonian is not None
    assert system.hamiltonian is not None
    np.testing.assert_array_equal(read.hamiltonian.entries, system.hamiltonian.entries.astype(np.float32))


def test_nearly_hermitian_becomes_exactly_so(tmp_path: Path) -> None:
    system = random_system(3, noise=1e-7)
    write_system(tmp_path, system)
    read = in_users_order(read_system(tmp_path))
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    assert read.hamiltonian is not None
    where = {tuple(pair): index for index, pair in enumerate(read.hamiltonian.pairs.tolist())}
    for (a, b, c, i, j), index in where.items():
        partner = read.hamiltonian.block(where[(-a, -b, -c, j, i)], orbitals)
        np.testing.assert_array_equal(read.hamiltonian.block(index, orbitals), partner.T)
    assert system.hamiltonian is not None
    assert 0 < np.abs(read.hamiltonian.entries - system.hamiltonian.entries).max() < 1e-6


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_near_the_complete_matrices(name: str) -> None:
    """Occupied states from the pairs to 8 Å against CP2K's untruncated matrices; S is positive definite at random k."""
    system = read_system(DATA / name)
    reference = json.loads((DATA / name / "reference.json").read_text())
    assert system.info.occupation is not None
    occupied = int(system.info.occupation) // 2
    for k, levels in zip(reference["kpoints"], reference["eigenvalues_eV"], strict=True):
        found = eigh(bloch(system, "hamiltonian", k), bloch(system, "overlap", k), eigvals_only=True)
        np.testing.assert_allclose(found[:occupied], levels[:occupied], atol=5e-4)
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert np.linalg.eigvalsh(bloch(system, "overlap", [*rng.random(2), 0.0]))[0] > 5e-4


def test_ab_graphene_is_degenerate_at_k() -> None:
    """Two states touch at E_F at K = (1/3, 2/3) of Bernal bilayer graphene, by symmetry."""
    system = read_system(DATA / "ab_bilayer")
    levels = eigh(*(bloch(system, which, [1 / 3, 2 / 3, 0]) for which in ("hamiltonian", "overlap")), eigvals_only=True)
    assert system.info.fermi_energy_eV is not None
    np.testing.assert_allclose(levels[7:9], system.info.fermi_energy_eV, atol=1e-3)
    assert levels[8] - levels[7] < 1e-4
    assert 4.3 < system.info.vacuum_level_eV - system.info.fermi_energy_eV < 4.7  # work function of graphene


def _edit_info(path: Path, **changes: object) -> None:
    content = json.loads((path / "info.json").read_text())
    (path / "info.json").write_text(json.dumps({**content, **changes}))


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _change(path: Path, dataset: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[dataset][:])
        del file[dataset]
        file[dataset] = values


def _set(index: tuple[int, ...] | int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return change


def _without_onsite(path: Path) -> None:
    """Make atom 0's onsite block a hopping block nobody else has."""

    def change(pairs: np.ndarray) -> np.ndarray:
        pairs[(pairs == 0).all(axis=1), 0] = 9
        return pairs

    _change(path, "atom_pairs", change)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "does not exist"),
    "no POSCAR": (lambda p: (p / "POSCAR").unlink(), "has no POSCAR"),
    "no info": (lambda p: (p / "info.json").unlink(), "has no info.json"),
    "no overlap": (lambda p: (p / "overlap.h5").unlink(), "overlap.h5' does not exist"),
    "info not json": (lambda p: (p / "info.json").write_text("{"), "cannot read"),
    "unknown element": (lambda p: _edit_info(p, elements_orbital_map={"Xx": [0]}), "unknown element 'Xx'"),
    "species missing": (lambda p: _edit_info(p, elements_orbital_map={"B": [0, 1], "N": [0, 1, 2]}), "known for C"),
    "atoms": (lambda p: _edit_info(p, atoms_quantity=8), "atoms_quantity is 8"),
    "orbitals": (lambda p: _edit_info(p, orbits_quantity=8), "orbits_quantity is 8"),
    "fermi": (lambda p: _edit_info(p, fermi_energy_eV="high"), "fermi_energy_eV must be a finite number"),
    "spinful": (lambda p: _edit_info(p, spinful=True), "entries are float64, but should be complex128"),
    "wrong map": (lambda p: _edit_info(p, elements_orbital_map={"B": [0, 1], "C": [0, 0, 1, 1, 2], "N": [2, 1, 2]},
                                       orbits_quantity=73), "has shape"),
    "truncated": (lambda p: _truncate(p / "hamiltonian.h5"), "truncated"),
    "not hdf5": (lambda p: (p / "hamiltonian.h5").write_text("no"), "not an HDF5 file"),
    "no dataset": (lambda p: _change(p / "overlap.h5", "entries", lambda v: v) or _rename(p), "lacks entries"),
    "dtype": (lambda p: _change(p / "overlap.h5", "entries", lambda v: v.astype(np.int32)), "entries is int32"),
    "half": (lambda p: _change(p / "overlap.h5", "entries", lambda v: v.astype(np.float16)), "entries is float16"),
    "columns": (lambda p: _change(p / "overlap.h5", "atom_pairs", lambda v: v[:, :4]), "atom_pairs has shape"),
    "float pairs": (lambda p: _change(p / "overlap.h5", "atom_pairs", lambda v: v * 1.0), "should be an integer type"),
    "range": (lambda p: _change(p / "hamiltonian.h5", "atom_pairs", _set((3, 4), 7)), "atom outside 0…6"),
    "negative": (lambda p: _change(p / "hamiltonian.h5", "atom_pairs", _set((3, 3), -1)), "atom outside 0…6"),
    "shapes": (lambda p: _change(p / "hamiltonian.h5", "chunk_shapes", _set((5, 0), 2)), "block 5 .* has shape"),
    "boundaries": (lambda p: _change(p / "hamiltonian.h5", "chunk_boundaries", _set(4, 1)), "chunk_boundaries of block"),
    "start": (lambda p: _change(p / "hamiltonian.h5", "chunk_boundaries", lambda v: v + 3), "chunk_boundaries start at 3"),
    "short": (lambda p: _change(p / "hamiltonian.h5", "entries", lambda v: v[:-5]), "chunk_boundaries end at"),
    "long": (lambda p: _change(p / "hamiltonian.h5", "entries", lambda v: np.append(v, 0.0)), "chunk_boundaries end at"),
    "nan": (lambda p: _change(p / "hamiltonian.h5", "entries", _set(100, np.nan)), "not finite"),
    "onsite": (lambda p: _without_onsite(p / "hamiltonian.h5"), "atom 0 has no onsite block"),
}  # fmt: skip


def _rename(path: Path) -> None:
    with h5py.File(path / "overlap.h5", "r+") as file:
        file.move("entries", "values")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    write_system(tmp_path / "x", random_system(4))
    read_system(tmp_path / "x")
    act, message = DAMAGES[damage]
    act(tmp_path / "x")
    with pytest.raises(DataError, match=message) as caught:
        read_system(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


def test_different_pairs_of_h_and_s_are_refused(tmp_path: Path) -> None:
    system = random_system(5)
    keep = np.flatnonzero(np.abs(system.overlap.pairs[:, :3]).max(axis=1) < 2)
    sizes = np.diff(system.overlap.offsets)
    entries = [system.overlap.entries[system.overlap.offsets[b] : system.overlap.offsets[b + 1]] for b in keep]
    shorter = BlockSet(system.overlap.pairs[keep], np.append(0, np.cumsum(sizes[keep])), np.concatenate(entries))
    write_system(tmp_path, replace(system, overlap=shorter))
    with pytest.raises(DataError, match=r"overlap\.h5 lacks \(R = "):
        read_system(tmp_path)
    assert len(read_system(tmp_path, hamiltonian=False).overlap) == len(keep)


def test_only_the_overlap_is_read_on_request(tmp_path: Path) -> None:
    system = random_system(6)
    write_system(tmp_path, DeephSystem(system.structure, system.info, system.overlap))
    assert not (tmp_path / "hamiltonian.h5").exists()
    assert read_system(tmp_path, hamiltonian=False).hamiltonian is None
    with pytest.raises(DataError, match="does not exist"):
        read_system(tmp_path)
