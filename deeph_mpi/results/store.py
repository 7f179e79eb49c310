"""results.h5: written once under a temporary name, read back for plots."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.errors import DataError, DeephError
from deeph_mpi.parallel.traffic import count_sent
from deeph_mpi.parallel.world import World
from deeph_mpi.reading import reading
from deeph_mpi.results.dos import density_of_states
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.stages import read_stages, stage_attributes
from deeph_mpi.results.wholefile import reserve, told
from deeph_mpi.structure.structure import Structure

__all__ = ["read_results", "write_results"]

_TABLES = ("kpoints", "weights", "eigenvalues", "residuals", "verified", "first", "intervals")
_LEVELS = {"fermi": "fermi_energy_eV", "homo": "homo_eV", "lumo": "lumo_eV", "gap": "gap_eV"}


def write_results(
    world: World,
    path: Path,
    run: RunRecord,
    spectrum: SpectrumRecord,
    vectors: Sequence[np.ndarray] | None = None,
    rows: RowMap | None = None,
    *,
    structure: Structure | None = None,
    populations: Sequence[np.ndarray] | None = None,
    shells: ShellTable | None = None,
) -> None:
    """Write results.h5 from rank 0. Collective.

    Eigenvectors are stored as `spectrum/eigenvectors` (nk, n, orbitals), zero-padded, S-orthonormal, orbitals in the
    atom order of the structure; Mulliken populations as `projections/weights` (nk, n, shells of all atoms) float32, with
    `projections/atom`, `shell` and `l` of each; the atoms as `structure/numbers`, `positions`, `cell` and `pbc`. Vectors and
    populations reach rank 0 one state at a time.

    Args:
        world: the ranks.
        path: of the file; replaced when it exists.
        run, spectrum: the same on all ranks.
        vectors: per k-point (rows of this rank, states), or None.
        rows: distribution of the rows of `vectors`.
        structure: the atoms; None: not stored.
        populations: per k-point (shells of this rank's atoms, states), or None.
        shells: of all atoms, with `populations`.

    Raises:
        DeephError: on all ranks, when the file cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        world.on_root(_write_tables, temporary, run, spectrum, structure)
        if vectors is not None and rows is not None:
            dtype = np.dtype(np.complex128 if any(np.iscomplexobj(v) for v in vectors) else np.float64)
            _write_states(world, temporary, "spectrum/eigenvectors", vectors, rows, dtype)
        if populations is not None and rows is not None and shells is not None:
            by_shell = RowMap(rows.partition, shells.counts(len(rows.sizes)))
            _write_states(world, temporary, "projections/weights", populations, by_shell, np.dtype(np.float32))
            world.on_root(_write_arrays, temporary, "projections", shells)
        world.on_root(temporary.replace, path)
    except DeephError:
        if world.is_root and temporary.is_file():
            temporary.unlink()
        raise


def read_results(path: Path) -> tuple[RunRecord, SpectrumRecord]:
    """Read results.h5 without its eigenvectors. Not collective.

    Raises:
        DataError: missing, unreadable or not written by this program.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with reading(path, "not a complete results.h5 of deeph-mpi"), h5py.File(path, "r") as file:
        group = file["spectrum"]
        tables: dict[str, Any] = {name: group[_dataset(name)][:] for name in _TABLES}
        levels: dict[str, Any] = {name: float(group.attrs[key]) for name, key in _LEVELS.items()}
        path_of = group.get("path")
        spectrum = SpectrumRecord(
            **tables,
            **levels,
            notes=json.loads(group.attrs["notes"]),
            distances=np.empty(0) if path_of is None else path_of["distances"][:],
            ticks=[] if path_of is None else path_of["ticks"][:].tolist(),
            labels=[] if path_of is None else json.loads(path_of.attrs["labels"]),
            is_mesh=bool(group.attrs["is_mesh"]),
        )
        return _read_run(file), spectrum


def _dataset(name: str) -> str:
    return "first_index" if name == "first" else name


def _write_tables(path: Path, run: RunRecord, spectrum: SpectrumRecord, structure: Structure | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    reserve(path, sum(getattr(spectrum, name).nbytes for name in _TABLES))
    with told(path), h5py.File(path, "w") as file:
        for name in (field.name for field in dataclasses.fields(run) if field.name != "stages"):
            file.attrs[name] = getattr(run, name)
        file.attrs.update(stage_attributes(run.stages))
        group = file.create_group("spectrum")
        for name in _TABLES:
            group[_dataset(name)] = getattr(spectrum, name)
        for name, key in _LEVELS.items():
            group.attrs[key] = getattr(spectrum, name)
        group.attrs["notes"] = json.dumps(spectrum.notes, ensure_ascii=False)
        group.attrs["is_mesh"] = spectrum.is_mesh
        if len(spectrum.distances):
            along = group.create_group("path")
            along["distances"], along["ticks"] = spectrum.distances, np.array(spectrum.ticks)
            along.attrs["labels"] = json.dumps(spectrum.labels, ensure_ascii=False)
        if spectrum.is_mesh:
            dos = file.create_group("dos")
            dos["energies"], dos["density"] = density_of_states(spectrum, run.degeneracy)
    if structure is not None:
        _write_arrays(path, "structure", structure)


def _write_arrays(path: Path, group: str, arrays: Structure | ShellTable) -> None:
    """The fields of a dataclass of arrays as datasets of a group."""
    fields = [getattr(arrays, field.name) for field in dataclasses.fields(arrays)]
    reserve(path, sum(np.asarray(values).nbytes for values in fields))
    with told(path), h5py.File(path, "r+") as file:
        target = file.require_group(group)
        for field in dataclasses.fields(arrays):
            target[field.name] = getattr(arrays, field.name)


def _read_run(file: h5py.File) -> RunRecord:
    counts: dict[str, Any] = {
        name: int(file.attrs[name]) for name in ("ranks", "atoms", "orbitals", "nonzeros", "degeneracy")
    }
    texts: dict[str, Any] = {name: str(file.attrs[name]) for name in ("version", "config", "formula")}
    reals: dict[str, Any] = {name: float(file.attrs[name]) for name in ("electrons", "temperature")}
    return RunRecord(**texts, **counts, **reals, stages=read_stages(file.attrs, counts["ranks"]))


def _write_states(
    world: World, path: Path, name: str, vectors: Sequence[np.ndarray], rows: RowMap, dtype: np.dtype
) -> None:
    """One state after the other through rank 0, which never holds more than one, from its rows to atom order."""
    counts = np.diff(rows.starts)
    state = np.empty(rows.dimension if world.is_root else 0, dtype)
    with contextlib.ExitStack() as stack:
        with world.together():
            if world.is_root:
                shape = (len(vectors), max(v.shape[1] for v in vectors), rows.dimension)
                reserve(path, math.prod(shape) * dtype.itemsize)
                dataset = stack.enter_context(h5py.File(path, "r+")).create_dataset(name, shape, dtype)
                places = np.argsort(np.concatenate([rows.atom_order(rank) for rank in range(world.size)]))
        for k, local in enumerate(vectors):
            for n in range(local.shape[1]):
                if not world.is_root:
                    count_sent(len(local) * dtype.itemsize)
                world.comm.Gatherv(np.ascontiguousarray(local[:, n], dtype), (state, counts))
                with world.together(), told(path):
                    if world.is_root:
                        dataset[k, n] = state[places]
        with world.together(), told(path):
            stack.close()
