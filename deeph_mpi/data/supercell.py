"""H and S of all images side by side as one sparse matrix each: SciPy's `.npz` and Matrix Market, for small systems.

A folder holds POSCAR and info.json of the DeepH layout, `images.npy` or `images.txt` (n, 3), and the matrices `hamiltonian`
(eV) and `overlap` with `size` rows and n · size columns: column m · size + b is orbital b in image m. Atoms are in the
order of the POSCAR, orbitals as everywhere here; spinors of an atom are its ↑, then its ↓ orbitals.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csr_matrix, load_npz, save_npz

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem, in_users_order
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.geometry import read_geometry, write_geometry
from deeph_mpi.data.ragged import spread
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["coordinates", "read_mtx", "read_npz", "write_mtx", "write_npz", "write_petsc_images"]

_COLUMNS = {"real": 3, "complex": 4}  # of a Matrix Market file by the kind of its numbers
_MAT_FILE_CLASSID = 1211216  # of PETSc, petscmat.h


def coordinates(blocks: BlockSet, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair, row and column of every entry of blocks, given the rows of every atom (N,); rows count over all atoms."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    lengths = np.diff(blocks.offsets)
    pair = np.repeat(np.arange(len(blocks)), lengths)
    within = spread(np.zeros(len(blocks), dtype=np.int64), lengths)
    i, j = blocks.pairs[pair, 3], blocks.pairs[pair, 4]
    return pair, first[i] + within // sizes[j], first[j] + within % sizes[j]


def write_npz(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write the folder with `scipy.sparse.save_npz`. Not collective."""
    _write(Path(directory), system, "npz", save_npz)


def write_mtx(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write the folder in Matrix Market format, to 17 digits. Not collective."""

    def save(path: Path, matrix: csr_matrix) -> None:
        with path.open("wb") as file:
            mmwrite(file, matrix, precision=17, symmetry="general")

    _write(Path(directory), system, "mtx", save)


def write_petsc_images(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write H(R), S(R) in PETSc's binary format: in each file the matrices of all images, in the order of `images.txt`.

    Load them one after the other from one viewer (`MatLoad`). Spinors need a complex PETSc. 32-bit indices. Not collective.

    Raises:
        DataError: more elements than 32-bit indices count.
    """

    def save(path: Path, wide: csr_matrix) -> None:
        size = wide.shape[0]
        with path.open("wb") as file:
            for start in range(0, wide.shape[1], size):
                matrix = wide[:, start : start + size].tocsr()
                matrix.sort_indices()
                if matrix.nnz >= 2**31:
                    raise DataError(f"'{path}': {matrix.nnz} elements are more than 32-bit indices count")
                head = [_MAT_FILE_CLASSID, size, size, matrix.nnz]
                for part, kind in ((head, ">i4"), (np.diff(matrix.indptr), ">i4"), (matrix.indices, ">i4")):
                    np.asarray(part).astype(kind).tofile(file)
                matrix.data.astype(">c16" if matrix.dtype.kind == "c" else ">f8").tofile(file)

    _write(Path(directory), system, "petsc", save)


def read_npz(directory: str | os.PathLike[str], *, cutoff: float | None = None) -> DeephSystem:
    """Read what `write_npz` writes; see `system_of` for the arguments and errors."""
    return _read(Path(directory), "npz", load_npz, cutoff)


def read_mtx(directory: str | os.PathLike[str], *, cutoff: float | None = None) -> DeephSystem:
    """Read what `write_mtx` writes; see `system_of` for the arguments and errors."""
    return _read(Path(directory), "mtx", _read_text, cutoff)


def _read_text(path: Path) -> coo_matrix:
    """A general matrix of coordinates, as `write_mtx` writes it; SciPy's own reader dies of damaged files (1.17)."""
    with path.open(encoding="ascii") as file:
        kind = file.readline().split()
        if kind[:3] != ["%%MatrixMarket", "matrix", "coordinate"] or kind[4:] != ["general"] or kind[3] not in _COLUMNS:
            raise ValueError(f"{path.name} starts with '{' '.join(kind)[:80]}', not as a general matrix of coordinates")
        line = file.readline()
        while line.startswith("%"):
            line = file.readline()
        rows, columns, count = (int(word) for word in line.split())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no lines: said here
            table = np.loadtxt(file, ndmin=2)
    if table.shape != (count, _COLUMNS[kind[3]]) or not np.isfinite(table).all():
        raise ValueError(f"{path.name} must hold {count} lines of {_COLUMNS[kind[3]]} finite numbers")
    values = table[:, 2] if kind[3] == "real" else table[:, 2] + 1j * table[:, 3]
    return coo_matrix((values, (table[:, 0].astype(np.int64) - 1, table[:, 1].astype(np.int64) - 1)), (rows, columns))


def _write(directory: Path, system: DeephSystem, ending: str, save: Callable[[Path, csr_matrix], object]) -> None:
    system = in_users_order(system)
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    images, image_of = np.unique(system.overlap.pairs[:, :3], axis=0, return_inverse=True)
    image_of = image_of.ravel()
    order = write_geometry(directory, system.structure, system.info.orbital_map, system.info)
    for name, blocks, spins in (("overlap", system.overlap, 1), ("hamiltonian", system.hamiltonian, 2)):
        if blocks is None:
            continue
        sizes = orbitals * (spins if system.info.spinful else 1)
        place = np.empty(len(sizes), dtype=np.int64)  # where each atom's rows start in the order of the POSCAR
        place[order] = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        atom = np.repeat(np.arange(len(sizes)), sizes)
        moved = np.arange(sizes.sum()) - first[atom] + place[atom]
        pair, rows, columns = coordinates(blocks, sizes)
        total = int(sizes.sum())
        where = (moved[rows], moved[columns] + image_of[pair] * total)
        # coo_matrix keeps zeros: pairs are part of what is written
        matrix = coo_matrix((blocks.entries, where), shape=(total, total * len(images))).tocsr()
        temporary = directory / f"part-{name}.{ending}"
        save(temporary, matrix)
        temporary.replace(directory / f"{name}.{ending}")
    if ending == "npz":
        np.save(directory / "images.npy", images)
    else:
        np.savetxt(directory / "images.txt", images, fmt="%d")


def _read(directory: Path, ending: str, load: Callable[[Path], Any], cutoff: float | None) -> DeephSystem:
    structure, info = read_geometry(directory)
    with reading(directory):
        images = np.load(directory / "images.npy") if ending == "npz" else np.loadtxt(directory / "images.txt", ndmin=2)
        matrices = [coo_matrix(load(directory / f"{name}.{ending}")) for name in ("overlap", "hamiltonian")]
        images = images.astype(np.int64).reshape(-1, 3)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    parts = []
    for matrix, spins in zip(matrices, (1, 2 if info.spinful else 1), strict=True):
        total = int(orbitals.sum()) * spins
        if matrix.shape != (total, total * len(images)):
            raise DataError(f"'{directory}': a matrix is {matrix.shape}, should be {(total, total * len(images))}")
        image, columns = np.divmod(matrix.col.astype(np.int64), total)
        rows = matrix.row.astype(np.int64)
        spin = None
        if spins == 2:
            atom = np.repeat(np.arange(len(orbitals)), 2 * orbitals)
            first = np.concatenate([[0], np.cumsum(orbitals)])[:-1]
            spin_of, orbital = np.divmod(np.arange(total) - 2 * first[atom], orbitals[atom])
            spin = np.stack([spin_of[rows], spin_of[columns]], axis=1)
            rows, columns = (orbital + first[atom])[rows], (orbital + first[atom])[columns]
        parts.append(Elements(images[image], rows, columns, matrix.data, spin))
    system = system_of(structure, info, parts[0], parts[1], convention="deeph", name=str(directory), cutoff=cutoff)
    return in_users_order(system)
