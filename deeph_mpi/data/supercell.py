"""H and S of all images side by side as one sparse matrix each: SciPy's `.npz` and Matrix Market, for small systems.

A folder holds POSCAR and info.json of the DeepH layout, `images.npy` or `images.txt` (n, 3), and the matrices `hamiltonian`
(eV) and `overlap` with `size` rows and n · size columns: column m · size + b is orbital b in image m. Atoms are in the
order of the POSCAR, orbitals as everywhere here; spinors of an atom are its ↑, then its ↓ orbitals.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, load_npz, save_npz

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.geometry import read_geometry, users_structure, write_geometry
from deeph_mpi.data.mapped import pieces_of
from deeph_mpi.data.ragged import spread
from deeph_mpi.data.spool import Spool
from deeph_mpi.data.textnumbers import tables
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["coordinates", "read_mtx", "read_npz", "write_mtx", "write_npz"]

_COLUMNS = {"real": 3, "complex": 4}  # of a Matrix Market file by the kind of its numbers


def coordinates(blocks: BlockSet, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair, row and column of every entry of blocks, given the rows of every atom (N,); rows count over all atoms."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    lengths = np.diff(blocks.offsets)
    pair = np.repeat(np.arange(len(blocks)), lengths)
    within = spread(np.zeros(len(blocks), dtype=np.int64), lengths)
    i, j = blocks.pairs[pair, 3], blocks.pairs[pair, 4]
    return pair, first[i] + within // sizes[j], first[j] + within % sizes[j]


def write_npz(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write the folder, which should be `unfinished`, with `scipy.sparse.save_npz`. Not collective."""
    directory = Path(directory)
    for wide in _matrices(directory, system):
        # coo_matrix keeps zeros: pairs are part of what is written
        matrix = coo_matrix((wide.blocks.entries, wide.places(slice(0, len(wide.blocks)))), shape=wide.shape).tocsr()
        save_npz(directory / f"{wide.name}.npz", matrix)
        np.save(directory / "images.npy", wide.images)


def write_mtx(directory: str | os.PathLike[str], system: DeephSystem) -> None:
    """Write the folder, which should be `unfinished`, in Matrix Market format, to 17 digits, a few MB at a time.

    Not collective.
    """
    directory = Path(directory)
    for wide in _matrices(directory, system):
        blocks = wide.blocks
        kind = "complex" if blocks.entries.dtype.kind == "c" else "real"
        with (directory / f"{wide.name}.mtx").open("wb") as file:
            file.write(f"%%MatrixMarket matrix coordinate {kind} general\n%\n".encode())
            file.write(f"{wide.shape[0]} {wide.shape[1]} {len(blocks.entries)}\n".encode())
            for part in pieces_of(np.diff(blocks.offsets)):
                values = np.array(blocks.entries[blocks.offsets[part.start] : blocks.offsets[part.stop]])
                text = io.BytesIO()
                mmwrite(
                    text, coo_matrix((values, wide.places(part)), shape=wide.shape), precision=17, symmetry="general"
                )
                file.write(text.getvalue().split(b"\n", 3)[3])  # after its header
                blocks.release()
        np.savetxt(directory / "images.txt", wide.images, fmt="%d")


@dataclass(frozen=True)
class _Wide:
    """A matrix whose images stand side by side.

    Attributes:
        name: "overlap" or "hamiltonian".
        blocks: in the order of the system.
        sizes: (N,) rows of every atom.
        start: (N,) row of the first orbital of every atom, in the order of the POSCAR.
        images: (n, 3).
        image_of: image of every block.
    """

    name: str
    blocks: BlockSet
    sizes: np.ndarray
    start: np.ndarray
    images: np.ndarray
    image_of: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        total = int(self.sizes.sum())
        return total, total * len(self.images)

    def places(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every entry of some blocks."""
        pairs, offsets = self.blocks.pairs[part], self.blocks.offsets[part.start : part.stop + 1]
        lengths = np.diff(offsets)
        within = spread(np.zeros(len(pairs), dtype=np.int64), lengths)
        i, j = (np.repeat(atom, lengths) for atom in pairs[:, 3:].T)
        shift = np.repeat(self.image_of[part], lengths) * self.shape[0]
        return self.start[i] + within // self.sizes[j], self.start[j] + within % self.sizes[j] + shift


def _matrices(directory: Path, system: DeephSystem) -> Iterator[_Wide]:
    """Write POSCAR and info.json; then the matrices that there are."""
    structure, order = system.structure, system.info.atom_order
    if order is None:
        order = write_geometry(directory, structure, system.info.orbital_map, system.info)
        place = np.argsort(order)
    else:  # the system is in the order of its POSCAR
        write_geometry(directory, users_structure(structure, order), system.info.orbital_map, system.info)
        place = np.arange(len(order))
    orbitals = system.info.orbital_map.orbitals(structure.numbers)
    images, image_of = np.unique(system.overlap.pairs[:, :3], axis=0, return_inverse=True)
    for name, blocks, spins in (("overlap", system.overlap, 1), ("hamiltonian", system.hamiltonian, 2)):
        if blocks is None:
            continue
        sizes = orbitals * (spins if system.info.spinful else 1)
        inverse = np.argsort(place)
        start = np.empty(len(sizes), dtype=np.int64)
        start[inverse] = np.concatenate([[0], np.cumsum(sizes[inverse])[:-1]])
        yield _Wide(name, blocks, sizes, start, images, image_of.ravel())


def read_npz(directory: str | os.PathLike[str], *, cutoff: float | None = None) -> DeephSystem:
    """Read what `write_npz` writes; see `system_of` for the arguments and errors."""
    return _read(Path(directory), "npz", _npz_entries, cutoff, None)


def read_mtx(
    directory: str | os.PathLike[str], *, cutoff: float | None = None, scratch: Path | None = None
) -> DeephSystem:
    """Read what `write_mtx` writes; see `system_of` for the arguments and errors."""
    return _read(Path(directory), "mtx", _mtx_entries, cutoff, scratch)


@dataclass(frozen=True)
class _Entries:
    """A sparse matrix: its shape, type, and rows, columns and values some at a time."""

    shape: tuple[int, int]
    dtype: np.dtype
    parts: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _npz_entries(path: Path) -> _Entries:
    matrix = coo_matrix(load_npz(path))
    return _Entries(matrix.shape, matrix.dtype, iter([(matrix.row, matrix.col, matrix.data)]))


def _mtx_entries(path: Path) -> _Entries:
    """A general matrix of coordinates, as `write_mtx` writes it; SciPy's own reader dies of damaged files (1.17)."""
    file = path.open(encoding="ascii")
    kind = file.readline().split()
    if kind[:3] != ["%%MatrixMarket", "matrix", "coordinate"] or kind[4:] != ["general"] or kind[3] not in _COLUMNS:
        raise ValueError(f"{path.name} starts with '{' '.join(kind)[:80]}', not as a general matrix of coordinates")
    line = file.readline()
    while line.startswith("%"):
        line = file.readline()
    rows, columns, count = (int(word) for word in line.split())
    width = _COLUMNS[kind[3]]

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        done = 0
        with file:
            for table in tables(file, width):
                if not np.isfinite(table).all():
                    break
                done += len(table)
                values = table[:, 2] if width == 3 else table[:, 2] + 1j * table[:, 3]
                yield table[:, 0].astype(np.int64) - 1, table[:, 1].astype(np.int64) - 1, values
        if done != count:
            raise ValueError(f"{path.name} must hold {count} lines of {width} finite numbers")

    return _Entries((rows, columns), np.dtype(np.float64 if width == 3 else np.complex128), parts())


def _read(
    directory: Path, ending: str, load: Callable[[Path], _Entries], cutoff: float | None, scratch: Path | None
) -> DeephSystem:
    structure, info = read_geometry(directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    order = np.arange(len(orbitals)) if info.atom_order is None else info.atom_order
    spools = []
    with reading(directory):
        images = np.load(directory / "images.npy") if ending == "npz" else np.loadtxt(directory / "images.txt", ndmin=2)
        images = images.astype(np.int64).reshape(-1, 3)
        for name, spins in (("overlap", 1), ("hamiltonian", 2 if info.spinful else 1)):
            entries = load(directory / f"{name}.{ending}")
            total = int(orbitals.sum()) * spins
            if entries.shape != (total, total * len(images)):
                raise DataError(f"'{directory}': a matrix is {entries.shape}, should be {(total, total * len(images))}")
            spin_of, orbital_of = _meaning_of_rows(orbitals, order, spins)
            spool = Spool(scratch, entries.dtype, spinful=spins == 2)
            for rows, places, values in entries.parts:
                image, columns = np.divmod(places, total)
                if rows.min() < 0 or rows.max() >= total or image.min() < 0 or image.max() >= len(images):
                    raise DataError(f"'{directory}': {name} has elements outside its {entries.shape}")
                spin = np.stack([spin_of[rows], spin_of[columns]], axis=1) if spins == 2 else None
                spool.add(Elements(images[image], orbital_of[rows], orbital_of[columns], values, spin))
            spools.append(spool)
    users = users_structure(structure, order)
    info = replace(info, atom_order=None)
    name = str(directory)
    return system_of(users, info, spools[0], spools[1], convention="deeph", name=name, cutoff=cutoff, scratch=scratch)


def _meaning_of_rows(orbitals: np.ndarray, order: np.ndarray, spins: int) -> tuple[np.ndarray, np.ndarray]:
    """Spin and orbital, counted over the atoms in the user's order, of every row."""
    sizes = spins * orbitals
    atom = np.repeat(np.arange(len(orbitals)), sizes)
    within = np.arange(len(atom)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    users = orbitals[np.argsort(order)]
    first = np.cumsum(users) - users
    spin, orbital = np.divmod(within, orbitals[atom])
    return spin, first[order[atom]] + orbital
