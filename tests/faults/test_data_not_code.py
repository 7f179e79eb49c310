"""Inputs are data: no reader runs what is in a file. Files with a planted command of every kind, and the source itself."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeph_mpi.config import SolveConfig
from deeph_mpi.configfile import load
from deeph_mpi.data.deeph import read_system
from deeph_mpi.data.packed import unpack
from deeph_mpi.data.supercell import read_npz
from deeph_mpi.errors import DeephError
from deeph_mpi.model.checkpoint import FORMAT, load_checkpoint, load_plain
from deeph_mpi.results.store import read_results
from deeph_mpi.structure.read import read_structure
from deeph_mpi.train.trainer import RESTART
from tests.faults.inputs import Planted, make_inputs
from tests.mpi import ROOT

COMMAND = "__import__('pathlib').Path('{}').touch()"


def _npz(folder: Path, planted: Planted) -> None:
    made = np.load(folder / "npz/overlap.npz")
    np.savez(folder / "npz/overlap.npz", **{**made, "data": np.array([planted], dtype=object)})


def _images(folder: Path, planted: Planted) -> None:
    np.save(folder / "npz/images.npy", np.array([planted], dtype=object), allow_pickle=True)


def _attributes(folder: Path, planted: Planted) -> None:
    with h5py.File(folder / "results.h5", "r+") as file:
        file.attrs["config"] = np.void(pickle.dumps(planted))
        file["spectrum"].attrs["notes"] = COMMAND.format(planted.path)


def _json(folder: Path, planted: Planted) -> None:
    content = json.loads((folder / "matrices/info.json").read_text())
    (folder / "matrices/info.json").write_text(json.dumps({**content, "occupation": COMMAND.format(planted.path)}))


def _toml(folder: Path, planted: Planted) -> None:
    text = (folder / "solve.toml").read_text()
    (folder / "solve.toml").write_text(text.replace("states = 4", f'states = "{COMMAND.format(planted.path)}"'))


def _names(folder: Path, planted: Planted) -> None:
    """Files of a packed dataset that would land outside the folder."""
    with h5py.File(folder / "packed.h5", "r+") as file:
        files = file["000/files"]
        files["x"] = np.frombuffer(b"text", dtype=np.uint8)
        files.id.links.move(b"x", files.id, b"..")
        file.move("000", "x")
        file.id.links.move(b"x", file.id, b"..")


def _pickled(name: str) -> Callable[[Path, Planted], object]:
    return lambda folder, planted: (folder / name).write_bytes(pickle.dumps(planted))


def _script(name: str) -> Callable[[Path, Planted], object]:
    return lambda folder, planted: (folder / name).write_text(COMMAND.format(planted.path) + "\n")


def _saved(form: str) -> Callable[[Path, Planted], object]:
    return lambda folder, planted: torch.save({"format": form, "settings": planted}, folder / "model.pt")


PLANTS: dict[str, tuple[Callable[[Path, Planted], object], Callable[[Path], object]]] = {
    "a pickle for a checkpoint": (_pickled("model.pt"), lambda f: load_checkpoint(f / "model.pt")),
    "an object in a checkpoint": (_saved(FORMAT), lambda f: load_checkpoint(f / "model.pt")),
    "a pickle for a restart file": (_pickled("model.pt"), lambda f: load_plain(f / "model.pt", RESTART)),
    "an object in a restart file": (_saved(RESTART), lambda f: load_plain(f / "model.pt", RESTART)),
    "objects in overlap.npz": (_npz, lambda f: read_npz(f / "npz")),
    "objects in images.npy": (_images, lambda f: read_npz(f / "npz")),
    "attributes of results.h5": (_attributes, lambda f: read_results(f / "results.h5")),
    "an expression in info.json": (_json, lambda f: read_system(f / "matrices")),
    "an expression in a configuration": (_toml, lambda f: load(f / "solve.toml", SolveConfig)),
    "names in a packed dataset": (_names, lambda f: unpack(f / "packed.h5", f / "out/deep")),
    "a pickle for a structure": (_pickled("a.vasp"), lambda f: read_structure(f / "a.vasp")),
    "a pickle for a trajectory": (_pickled("a.traj"), lambda f: read_structure(f / "a.traj")),
    "a pickle of no known name": (_pickled("a.pickle"), lambda f: read_structure(f / "a.pickle")),
    "a script for a structure": (_script("a.py"), lambda f: read_structure(f / "a.py")),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "inputs"
    make_inputs(folder)
    return folder


def test_what_is_planted_does_run(tmp_path: Path) -> None:
    """Where it is loaded as code: else the test below proves nothing."""
    pickle.loads(pickle.dumps(Planted(tmp_path / "by_pickle")))
    torch.save(Planted(tmp_path / "by_torch"), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    np.save(tmp_path / "x.npy", np.array([Planted(tmp_path / "by_numpy")], dtype=object), allow_pickle=True)
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert {path.name for path in tmp_path.glob("by_*")} == {"by_pickle", "by_torch", "by_numpy"}


@pytest.mark.parametrize("name", list(PLANTS))
def test_nothing_in_a_file_is_run(inputs: Path, tmp_path: Path, name: str) -> None:
    plant, read = PLANTS[name]
    folder = tmp_path / "inside" / "case"
    folder.mkdir(parents=True)
    for path in inputs.iterdir():
        (folder / path.name).symlink_to(path)
    for changed in ("npz", "matrices", "results.h5", "solve.toml", "packed.h5", "model.pt"):
        (folder / changed).unlink()
        source = inputs / changed
        if source.is_dir():
            (folder / changed).mkdir()
            for path in source.iterdir():
                (folder / changed / path.name).write_bytes(path.read_bytes())
        else:
            (folder / changed).write_bytes(source.read_bytes())
    planted = Planted(tmp_path / "planted")
    plant(folder, planted)
    with pytest.raises(DeephError):
        read(folder)
    assert not planted.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["case"]


MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "code",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}


def findings(source: str) -> list[str]:
    """Places of a module that could run what is in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        call, given = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
        if call in CALLS or call in ("os.system", "os.popen"):
            found.append(call)
        if call == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{call} with allow_pickle")
        if given.get("shell", "False") != "False":
            found.append(f"{call} with shell")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from yaml import load", "eval('1')", "exec(text)", "torch.load(path)", "os.system(text)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)",
    ],
)  # fmt: skip
def test_what_could_run_code_is_found(source: str) -> None:
    assert findings(source)


def test_no_module_could_run_what_is_in_a_file() -> None:
    sources = [path for part in ("deeph_mpi", "solvers", "launch") for path in sorted((ROOT / part).rglob("*.py"))]
    assert len(sources) > 150
    found = {str(path.relative_to(ROOT)): findings(path.read_text()) for path in sources}
    assert not {path: what for path, what in found.items() if what}
