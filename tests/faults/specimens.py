"""Small valid files of every kind that deeph-mpi reads, to be damaged, and what reads each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.config import InferConfig, TrainConfig
from deeph_mpi.configfile import load
from deeph_mpi.data.abacus import read_abacus
from deeph_mpi.data.aims import read_aims
from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.cp2k_files import vacuum_level
from deeph_mpi.data.deeph import DeephSystem, read_system, write_system
from deeph_mpi.data.legacy import read_legacy, write_legacy
from deeph_mpi.data.openmx import read_openmx
from deeph_mpi.data.packed import pack, read_packed, unpack
from deeph_mpi.data.ragged import take_blocks
from deeph_mpi.data.siesta import read_siesta
from deeph_mpi.data.supercell import read_mtx, read_npz, write_mtx, write_npz
from deeph_mpi.model.checkpoint import load_checkpoint, save_checkpoint
from deeph_mpi.parallel.world import World
from deeph_mpi.results.density import DensityRecord, has_states, read_density, write_density
from deeph_mpi.results.kpath import read_kpath
from deeph_mpi.results.projections import Projections
from deeph_mpi.results.store import read_results, write_results
from deeph_mpi.structure.ase_io import write
from deeph_mpi.structure.read import read_structure
from tests.faults.hand_written import write_abacus, write_cube, write_siesta
from tests.models import random_model
from tests.mpi import DATA
from tests.test_data_aims import write_run as write_aims
from tests.test_data_cp2k import write_run
from tests.test_results import CELL, run_record, two_bands

__all__ = ["SPECIMENS", "Specimen", "small_hbn"]

CONFIGURATION = """
[structure]
file = "POSCAR"
partition = "rcb"
[model]
checkpoint = "info.json"
dtype = "float64"
memory_gb = 0.5
[solve]
kpoints = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.25]]
target = "fermi"
window = [-0.5, 0.5]
pools = "auto"
[dos]
window = [-1.0, 1.0]
atoms = [0, 1]
[output]
directory = "out"
"""

TRAINING = """
[data]
directory = "."
split = "split.json"
electrons = { B = 3.0, N = 5.0 }
[train]
epochs = 3
batch = "auto"
"""


@dataclass(frozen=True)
class Specimen:
    """A valid file and its reader.

    Attributes:
        make: writes it, and what it needs beside it, into a folder.
        file: that is damaged, below that folder.
        read: reads it; takes the folder.
        kind: of damage: "bytes", "integers" (and bytes), "text", "hdf5" (its datasets), or "json".
        needs: a module without which it can be neither made nor read.
        few: times that it is damaged in the tests of every day.
    """

    make: Callable[[Path], object]
    file: str
    read: Callable[[Path], object]
    kind: str
    needs: str | None = None
    few: int = 40


def small_hbn() -> DeephSystem:
    """hBN, two atoms, with pairs to 1.6 Å: 8 blocks of 13 × 13."""
    system = read_system(DATA / "hbn_primitive")
    structure, pairs = system.structure, system.overlap.pairs
    bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
    near = np.flatnonzero(np.linalg.norm(bonds, axis=1) < 1.6)
    assert system.hamiltonian is not None
    return replace(system, overlap=take_blocks(system.overlap, near), hamiltonian=take_blocks(system.hamiltonian, near))


def _deeph(folder: Path, *, compress: bool = False) -> None:
    write_system(folder, small_hbn(), np.float32, compress=compress)


def _into(writer: Callable[[Path, DeephSystem], object], folder: Path) -> None:
    writer(folder / "run", small_hbn())


def _packed(folder: Path) -> None:
    write_system(folder / "000", small_hbn(), np.float32)
    pack([folder / "000"], folder / "packed.h5")


def _configuration(folder: Path) -> None:
    _deeph(folder)
    (folder / "job.toml").write_text(CONFIGURATION)


def _training(folder: Path) -> None:
    for name in ("000", "001", "002"):
        write_system(folder / name, small_hbn(), np.float32)
    (folder / "split.json").write_text(json.dumps({"train": ["000"], "validation": ["001"], "test": ["002"]}))
    (folder / "train.toml").write_text(TRAINING)


def _structure(name: str, folder: Path, **options: object) -> None:
    atoms = Atoms("BNC2", np.eye(4, 3) * 1.5, cell=[[5, 0, 0], [0, 6, 0], [1, 0, 7]], pbc=True)
    write(folder / name, atoms, parallel=False, **options)


def _openmx(folder: Path, name: str) -> None:
    (folder / "a.scfout").write_bytes(gzip.decompress((DATA / "openmx" / f"{name}.scfout.gz").read_bytes()))


def _results(folder: Path) -> None:
    path, system, record = folder / "results.h5", small_hbn(), two_bands()
    along = replace(record, distances=np.array([0.0, 0.5, 1.0]), ticks=[0.0, 1.0], labels=["Γ", "M"])
    write_results(World.alone(), path, run_record(), along)
    shells = ShellTable.build(system.structure.numbers, system.info.orbital_map)
    energies = np.linspace(-1, 1, 5)
    density = DensityRecord(
        "stochastic", energies, energies**2, energies**2, 0.05, 4, 0.1, np.array([1]), energies[None] ** 2,
        energies[None] ** 2, "mulliken", "a note",
    )  # fmt: skip
    write_density(path, density, {}, keep=True)
    import h5py

    with h5py.File(path, "r+") as file:
        for group, arrays in (("structure", system.structure), ("projections", shells)):
            for name, values in vars(arrays).items():
                if isinstance(values, np.ndarray):
                    file[f"{group}/{name}"] = values
        file["projections/weights"] = np.full((3, 3, len(shells)), 0.1, dtype=np.float32)


def _of_aims(name: str, *, collinear: bool = False) -> Specimen:
    def make(folder: Path) -> None:
        write_aims(folder / "run", small_hbn(), collinear)

    return Specimen(make, f"run/{name}", lambda folder: read_aims(folder / "run"), "text")


def _of_siesta(ending: str, name: str, kind: str) -> Specimen:
    def make(folder: Path) -> None:
        write_siesta(folder / "run", small_hbn(), ending)

    return Specimen(make, f"run/{name}", lambda folder: read_siesta(folder / "run"), kind, "sisl", 15)


def _read_results(folder: Path) -> None:
    path = folder / "results.h5"
    density = read_density(path)
    if has_states(path):
        read_results(path)
    populations = Projections.open(path)
    populations.participation()
    populations.on_atoms(0)
    if density is not None:
        density[0].describe()


def _read_packed(folder: Path) -> None:
    read_packed(folder / "packed.h5", "000")
    unpack(folder / "packed.h5", folder / "unpacked")


SPECIMENS = {
    "overlap.h5": Specimen(_deeph, "overlap.h5", read_system, "bytes"),
    "overlap.h5, compressed": Specimen(partial(_deeph, compress=True), "overlap.h5", read_system, "bytes"),
    "hamiltonian.h5, its datasets": Specimen(_deeph, "hamiltonian.h5", read_system, "hdf5"),
    "info.json": Specimen(_deeph, "info.json", read_system, "text"),
    "info.json, its values": Specimen(_deeph, "info.json", read_system, "json"),
    "POSCAR": Specimen(_deeph, "POSCAR", read_system, "text"),
    "packed dataset": Specimen(_packed, "packed.h5", _read_packed, "bytes"),
    "packed dataset, its datasets": Specimen(_packed, "packed.h5", _read_packed, "hdf5"),
    "extended XYZ": Specimen(
        partial(_structure, "a.xyz", format="extxyz"), "a.xyz", lambda folder: read_structure(folder / "a.xyz"), "text"
    ),
    "CIF": Specimen(partial(_structure, "a.cif"), "a.cif", lambda folder: read_structure(folder / "a.cif"), "text"),
    "configuration": Specimen(
        _configuration, "job.toml", lambda folder: load(folder / "job.toml", InferConfig), "text"
    ),
    "configuration of training": Specimen(
        _training, "train.toml", lambda folder: load(folder / "train.toml", TrainConfig), "text"
    ),
    "split.json": Specimen(
        _training, "split.json", lambda folder: load(folder / "train.toml", TrainConfig), "json"
    ),
    "k-path": Specimen(
        lambda folder: (folder / "K_PATH").write_text("# path\n5 0 0 0 0.5 0 0 G M\n3 0.5 0 0 0.25 0.5 0 M K\n"),
        "K_PATH", lambda folder: read_kpath(folder / "K_PATH", CELL), "text",
    ),
    "checkpoint": Specimen(
        lambda folder: save_checkpoint(folder / "model.pt", random_model()),
        "model.pt", lambda folder: load_checkpoint(folder / "model.pt"), "bytes",
    ),
    "results.h5": Specimen(_results, "results.h5", _read_results, "bytes"),
    "results.h5, its datasets": Specimen(_results, "results.h5", _read_results, "hdf5"),
    "CP2K's input": Specimen(partial(_into, write_run), "run/in.inp", lambda folder: read_cp2k(folder / "run"), "text"),
    "CP2K's output": Specimen(partial(_into, write_run), "run/run.out", lambda folder: read_cp2k(folder / "run"), "text"),
    "CP2K's CSR": Specimen(
        partial(_into, write_run), "run/run-KS_SPIN_1_R_3-1_0.csr", lambda folder: read_cp2k(folder / "run"), "text"
    ),
    "CP2K's basis sets": Specimen(
        partial(_into, write_run), "run/MY_BASIS", lambda folder: read_cp2k(folder / "run"), "text"
    ),
    "CP2K's cube": Specimen(
        lambda folder: write_cube(folder / "v.cube"), "v.cube",
        lambda folder: vacuum_level(folder / "v.cube", np.array([[0.5, 0.5, 0.0]])), "text",
    ),
    "ABACUS's CSR": Specimen(
        partial(_into, write_abacus), "run/data-SR-sparse_SPIN0.csr", lambda folder: read_abacus(folder / "run"), "text"
    ),
    "ABACUS's log": Specimen(
        partial(_into, write_abacus), "run/running_scf.log", lambda folder: read_abacus(folder / "run"), "text"
    ),
    "legacy overlaps.h5": Specimen(
        partial(_into, write_legacy), "run/overlaps.h5", lambda folder: read_legacy(folder / "run"), "hdf5"
    ),
    "legacy orbital_types.dat": Specimen(
        partial(_into, write_legacy), "run/orbital_types.dat", lambda folder: read_legacy(folder / "run"), "text"
    ),
    "OpenMX's scfout": Specimen(
        partial(_openmx, name="cn"), "a.scfout", lambda folder: read_openmx(folder), "integers", few=15
    ),
    "OpenMX's scfout of spinors": Specimen(
        partial(_openmx, name="cnsoc"), "a.scfout", lambda folder: read_openmx(folder), "integers", few=15
    ),
    "FHI-aims' geometry": _of_aims("geometry.in"),
    "FHI-aims' orbitals": _of_aims("basis-indices.out"),
    "FHI-aims' places": _of_aims("rs_indices.out"),
    "FHI-aims' elements": _of_aims("rs_hamiltonian_up.out", collinear=True),
    "SIESTA's HSX": _of_siesta("HSX", "run.HSX", "integers"),
    "SIESTA's TSHS": _of_siesta("TSHS", "run.TSHS", "integers"),
    "SIESTA's orbitals": _of_siesta("TSHS", "run.ORB_INDX", "text"),
    "SciPy's overlap.npz": Specimen(
        partial(_into, write_npz), "run/overlap.npz", lambda folder: read_npz(folder / "run"), "bytes"
    ),
    "Matrix Market": Specimen(
        partial(_into, write_mtx), "run/overlap.mtx", lambda folder: read_mtx(folder / "run"), "text"
    ),
}  # fmt: skip
