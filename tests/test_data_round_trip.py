"""Every format that is read and written: there and back again, nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.data.batch import Options, convert_all, plan
from deeph_mpi.data.deeph import read_system, write_system
from deeph_mpi.data.info import read_info
from deeph_mpi.data.legacy import write_legacy
from deeph_mpi.parallel.world import World
from tests.systems import random_system

MATRICES = ("overlap", "hamiltonian")


def convert(form: str, source: Path, target: Path) -> Path:
    outcome = convert_all(World.alone(), plan(form, [source], target, Options()))[0]
    assert outcome.state == "converted", outcome.detail
    return target


def assert_same_tables(one: Path, other: Path, roundings: float = 0.0) -> None:
    with h5py.File(one) as first, h5py.File(other) as second:
        assert list(first) == list(second)
        for name in first:
            assert first[name].dtype == second[name].dtype
            np.testing.assert_allclose(first[name][()], second[name][()], rtol=0, atol=roundings)


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("npz", np.float64),
        ("npz", np.float32),
        ("mtx", np.float64),
        ("legacy", np.float64),
        ("legacy", np.float32),
        ("sisl", np.float64),
        ("shards", np.float64),
        ("shards", np.float32),
    ],
)
def test_there_and_back(tmp_path: Path, form: str, dtype: type, spinful: bool) -> None:
    """Atoms are not grouped by element; what a format cannot hold of info.json is not compared."""
    if form == "sisl":
        pytest.importorskip("sisl")
        pytest.importorskip("netCDF4")
    write_system(tmp_path / "a", random_system(11, spinful=spinful), dtype)
    there = convert(f"to-{form}", tmp_path / "a", tmp_path / "there")
    back = there if form == "shards" else convert(form, there, tmp_path / "back")
    assert (tmp_path / "a" / "POSCAR").read_text() == (back / "POSCAR").read_text()
    one, other = read_info(tmp_path / "a"), read_info(back)
    if form == "legacy":
        one = replace(one, occupation=None, vacuum_level_eV=None)
    np.testing.assert_array_equal(one.atom_order, other.atom_order)
    assert replace(one, atom_order=None) == replace(other, atom_order=None)
    for name in MATRICES:  # sisl keeps H in Ry
        roundings = 1e-14 if form == "sisl" and name == "hamiltonian" else 0.0
        assert_same_tables(tmp_path / "a" / f"{name}.h5", back / f"{name}.h5", roundings)


@pytest.mark.parametrize("spinful", [False, True])
def test_legacy_files_come_back(tmp_path: Path, spinful: bool) -> None:
    """From a legacy directory: the same texts, the same blocks; lengths to the last decimal of a POSCAR."""
    write_legacy(tmp_path / "a", random_system(12, spinful=spinful))
    back = convert("to-legacy", convert("legacy", tmp_path / "a", tmp_path / "there"), tmp_path / "back")
    for path in (tmp_path / "a").iterdir():
        if path.suffix == ".h5":
            assert_same_tables(path, back / path.name)
        elif path.name in ("lat.dat", "rlat.dat", "site_positions.dat"):  # a POSCAR has 16 decimals
            np.testing.assert_allclose(np.loadtxt(path), np.loadtxt(back / path.name), rtol=0, atol=1e-14)
        else:
            assert path.read_text() == (back / path.name).read_text()


@pytest.mark.parametrize("form", ["npz", "mtx"])
def test_folders_of_scipy_come_back(tmp_path: Path, form: str) -> None:
    write_system(tmp_path / "a", random_system(13))
    there = convert(f"to-{form}", tmp_path / "a", tmp_path / "there")
    again = convert(f"to-{form}", convert(form, there, tmp_path / "back"), tmp_path / "again")
    for path in there.iterdir():
        if path.name != "source.json":
            assert path.suffix == ".npz" or path.read_bytes() == (again / path.name).read_bytes()
    one, other = (read_system(tmp_path / name) for name in ("a", "back"))
    for name in MATRICES:
        np.testing.assert_array_equal(getattr(one, name).entries, getattr(other, name).entries)
