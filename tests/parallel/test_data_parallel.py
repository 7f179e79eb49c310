"""Blocks read and written by all ranks agree to the bit with what one process reads and writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import read_system, write_system
from deeph_mpi.data.geometry import write_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.data.rowfile import write_rows
from deeph_mpi.errors import DataError
from deeph_mpi.parallel import World
from tests.systems import random_system


def owners(world: World, atoms: int, kind: str) -> np.ndarray:
    if kind == "last":  # all other ranks own nothing
        return np.full(atoms, world.size - 1, dtype=np.int32)
    return np.random.default_rng(3).integers(0, world.size, atoms).astype(np.int32)


def rows_of(blocks: BlockSet, atoms: np.ndarray) -> BlockSet:
    chosen = np.flatnonzero(np.isin(blocks.pairs[:, 3], atoms))
    lengths = np.diff(blocks.offsets)[chosen]
    parts = [blocks.entries[blocks.offsets[b] : blocks.offsets[b + 1]] for b in chosen]
    entries = np.concatenate([*parts, np.zeros(0, blocks.entries.dtype)])
    return BlockSet(blocks.pairs[chosen], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), entries)


def assert_same(left: BlockSet, right: BlockSet) -> None:
    np.testing.assert_array_equal(left.pairs, right.pairs)
    np.testing.assert_array_equal(left.offsets, right.offsets)
    assert left.entries.dtype == right.entries.dtype
    np.testing.assert_array_equal(left.entries, right.entries)  # exactly; only the sign of zero may differ


@pytest.mark.parametrize(
    ("kind", "spinful", "in_flight"),
    [("random", False, 2**26), ("last", True, 2**26), ("random", True, 8000), ("last", False, 8000)],
)
def test_read_rows_equals_serial(
    world: World, shared_path: Path, kind: str, spinful: bool, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeph_mpi.data.parallel._ENTRIES_IN_FLIGHT", in_flight)  # many small exchanges
    world.on_root(write_system, shared_path, random_system(seed=1, spinful=spinful, noise=1e-7))
    serial = read_system(shared_path)
    orbitals = serial.info.orbital_map.orbitals(serial.structure.numbers)
    owner = owners(world, len(orbitals), kind)
    mine = np.flatnonzero(owner == world.rank)
    hamiltonian = read_rows(world, shared_path / "hamiltonian.h5", owner, orbitals, spinful=spinful)
    overlap = read_rows(world, shared_path / "overlap.h5", owner, orbitals)
    assert serial.hamiltonian is not None
    assert_same(hamiltonian, rows_of(serial.hamiltonian, mine))
    assert_same(overlap, rows_of(serial.overlap, mine))


@pytest.mark.parametrize(("kind", "spinful"), [("random", True), ("last", False)])
def test_write_rows_round_trip(world: World, shared_path: Path, kind: str, spinful: bool) -> None:
    """Written by n ranks, moved, read by n ranks, by one process, and by plain h5py: the same bits."""
    system = random_system(seed=2, spinful=spinful)
    assert system.hamiltonian is not None
    numbers = system.structure.numbers
    orbitals = system.info.orbital_map.orbitals(numbers)
    owner = owners(world, len(numbers), kind)
    mine = np.flatnonzero(owner == world.rank)
    written = shared_path / "written"
    order = world.on_root(write_geometry, written, system.structure, system.info.orbital_map, system.info)
    write_rows(world, written, "overlap", rows_of(system.overlap, mine), orbitals)
    write_rows(world, written, "hamiltonian", rows_of(system.hamiltonian, mine), orbitals, spinful)
    moved = shared_path / "moved"
    world.on_root(shutil.move, written, moved)

    file_index = np.argsort(order)
    pairs = system.hamiltonian.pairs.copy()
    pairs[:, 3:] = file_index[pairs[:, 3:]]
    expected = sort_blocks(BlockSet(pairs, system.hamiltonian.offsets, system.hamiltonian.entries))
    serial = read_system(moved)
    assert serial.hamiltonian is not None
    assert_same(serial.hamiltonian, expected)
    np.testing.assert_array_equal(serial.structure.numbers, numbers[order])

    owner = owner[order]
    mine = np.flatnonzero(owner == world.rank)
    again = read_rows(world, moved / "hamiltonian.h5", owner, orbitals[order], spinful=spinful)
    assert_same(again, rows_of(expected, mine))
    with h5py.File(moved / "hamiltonian.h5") as file:
        assert file["entries"].shape == system.hamiltonian.entries.shape
        assert file["chunk_boundaries"][-1] == len(system.hamiltonian.entries)
        np.testing.assert_array_equal(np.sort(file["entries"][:]), np.sort(system.hamiltonian.entries))


def test_missing_shard_is_an_error_on_all_ranks(world: World, shared_path: Path) -> None:
    system = random_system(seed=3)
    assert system.hamiltonian is not None
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    owner = np.arange(len(orbitals), dtype=np.int32) % world.size
    world.on_root(write_geometry, shared_path, system.structure, system.info.orbital_map, system.info)
    write_rows(
        world, shared_path, "hamiltonian", rows_of(system.hamiltonian, np.flatnonzero(owner == world.rank)), orbitals
    )
    world.on_root((shared_path / "shards" / "hamiltonian.0000.h5").unlink)
    with pytest.raises(DataError, match=r"hamiltonian\.0000\.h5' is missing") as caught:
        read_rows(world, shared_path / "hamiltonian.h5", owner, orbitals)
    assert caught.value.everywhere


def _damage(path: Path, what: str) -> None:
    with h5py.File(path, "r+") as file:
        pairs = file["atom_pairs"][:]
        hopping = int(np.flatnonzero(pairs[:, 3] != pairs[:, 4])[-1])
        if what == "partner":
            keep = np.delete(np.arange(len(pairs)), hopping)
            bounds, entries = file["chunk_boundaries"][:], file["entries"][:]
            lengths = np.diff(bounds)
            entries = np.delete(entries, slice(bounds[hopping], bounds[hopping + 1]))
            tables = {
                "atom_pairs": pairs[keep],
                "chunk_shapes": file["chunk_shapes"][:][keep],
                "chunk_boundaries": np.concatenate([[0], np.cumsum(lengths[keep])]),
                "entries": entries,
            }
            for name, values in tables.items():
                del file[name]
                file[name] = values
        elif what == "duplicate":
            same = np.flatnonzero((file["chunk_shapes"][:] == file["chunk_shapes"][hopping]).all(axis=1))
            file["atom_pairs"][hopping] = pairs[same[0]]
        elif what == "hermitian":
            file["entries"][file["chunk_boundaries"][hopping]] += 1e-3
        elif what == "nan":
            file["entries"][file["chunk_boundaries"][hopping]] = np.nan
        elif what == "range":
            file["atom_pairs"][hopping, 4] = 99


DAMAGES = {
    "partner": "no Hermitian partner",
    "duplicate": "given twice",
    "hermitian": "not Hermitian",
    "nan": "not finite",
    "range": "outside 0",
}


def test_damage_is_one_error_on_all_ranks(world: World, shared_path: Path) -> None:
    system = random_system(seed=4)
    for what, message in DAMAGES.items():
        directory = shared_path / what

        def prepare(directory: Path = directory, what: str = what) -> np.ndarray:
            write_system(directory, system)
            _damage(directory / "hamiltonian.h5", what)
            return read_system(directory, hamiltonian=False).structure.numbers

        orbitals = system.info.orbital_map.orbitals(world.on_root(prepare))
        owner = np.arange(len(orbitals), dtype=np.int32) % world.size
        with pytest.raises(DataError, match=message) as caught:
            read_rows(world, directory / "hamiltonian.h5", owner, orbitals)
        assert caught.value.everywhere
        with pytest.raises(DataError, match=message):
            read_system(directory)
