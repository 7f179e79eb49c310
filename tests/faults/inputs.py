"""The folder that every case of the fault campaign starts from: good inputs of each command."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from deeph_mpi.data.deeph import read_system, write_system
from deeph_mpi.data.legacy import write_legacy
from deeph_mpi.data.packed import pack
from deeph_mpi.data.supercell import write_mtx, write_npz
from deeph_mpi.model.checkpoint import save_checkpoint
from deeph_mpi.parallel.world import World
from deeph_mpi.results.store import write_results
from tests.faults.hand_written import write_abacus
from tests.faults.specimens import small_hbn
from tests.models import random_model
from tests.mpi import DATA
from tests.systems import random_system
from tests.test_data_cp2k import write_run
from tests.test_results import run_record, two_bands

__all__ = ["POSCAR", "Planted", "make_inputs", "poscar"]

POSCAR = """two atoms
{scale}
{cell}
{elements}
{counts}
Cartesian
{atoms}
"""

INFER = """
[structure]
file = "two.vasp"
[model]
checkpoint = "model.pt"
[solve]
states = 4
"""

SOLVE = """
[hamiltonian]
directory = "matrices"
[solve]
states = 4
"""

TRAIN = """
[data]
directory = "data"
train = ["000", "001"]
validation = ["002"]
[network]
layers = 1
channels = 4
pseudo_channels = 2
hidden = 4
decoder_hidden = 4
r_message = 1.6
[train]
epochs = 1
band_weight = 0.0
"""


class Planted:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def poscar(
    atoms: str = "0 0 0\n0 0 1.5",
    *,
    scale: str = "1.0",
    cell: str = "8 0 0\n0 8 0\n0 0 8",
    elements: str = "C",
    counts: str = "2",
) -> str:
    """A structure of two carbon atoms in a box, or another."""
    return POSCAR.format(atoms=atoms, scale=scale, cell=cell, elements=elements, counts=counts)


def make_inputs(folder: Path) -> None:
    """Fill a new folder."""
    folder.mkdir()
    (folder / "two.vasp").write_text(poscar())
    (folder / "infer.toml").write_text(INFER)
    (folder / "solve.toml").write_text(SOLVE)
    (folder / "train.toml").write_text(TRAIN)
    (folder / "K_PATH").write_text("3 0 0 0 0.5 0 0 G M\n")
    save_checkpoint(folder / "model.pt", random_model())
    (folder / "code.pt").write_bytes(pickle.dumps(Planted(folder / "planted")))
    shutil.copytree(DATA / "hbn_primitive", folder / "matrices")
    write_system(folder / "mixed", random_system(1))
    for name in ("000", "001", "002"):
        shutil.copytree(DATA / "hbn_primitive", folder / "data" / name)
    (folder / "split.json").write_text(json.dumps({"train": ["000"], "validation": ["001"], "test": ["002"]}))
    pack([folder / "data" / "000"], folder / "packed.h5")
    write_results(World.alone(), folder / "results.h5", run_record(), two_bands())
    write_run(folder / "cp2k", read_system(DATA / "hbn_primitive"))
    write_abacus(folder / "abacus", small_hbn())
    write_legacy(folder / "legacy", small_hbn())
    write_npz(folder / "npz", small_hbn())
    write_mtx(folder / "mtx", small_hbn())
    (folder / "empty").mkdir()
