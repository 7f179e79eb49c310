"""A whole dataset in one HDF5 file: a group per structure, for file systems that suffer from thousands of small files.

Each group holds the four datasets of `overlap` and `hamiltonian` as the DeepH layout has them, with their compression, and
every other file of the folder (POSCAR, info.json, reference.json, …) as bytes under `files`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.deeph import DeephSystem, system_from_files
from deeph_mpi.data.unfinished import unfinished
from deeph_mpi.errors import DataError, DeephError
from deeph_mpi.reading import reading
from deeph_mpi.results.wholefile import new_file

__all__ = ["pack", "packed_names", "packed_structure", "read_packed", "unpack"]

_MATRICES = ("overlap", "hamiltonian")
_TABLES = ("atom_pairs", "chunk_boundaries", "chunk_shapes", "entries")


def pack(directories: list[Path], target: Path) -> None:
    """Write folders in the DeepH layout into one new file, renamed when complete. Not collective; one folder at a time.

    Raises:
        DataError: a folder whose matrices cannot be read.
    """
    room = sum(path.stat().st_size for directory in directories for path in directory.rglob("*") if path.is_file())
    with unfinished(target) as place, new_file(place, room) as file:
        for directory in directories:
            _pack_one(directory, file.create_group(directory.name))


def packed_names(path: Path) -> list[str]:
    """Names of the structures in a file of `pack`."""
    with reading(path), _open(path) as file:
        return list(file)


def unpack(path: Path, directory: Path) -> list[Path]:
    """Write every structure as a folder in the DeepH layout again; the same data to the bit. Not collective.

    Raises:
        DataError: not such a file.
    """
    made = []
    with reading(path), _open(path) as file:
        for name, group in file.items():
            folder = directory / _plain(name, path)
            with unfinished(folder) as place:
                _write_files(group, place)
                for matrix in _MATRICES:
                    if matrix not in group:
                        continue
                    room = sum(group[f"{matrix}/{table}"].id.get_storage_size() for table in _TABLES)
                    with new_file(place / f"{matrix}.h5", room) as target:
                        for table in _TABLES:
                            group.copy(f"{matrix}/{table}", target, name=table)
            made.append(folder)
    return made


def read_packed(path: str | os.PathLike[str], name: str) -> DeephSystem:
    """Read one structure, as `read_system` reads a folder.

    Raises:
        DataError: not such a file, no such structure, or damaged data.
    """
    with packed_structure(Path(path), name) as (folder, matrix):
        return system_from_files(folder, matrix)


@contextmanager
def packed_structure(path: Path, name: str) -> Iterator[tuple[Path, Callable[[str], BlockFile]]]:
    """A folder with the small files of one structure, and what opens its "overlap" or "hamiltonian"; for a while.

    Any number of processes may read the same file: it is opened read-only and without locks.

    Raises:
        DataError: not such a file, no such structure, or damaged data.
    """
    with tempfile.TemporaryDirectory() as folder, reading(path), _open(path) as file:
        if name not in file:
            raise DataError(f"'{path}' holds no structure '{name}'")
        _write_files(file[name], Path(folder))

        def matrix(which: str) -> BlockFile:
            return BlockFile.of_group(path / name / which, file[name].get(which))

        try:
            yield Path(folder), matrix
        except DeephError as error:
            raise DataError(str(error).replace(folder, str(path / name))) from None


def _pack_one(directory: Path, group: h5py.Group) -> None:
    files = group.create_group("files")
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix != ".h5":
            files[path.name] = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for matrix in _MATRICES:
        path = directory / f"{matrix}.h5"
        if not path.is_file():
            continue
        with BlockFile.open(path) as source:
            target = group.create_group(matrix)
            for table in _TABLES:
                if source.file[table].is_virtual:  # joined shards: their data, not references to their files
                    target[table] = source.file[table][()]
                else:
                    source.file.copy(table, target)


def _write_files(group: h5py.Group, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in group["files"].items():
        (folder / _plain(name, Path(group.file.filename))).write_bytes(data[()].tobytes())


def _plain(name: str, path: Path) -> str:
    """A name that stays inside the folder it is put into.

    Raises:
        DataError: it would not.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise DataError(f"'{path}' holds something called '{name}', which is no name of a folder or file")
    return name


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    try:
        with reading(path):
            first = next(iter(file.values()), None)
            if not isinstance(first, h5py.Group) or "files" not in first:
                raise DataError(f"'{path}' is not a dataset of `deeph-mpi dataset pack`")
    except DataError:
        file.close()
        raise
    return file
