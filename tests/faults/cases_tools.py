"""Bad data sets for training, bad files of other codes, and mistakes with the small commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np

from tests.faults.case import Case, all_of, changed, cut, keyed, plain, removed, replaced, written
from tests.faults.cases_matrices import entry
from tests.faults.inputs import Planted

__all__ = ["CONVERSION", "TOOLS", "TRAINING"]

TRAIN = "train train.toml"
CONVERTED = ("POSCAR", "hamiltonian.h5", "info.json", "overlap.h5", "source.json")
TRAINED = ("run/log.csv", "run/errors.csv", "run/split.json")  # whole, and say themselves how far it came


def _restart_with_code(folder: Path) -> None:
    (folder / "run").mkdir()
    shutil.copy(folder / "code.pt", folder / "run/restart.pt")


def _evil_names(folder: Path) -> None:
    """A packed dataset with a structure called "..", which would be unpacked beside the folder."""
    with h5py.File(folder / "packed.h5", "r+") as file:
        file.move("000", "x")
        file.id.links.move(b"x", file.id, b"..")


def _objects(folder: Path) -> None:
    """An array of pickled objects among SciPy's files."""
    np.save(folder / "npz/images.npy", np.array([Planted(folder / "planted")], dtype=object), allow_pickle=True)


TRAINING = [
    Case("no dataset", f"{TRAIN} --set data.directory=dato", ("no such directory", "did you mean 'data'?"), code=2),
    Case(
        "a structure of the split missing",
        f"{TRAIN} --set 'data.test=[\"003\"]'",
        ("no such structure in", "003"),
        code=2,
    ),
    Case(
        "a structure to train on and to validate with",
        f"{TRAIN} --set 'data.test=[\"001\"]'",
        ("structure '001' is in both train and test",),
        code=2,
    ),
    Case(
        "an empty range of structures", f"{TRAIN} --set data.train=005-002", ("the range '005-002' is empty",), code=2
    ),
    Case(
        "validation without training structures",
        TRAIN,
        ("validation and test go with train",),
        replaced("train.toml", 'train = ["000", "001"]', ""),
        code=2,
    ),
    Case(
        "a split that is not JSON",
        TRAIN,
        ("split.json is not a JSON file",),
        all_of(written("train.toml", '[data]\ndirectory = "data"\nsplit = "split.json"\n'), cut("split.json")),
        code=2,
    ),
    Case(
        "too few structures to divide",
        TRAIN,
        ("too few to divide",),
        written("train.toml", '[data]\ndirectory = "empty"\n'),
        code=2,
    ),
    Case(
        "a batch of no structures", f"{TRAIN} --set train.batch=0", ("train.batch must be a positive number",), code=2
    ),
    Case(
        "truncated matrices among the training data",
        TRAIN,
        ("001/hamiltonian.h5",),
        cut("data/001/hamiltonian.h5"),
        alone=True,
    ),
    Case(
        "NaN among the training data",
        TRAIN,
        ("000/hamiltonian.h5'", "not finite"),
        entry("data/000/hamiltonian.h5", np.nan),
    ),
    Case(
        "structures with unlike orbitals",
        TRAIN,
        ("data/001", "the orbital map contradicts that of the other structures"),
        keyed("data/001/info.json", elements_orbital_map={"B": [0, 1, 1, 0, 2], "N": [0, 0, 1, 1, 2]}),
    ),
    Case("electrons of an element not given", f"{TRAIN} --set data.electrons={{B=3.0}}", ("data.electrons must give",)),
    Case(
        "a checkpoint of another network to start from",
        f"{TRAIN} --set train.init_from=model.pt",
        ("network.", "leave the key out"),
        code=2,
    ),
    Case(
        "a learning rate of 10³⁰⁰",
        f"{TRAIN} --set train.learning_rate=1e300",
        ("train.learning_rate must be less than or equal to 100",),
        code=2,
    ),
    Case(
        "a restart file with code in it",
        TRAIN,
        ("restart.pt is damaged or not",),
        _restart_with_code,
        alone=True,
        leaves=TRAINED,
    ),
    Case(
        "a checkpoint for a restart file",
        TRAIN,
        ("restart.pt is not a 'deeph-mpi restart",),
        lambda folder: (
            shutil.copytree(folder / "empty", folder / "run")
            and shutil.copy(folder / "model.pt", folder / "run/restart.pt")
        ),
        leaves=TRAINED,
    ),
]

CONVERSION = [
    Case("an unknown format", "convert cp2q cp2k out", ("unknown format 'cp2q'", "did you mean 'cp2k'?"), code=2),
    Case("no destination", "convert cp2k", ("give FORMAT SOURCE… DEST",), code=2),
    Case("a source that does not exist", "convert cp2k cp3k out", ("directory 'cp3k' does not exist",)),
    Case(
        "a destination that is the source",
        "convert npz npz npz",
        ("would be overwritten by its own conversion",),
        code=2,
    ),
    Case("a negative cutoff", "convert cp2k cp2k out --cutoff -1", ("--cutoff must be positive",), code=2),
    Case(
        "CP2K: not converged",
        "convert cp2k cp2k out",
        ("run.out': the SCF run did not converge",),
        replaced("cp2k/run.out", " Number of electrons", " SCF run NOT converged\n Number of electrons"),
    ),
    Case(
        "CP2K: an image without its file",
        "convert cp2k cp2k out",
        ("the KS file of image 3 is missing",),
        removed("cp2k/run-KS_SPIN_1_R_3-1_0.csr"),
    ),
    Case(
        "CP2K: a CSR file cut off in a line",
        "convert cp2k cp2k out",
        ("run-S_SPIN_1_R_3-1_0.csr",),
        cut("cp2k/run-S_SPIN_1_R_3-1_0.csr", 1.0, 26),
    ),
    Case(
        "CP2K: an orbital that does not exist",
        "convert cp2k cp2k out",
        ("run-S_SPIN_1_R_3-1_0.csr'", "indices in 1…26"),
        written("cp2k/run-S_SPIN_1_R_3-1_0.csr", "1 27 0.5\n"),
    ),
    Case(
        "CP2K: a basis set of other lines",
        "convert cp2k cp2k out",
        ("MY_BASIS", "basis set DZVP-TEST of B"),
        replaced("cp2k/MY_BASIS", "2 0 2 2 2 2 1", "2 0 two"),
    ),
    Case(
        "ABACUS: fewer elements than announced",
        "convert abacus abacus out",
        ("data-SR-sparse_SPIN0.csr", "truncated"),
        cut("abacus/data-SR-sparse_SPIN0.csr", 0.9),
    ),
    Case(
        "ABACUS: a count that is wrong",
        "convert abacus abacus out",
        ("data-HR-sparse_SPIN0.csr",),
        replaced("abacus/data-HR-sparse_SPIN0.csr", "0 0 0 ", "0 0 0 1"),
    ),
    Case(
        "ABACUS: no orbitals in the log",
        "convert abacus abacus out",
        ("running_scf.log' does not list the orbitals",),
        lambda folder: (folder / "abacus/running_scf.log").write_text(
            (folder / "abacus/running_scf.log").read_text().replace("number of zeta", "")
        ),
    ),
    Case(
        "legacy: a block of another shape",
        "convert legacy legacy out",
        ("overlaps.h5': block", "has shape"),
        changed("legacy/overlaps.h5", lambda t: t.update({"[0, 0, 0, 1, 1]": plain((2, 2))})),
    ),
    Case("OpenMX: a file of zeros", "convert openmx x.scfout out", ("x.scfout",), written("x.scfout", bytes(4000))),
    Case("FHI-aims: an empty folder", "convert aims empty out", ("geometry.in' does not exist",)),
    Case("pickled objects among SciPy's files", "convert npz npz out", ("npz", "allow_pickle=False"), _objects),
    Case(
        "Matrix Market cut off",
        "convert mtx mtx out",
        ("mtx", "damaged or incomplete", "955 lines"),
        cut("mtx/overlap.mtx"),
    ),
    Case(
        "two of three conversions fail",
        "convert npz data npz mtx out",
        ("(1 more failed, see out/conversion.tsv)",),
        leaves=("out/conversion.tsv", *(f"out/npz/{name}" for name in CONVERTED)),
    ),
]

TOOLS = [
    Case(
        "a dataset without structures", "dataset check empty", ("empty' holds no folders in the DeepH layout",), ranks=1
    ),
    Case(
        "a dataset that disagrees on orbitals",
        "dataset check data",
        ("data' is not fit for training: 1 errors",),
        keyed("data/001/info.json", elements_orbital_map={"B": [0, 1, 1, 0, 2], "N": [0, 0, 1, 1, 2]}),
        ranks=1,
    ),
    Case(
        "shares that do not add up",
        "dataset split data s.json --fractions 0.9 0.9 0.1",
        ("fractions must be shares of 1",),
        ranks=1,
        code=2,
    ),
    Case(
        "unpacking what was not packed", "dataset unpack results.h5 out", ("results.h5' is not a dataset of",), ranks=1
    ),
    Case(
        "a packed structure called '..'",
        "dataset unpack packed.h5 out",
        ("packed.h5' holds something called '..'",),
        _evil_names,
        ranks=1,
    ),
    Case(
        "packing damaged matrices",
        "dataset pack data all.h5",
        ("001/hamiltonian.h5",),
        cut("data/001/hamiltonian.h5"),
        ranks=1,
    ),
    Case("plots of nothing", "plot no-results.h5", ("no such file: no-results.h5",), ranks=1, alone=True),
    Case("plots of matrices", "plot matrices/hamiltonian.h5", ("hamiltonian.h5': not a complete results.h5",), ranks=1),
    Case(
        "plots of a truncated results.h5",
        "plot results.h5",
        ("results.h5': not a complete results.h5",),
        cut("results.h5"),
        ranks=1,
    ),
    Case(
        "a map without populations",
        "plot results.h5 --state 2",
        ("results.h5' holds no populations of the states",),
        ranks=1,
    ),
    Case("a state that was not computed", "plot results.h5 --state 99", ("99",), ranks=1, code=2),
    Case("a twist of nothing", "build twist --m 2 --r 2 --out t.vasp", ("m", "r"), ranks=1),
    Case(
        "a monolayer that is not one",
        "build twist --m 1 --r 1 --monolayer K_PATH --out t.vasp",
        ("cannot read 'K_PATH' as a structure",),
        ranks=1,
    ),
    Case(
        "more vacancies than sites",
        "build defects two.vasp --vacancy C:9 --out d.vasp",
        ("the host has 2 sites for 'vacancy of C', not 9",),
        ranks=1,
    ),
    Case(
        "a structure in a format that is not written",
        "build defects two.vasp --vacancy C:1 --out d.docx",
        ("cannot tell the format of 'd.docx'",),
        ranks=1,
    ),
]
