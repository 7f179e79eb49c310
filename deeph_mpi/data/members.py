"""The structures of a dataset: folders in the DeepH layout side by side, or groups of one file of `deeph-mpi dataset pack`.

A structure is named by a path in either case: `DATASET/NAME`, where DATASET is a folder or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.deeph import DeephSystem, system_from_files
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.info import DeephInfo
from deeph_mpi.data.packed import packed_names, packed_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["member_entries", "member_geometry", "member_names", "read_member"]


def member_names(dataset: Path) -> list[str]:
    """Names of the structures, sorted: folders with an info.json, or groups.

    Raises:
        DataError: a file that is no packed dataset.
    """
    if dataset.is_file():
        return sorted(packed_names(dataset))
    return sorted(path.parent.name for path in dataset.glob("*/info.json"))


def read_member(path: Path) -> DeephSystem:
    """Read a structure whole, as `read_system` reads a folder. Not collective; any number of ranks may do it at once.

    Raises:
        DataError: naming the structure and what is wrong with it.
    """
    with _opened(path) as (folder, matrix):
        return system_from_files(folder, matrix)


def member_geometry(path: Path) -> tuple[Structure, DeephInfo]:
    """Read POSCAR and info.json only.

    Raises:
        DataError: when either is missing, malformed, or contradicts the other.
    """
    with _opened(path) as (folder, _):
        return read_geometry(folder)


def member_entries(path: Path) -> int:
    """Elements of H.

    Raises:
        DataError: no such matrix, or a damaged one.
    """
    with _opened(path) as (_, matrix), matrix("hamiltonian") as file:
        return int(file.file["entries"].shape[0])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Path, Callable[[str], BlockFile]]]:
    if path.parent.is_file():
        with packed_structure(path.parent, path.name) as parts:
            yield parts
    else:
        yield path, lambda name: BlockFile.open(path / f"{name}.h5")
