"""Bad matrices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.faults.case import Case, Spoil, all_of, changed, cut, emptied, keyed, plain, removed, replaced, written

__all__ = ["MATRICES", "entry"]

H, S = "matrices/hamiltonian.h5", "matrices/overlap.h5"
INFER, SOLVE = "infer infer.toml", "solve solve.toml"
Tables = dict[str, Any]


def _first(tables: Tables) -> int:
    """Where the first onsite block starts among the entries."""
    pairs = tables["atom_pairs"]
    onsite = np.flatnonzero((pairs[:, :3] == 0).all(axis=1) & (pairs[:, 3] == pairs[:, 4]))[0]
    return int(tables["chunk_boundaries"][onsite])


def entry(name: str, value: float) -> Spoil:
    """The first entry of the first onsite block replaced."""
    return changed(name, lambda tables: tables["entries"].__setitem__(_first(tables), value))


def _put(table: str, index: Any, value: Any) -> Callable[[Tables], object]:
    return lambda tables: tables[table].__setitem__(index, value)


def _to(table: str, kind: str) -> Callable[[Tables], object]:
    return lambda tables: tables.__setitem__(table, tables[table].astype(kind))


def _without(chosen: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tables], object]:
    """Blocks for which `chosen(pairs)` is true left out of all four tables."""

    def change(tables: Tables) -> None:
        keep = ~chosen(tables["atom_pairs"])
        lengths = np.diff(tables["chunk_boundaries"])
        tables["entries"] = tables["entries"][np.repeat(keep, lengths)]
        tables["chunk_boundaries"] = np.concatenate([[0], np.cumsum(lengths[keep])])
        for name in ("atom_pairs", "chunk_shapes"):
            tables[name] = tables[name][keep]

    return change


def _repeated(tables: Tables) -> None:
    """The first block once more at the end."""
    length = int(tables["chunk_boundaries"][1])
    tables["chunk_boundaries"] = np.append(tables["chunk_boundaries"], tables["chunk_boundaries"][-1] + length)
    tables["entries"] = np.append(tables["entries"], tables["entries"][:length])
    for name in ("atom_pairs", "chunk_shapes"):
        tables[name] = np.append(tables[name], tables[name][:1], axis=0)


def _far(pairs: np.ndarray) -> np.ndarray:
    return (np.abs(pairs[:, :3]).max(axis=1) == np.abs(pairs[:, :3]).max()).astype(bool)


def _one_way(pairs: np.ndarray) -> np.ndarray:
    """One block of a pair of partners."""
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[np.flatnonzero(pairs[:, 3] != pairs[:, 4])[0]] = True
    return chosen


def _lost_shard(folder: Path) -> None:
    """H as joined shards, as `infer` writes it, one of which is gone."""
    (folder / "matrices" / "shards").mkdir()
    shutil.move(folder / H, folder / "matrices/shards/hamiltonian.0000.h5")
    with h5py.File(folder / "matrices/shards/hamiltonian.0000.h5") as shard, h5py.File(folder / H, "w") as joined:
        for name, data in shard.items():
            layout = h5py.VirtualLayout(data.shape, data.dtype)
            layout[...] = h5py.VirtualSource("shards/hamiltonian.0000.h5", name, data.shape)
            joined.create_virtual_dataset(name, layout)
    (folder / "matrices/shards/hamiltonian.0000.h5").unlink()


MATRICES = [
    Case("no overlap.h5", SOLVE, ("overlap.h5' does not exist",), removed(S)),
    Case(
        "no POSCAR beside the matrices",
        SOLVE,
        ("matrices' is not a DeepH-layout directory: it has no POSCAR",),
        removed("matrices/POSCAR"),
    ),
    Case(
        "no info.json beside the matrices",
        SOLVE,
        ("matrices' is not a DeepH-layout directory: it has no info.json",),
        removed("matrices/info.json"),
    ),
    Case("info.json cut off", SOLVE, ("info.json",), cut("matrices/info.json"), ranks=3),
    Case(
        "info.json without the orbitals",
        SOLVE,
        ("info.json': elements_orbital_map must map every element",),
        keyed("matrices/info.json", elements_orbital_map=None),
    ),
    Case(
        "info.json with another number of atoms",
        SOLVE,
        ("atoms_quantity is 3",),
        keyed("matrices/info.json", atoms_quantity=3),
    ),
    Case(
        "info.json with a word for a number",
        SOLVE,
        ("occupation must be a finite number, not 'eight'",),
        keyed("matrices/info.json", occupation="eight"),
    ),
    Case(
        "orbitals of one element missing",
        SOLVE,
        ("no orbitals are known for N",),
        keyed("matrices/info.json", elements_orbital_map={"B": [0, 0, 1, 1, 2]}, orbits_quantity=None),
    ),
    Case(
        "an atom_order that is no permutation",
        SOLVE,
        ("atom_order must be a permutation",),
        keyed("matrices/info.json", atom_order=[0, 0]),
    ),
    Case(
        "elements of the POSCAR in another order than the matrices",
        f"{SOLVE} --set hamiltonian.directory=mixed",
        ("orbits_quantity is 61, but POSCAR and elements_orbital_map give 65",),
        replaced("mixed/POSCAR", "C   N   B", "N   C   B"),
    ),
    Case("an empty hamiltonian.h5", SOLVE, ("hamiltonian.h5", "not an HDF5 file, or truncated"), emptied(H)),
    Case("a truncated hamiltonian.h5", SOLVE, ("hamiltonian.h5", "not an HDF5 file, or truncated"), cut(H), alone=True),
    Case(
        "text for hamiltonian.h5",
        SOLVE,
        ("hamiltonian.h5", "not an HDF5 file, or truncated"),
        written(H, "row column value"),
    ),
    Case(
        "a directory for hamiltonian.h5",
        SOLVE,
        (
            "Is a directory",
            "hamiltonian.h5",
        ),
        all_of(removed(H), lambda folder: (folder / H).mkdir()),
    ),
    Case(
        "a dataset missing", SOLVE, ("hamiltonian.h5' lacks chunk_shapes",), changed(H, lambda t: t.pop("chunk_shapes"))
    ),
    Case(
        "pairs of four numbers",
        SOLVE,
        ("atom_pairs has shape", "should have"),
        changed(H, lambda t: t.update(atom_pairs=t["atom_pairs"][:, :4])),
    ),
    Case(
        "entries in a table",
        SOLVE,
        ("entries has 2 dimensions, should have 1",),
        changed(H, lambda t: t.update(entries=t["entries"][:, None])),
    ),
    Case(
        "entries that are integers",
        SOLVE,
        ("entries is int32, should be float32, float64 or complex128",),
        changed(H, _to("entries", "i4")),
    ),
    Case(
        "complex entries without spin",
        SOLVE,
        ("entries are complex128, but should be real",),
        changed(H, _to("entries", "c16")),
    ),
    Case(
        "pairs that are real numbers",
        SOLVE,
        ("atom_pairs is float64, should be an integer type",),
        changed(H, _to("atom_pairs", "f8")),
    ),
    Case(
        "no blocks at all",
        SOLVE,
        ("hamiltonian.h5' holds no blocks",),
        changed(H, _without(lambda pairs: np.ones(len(pairs), dtype=bool))),
    ),
    Case(
        "a block of another shape",
        SOLVE,
        ("block 3", "has shape (13, 12)"),
        changed(H, _put("chunk_shapes", (3, 1), 12)),
    ),
    Case(
        "boundaries that do not fit the shapes",
        SOLVE,
        ("chunk_boundaries of block",),
        changed(H, _put("chunk_boundaries", 5, 2)),
    ),
    Case(
        "an atom that does not exist",
        SOLVE,
        ("block 4", "has an atom outside 0…1"),
        changed(H, _put("atom_pairs", (4, 3), 2)),
        ranks=4,
    ),
    Case(
        "a negative atom",
        SOLVE,
        ("block 4", "has an atom outside 0…1"),
        changed(H, _put("atom_pairs", (4, 4), -1)),
        ranks=1,
    ),
    Case(
        "an image 2⁶² cells away",
        SOLVE,
        ("image indices up to", "too large"),
        changed(H, _put("atom_pairs", (4, 0), 2**62)),
    ),
    Case("a pair given twice", SOLVE, ("hamiltonian.h5': the pair", "is given twice"), changed(H, _repeated)),
    Case(
        "an atom without onsite block",
        SOLVE,
        ("atom 1 has no onsite block",),
        changed(H, _without(lambda p: (p == (0, 0, 0, 1, 1)).all(axis=1))),
    ),
    Case(
        "a block without its transpose", SOLVE, ("has no Hermitian partner",), changed(H, _without(_one_way)), ranks=3
    ),
    Case(
        "H that is not Hermitian",
        SOLVE,
        ("hamiltonian.h5' is not Hermitian: block", "allowed"),
        changed(H, lambda t: t["entries"].__iadd__(plain(t["entries"].shape))),
        alone=True,
        ranks=3,
    ),
    Case(
        "H and S on different pairs",
        SOLVE,
        ("H and S hold different pairs", "overlap.h5 lacks"),
        changed(S, _without(_far)),
    ),
    Case("NaN in H", SOLVE, ("hamiltonian.h5'", "has entries that are not finite"), entry(H, np.nan), ranks=4),
    Case("infinity in S", SOLVE, ("overlap.h5'", "has entries that are not finite"), entry(S, np.inf)),
    Case("S that is not positive definite", SOLVE, ("not positive definite",), entry(S, -1.0), alone=True),
    Case("a shard of H missing", SOLVE, ("joins shards, and 'shards/hamiltonian.0000.h5' is missing",), _lost_shard),
    Case(
        "electrons not known, E_F asked for",
        SOLVE,
        ("the number of electrons is not known",),
        keyed("matrices/info.json", occupation=None, fermi_energy_eV=None),
        code=2,
    ),
    Case("more electrons removed than there are", f"{SOLVE} --set solve.charge=100.0", ("electrons",)),
    Case("more pools than ranks", f"{SOLVE} --set solve.pools=5", ("pools",), code=2),
    Case("too little address space for the job", INFER, ("cannot be loaded",), ranks=1, alone=True, memory=1.2),
]
