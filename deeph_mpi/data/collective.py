"""From a directory in the DeepH layout to other files by all ranks together: none holds, gathers or sees the whole.

Every rank reads and writes the rows of a contiguous range of atoms, in the order of the POSCAR.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephInfo, check_same_pairs
from deeph_mpi.data.geometry import read_geometry, users_structure, write_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.data.ragged import take_blocks
from deeph_mpi.data.rowfile import write_rows
from deeph_mpi.data.supercell import coordinates
from deeph_mpi.errors import DataError
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["write_petsc_images", "write_shards"]

_MAT_FILE_CLASSID = 1211216  # of PETSc, petscmat.h


@dataclass(frozen=True)
class _Rows:
    """A directory, its matrices divided among ranks.

    Attributes:
        structure: replicated, atoms in the order of the POSCAR.
        info: of the directory.
        order: (N,) the user's index of every atom.
        owner: (N,) rank of every atom, ascending.
        matrices: name → rows of every atom (N,), and this rank's blocks in the order (i, j, R).
    """

    structure: Structure
    info: DeephInfo
    order: np.ndarray
    owner: np.ndarray
    matrices: dict[str, tuple[np.ndarray, BlockSet]]

    @property
    def pairs(self) -> int:
        """Blocks of this rank."""
        return len(self.matrices["overlap"][1])


def write_shards(world: World, source: Path, target: Path) -> tuple[Structure, DeephInfo, int]:
    """Write the DeepH layout again, a shard of every rank joined by an HDF5 virtual dataset, as `infer` does. Collective.

    Returns:
        Structure, metadata, number of pairs.

    Raises:
        DataError: on all ranks, for anything that `read_system` refuses.
    """
    rows = _read(world, source)
    structure = users_structure(rows.structure, rows.order)
    world.on_root(write_geometry, target, structure, rows.info.orbital_map, rows.info)
    orbitals = rows.info.orbital_map.orbitals(structure.numbers)
    for name, (_, blocks) in rows.matrices.items():
        pairs = blocks.pairs.copy()
        pairs[:, 3:] = rows.order[pairs[:, 3:]]
        spinful = name == "hamiltonian" and rows.info.spinful
        write_rows(world, target, name, BlockSet(pairs, blocks.offsets, blocks.entries), orbitals, spinful)
    return structure, rows.info, int(world.sum(rows.pairs))


def write_petsc_images(world: World, source: Path, target: Path) -> tuple[Structure, DeephInfo, int]:
    """Write H(R), S(R) in PETSc's binary format: in each file the matrices of all images, in the order of `images.txt`.

    Load them one after the other from one viewer (`MatLoad`). Spinors need a complex PETSc. 32-bit indices. Rows as in
    `deeph_mpi.data.supercell`. Every rank writes its rows where they belong in the file, which all must be able to open.
    Collective.

    Returns:
        Structure, metadata, number of pairs.

    Raises:
        DataError: on all ranks: more elements than 32-bit indices count, or anything that `read_system` refuses.
    """
    rows = _read(world, source)
    structure = users_structure(rows.structure, rows.order)
    world.on_root(write_geometry, target, structure, rows.info.orbital_map, rows.info)
    own = np.unique(rows.matrices["overlap"][1].pairs[:, :3], axis=0)
    images = np.unique(np.concatenate(world.comm.allgather(own)), axis=0)
    for name, (sizes, blocks) in rows.matrices.items():
        temporary = target / f"part-{name}.petsc"
        _write_images(world, temporary, blocks, sizes, rows.owner, images)
        world.on_root(temporary.replace, target / f"{name}.petsc")
    world.on_root(lambda: np.savetxt(target / "images.txt", images, fmt="%d"))
    return structure, rows.info, int(world.sum(rows.pairs))


def _read(world: World, source: Path) -> _Rows:
    structure, info = world.on_root(read_geometry, source)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    owner = np.arange(len(orbitals)) * world.size // len(orbitals)
    matrices = {}
    for name, spinful in (("overlap", False), ("hamiltonian", info.spinful)):
        blocks = read_rows(world, source / f"{name}.h5", owner, orbitals, spinful)
        matrices[name] = orbitals * (2 if spinful else 1), blocks
    with world.together():
        check_same_pairs(matrices["hamiltonian"][1], matrices["overlap"][1], str(source))
    order = np.arange(len(orbitals)) if info.atom_order is None else info.atom_order
    return _Rows(structure, info, order, owner, matrices)


def _write_images(
    world: World, path: Path, blocks: BlockSet, sizes: np.ndarray, owner: np.ndarray, images: np.ndarray
) -> None:
    """One file: for every image a header, the rows' lengths, columns, values, one after the other. Collective."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    size, here = int(first[-1]), np.flatnonzero(owner == world.rank)
    row = int(first[here[0]]) if len(here) else 0
    count = int(sizes[here].sum())
    _, image_of = np.unique(np.concatenate([images, blocks.pairs[:, :3]]), axis=0, return_inverse=True)
    image_of = image_of.ravel()[len(images) :]
    held = np.bincount(image_of, np.diff(blocks.offsets), len(images)).astype(np.int64)
    counts = np.array(world.comm.allgather(held))
    total, before = counts.sum(axis=0), counts[: world.rank].sum(axis=0)
    if total.max(initial=0) >= 2**31:
        raise DataError(f"'{path}': {int(total.max())} elements are more than 32-bit indices count")
    kind = ">c16" if blocks.entries.dtype.kind == "c" else ">f8"
    width = np.dtype(kind).itemsize
    start = np.concatenate([[0], np.cumsum(4 * 4 + 4 * size + (4 + width) * total)])
    world.on_root(_reserve, path, int(start[-1]))
    with world.together(), path.open("r+b") as file:
        for image, nonzero in enumerate(total.tolist()):
            at = int(start[image])
            if world.is_root:
                _put(file.fileno(), at, np.array([_MAT_FILE_CLASSID, size, size, nonzero]), ">i4")
            part = take_blocks(blocks, np.flatnonzero(image_of == image))
            _, rows, columns = coordinates(part, sizes)
            matrix = coo_matrix((part.entries, (rows - row, columns)), shape=(count, size)).tocsr()
            matrix.sort_indices()
            at += 4 * 4
            _put(file.fileno(), at + 4 * row, np.diff(matrix.indptr), ">i4")
            at += 4 * size
            _put(file.fileno(), at + 4 * int(before[image]), matrix.indices, ">i4")
            at += 4 * nonzero
            _put(file.fileno(), at + width * int(before[image]), matrix.data, kind)


def _reserve(path: Path, length: int) -> None:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, length)


def _put(descriptor: int, place: int, values: np.ndarray, kind: str) -> None:
    """Write an array at a place of a file; the kernel takes at most 2 GB at a time."""
    data = memoryview(np.ascontiguousarray(values.astype(kind)).view(np.uint8))  # type: ignore[arg-type]
    while len(data):
        done = os.pwrite(descriptor, data, place)
        data, place = data[done:], place + done
