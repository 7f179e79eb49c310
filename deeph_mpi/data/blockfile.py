"""`overlap.h5` and `hamiltonian.h5` of the DeepH layout: reading checked pieces of the tables, writing whole ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.results.wholefile import new_file

__all__ = ["CHUNK", "BlockFile", "check_spin", "new_tables"]

CHUNK = 2**20  # rows that are compressed as one, and so are read as one
_DATASETS = ("atom_pairs", "chunk_boundaries", "chunk_shapes", "entries")


@dataclass(frozen=True)
class BlockFile:
    """An open file of blocks whose header (datasets, types, lengths) has been checked.

    Attributes:
        path: of the file.
        file: the open h5py file, or a group of one.
        count: number of blocks N.
        dtype: of the entries: float32, float64 or complex128.
    """

    path: Path
    file: h5py.Group
    count: int
    dtype: np.dtype

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> BlockFile:
        """Open for reading. Not collective; any number of processes may open the same file.

        Raises:
            DataError: missing, truncated or not HDF5; a dataset missing, of wrong type or length; a missing shard.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"file '{path}' does not exist")
        try:
            # read-only file systems refuse locks; compressed entries are read a part of a chunk at a time
            file = h5py.File(path, "r", locking=False, rdcc_nbytes=32 * CHUNK)
        except OSError as error:
            raise DataError(f"cannot read '{path}': not an HDF5 file, or truncated ({error})") from None
        try:
            return cls(path, file, *_check_header(path, file))
        except DataError:
            file.close()
            raise

    @classmethod
    def of_group(cls, path: Path, group: Any) -> BlockFile:
        """The same of a group in a larger file, which stays open; `path` is what messages call it.

        Raises:
            DataError: as `open`; also when there is no group.
        """
        if not isinstance(group, h5py.Group):
            raise DataError(f"'{path}' does not exist")
        return cls(path, group, *_check_header(path, group))

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.file, h5py.File):
            self.file.close()

    def read(self, start: int, stop: int, sizes: np.ndarray) -> BlockSet:
        """Read and check blocks start…stop.

        Args:
            start: first block.
            stop: one past the last.
            sizes: (N,) rows of every atom in this matrix (doubled for spinors).

        Raises:
            DataError: unreadable data, atom indices out of range, shapes that contradict `sizes`, boundaries that
                contradict the shapes or the number of entries, or entries that are not finite.
        """
        pairs, bounds = self.tables(start, stop, sizes)
        with reading(self.path, f"blocks {start}…{stop}"):
            entries = self.file["entries"][bounds[0] : bounds[-1]]
        finite = np.isfinite(entries)
        if not finite.all():
            block = int(np.searchsorted(bounds - bounds[0], np.argmin(finite), side="right")) - 1
            raise DataError(f"'{self.path}': {_name(start + block, pairs[block])} has entries that are not finite")
        return BlockSet(pairs, bounds - bounds[0], entries)

    def tables(self, start: int, stop: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs (n, 5) of blocks start…stop, and where their entries start (n + 1,) in the file; see `read`."""
        with reading(self.path, f"blocks {start}…{stop}"):
            pairs = self.file["atom_pairs"][start:stop].astype(np.int64)
            shapes = self.file["chunk_shapes"][start:stop].astype(np.int64)
            bounds = self.file["chunk_boundaries"][start : stop + 1].astype(np.int64)
            self._check_tables(start, pairs, shapes, bounds, sizes, self.file["entries"].shape[0])
        return pairs, bounds

    def _check_tables(
        self, start: int, pairs: np.ndarray, shapes: np.ndarray, bounds: np.ndarray, sizes: np.ndarray, total: int
    ) -> None:
        atoms = len(sizes)
        outside = ((pairs[:, 3:] < 0) | (pairs[:, 3:] >= atoms)).any(axis=1)
        if outside.any():
            block = int(np.argmax(outside))
            raise DataError(
                f"'{self.path}': {_name(start + block, pairs[block])} has an atom outside 0…{atoms - 1} "
                f"(POSCAR has {atoms} atoms, counted from 0)"
            )
        expected = sizes[pairs[:, 3:]]
        wrong = (shapes != expected).any(axis=1)
        if wrong.any():
            block = int(np.argmax(wrong))
            raise DataError(
                f"'{self.path}': {_name(start + block, pairs[block])} has shape {tuple(shapes[block].tolist())}, but "
                f"elements_orbital_map and spinful of info.json give {tuple(expected[block].tolist())}"
            )
        misplaced = np.diff(bounds) != expected.prod(axis=1)
        if misplaced.any():
            block = int(np.argmax(misplaced))
            raise DataError(
                f"'{self.path}': chunk_boundaries of {_name(start + block, pairs[block])} enclose "
                f"{int(bounds[block + 1] - bounds[block])} entries, its shape {int(expected[block].prod())}"
            )
        if start == 0 and bounds[0] != 0:
            raise DataError(f"'{self.path}': chunk_boundaries start at {int(bounds[0])}, not at 0")
        if (start + len(pairs) == self.count and bounds[-1] != total) or bounds[-1] > total:
            raise DataError(f"'{self.path}': chunk_boundaries end at {int(bounds[-1])}, but there are {total} entries")


def check_spin(dtype: np.dtype, spinful: bool, path: Path) -> None:
    """Refuse entries whose type contradicts `spinful`.

    Raises:
        DataError: real entries for spinors, or complex ones without spin.
    """
    if spinful != (dtype.kind == "c"):
        wanted = "complex128 (info.json says spinful)" if spinful else "real (info.json says not spinful)"
        raise DataError(f"'{path}': entries are {dtype}, but should be {wanted}")


@contextmanager
def new_tables(
    path: Path, pairs: np.ndarray, sizes: np.ndarray, dtype: np.dtype, compress: bool
) -> Iterator[h5py.Dataset]:
    """Write a file with the tables of blocks `pairs` (n, 5), given rows per atom `sizes` (N,); its space is reserved.

    Yields:
        The entries, to be filled in, piece by piece in the order of the pairs.

    Raises:
        DeephError: there is no space.
    """
    shapes = sizes[pairs[:, 3:]]
    boundaries = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
    total = int(boundaries[-1])
    # a cache of several chunks, or every piece would be compressed again with its neighbour
    with new_file(path, 8 * (8 * len(pairs) + 1) + total * dtype.itemsize, 4 * CHUNK * dtype.itemsize) as file:
        for name, values in zip(_DATASETS, (pairs, boundaries, shapes), strict=False):
            file.create_dataset(name, data=np.ascontiguousarray(values, np.int64), **_storage(values.shape, compress))
        yield file.create_dataset("entries", shape=(total,), dtype=dtype, **_storage((total,), compress))


def _storage(shape: tuple[int, ...], compress: bool) -> dict[str, Any]:
    if not compress or not shape[0]:
        return {}
    chunk = (min(shape[0], CHUNK), *shape[1:])
    return {"compression": "gzip", "compression_opts": 9, "shuffle": True, "chunks": chunk}


def _check_header(path: Path, file: h5py.Group) -> tuple[int, np.dtype]:
    with reading(path):
        return _header_of(path, file)


def _header_of(path: Path, file: h5py.Group) -> tuple[int, np.dtype]:
    missing = [name for name in _DATASETS if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(f"'{path}' lacks {', '.join(missing)} (it holds: {', '.join(file) or 'nothing'})")
    count = file["atom_pairs"].shape[0] if file["atom_pairs"].ndim else 0
    lengths = {"atom_pairs": (count, 5), "chunk_boundaries": (count + 1,), "chunk_shapes": (count, 2)}
    for name, shape in lengths.items():
        if file[name].shape != shape:
            raise DataError(f"'{path}': {name} has shape {file[name].shape}, should have {shape}")
        if file[name].dtype.kind not in "iu":
            raise DataError(f"'{path}': {name} is {file[name].dtype}, should be an integer type")
    if count == 0:
        raise DataError(f"'{path}' holds no blocks")
    if file["entries"].ndim != 1:
        raise DataError(f"'{path}': entries has {file['entries'].ndim} dimensions, should have 1")
    dtype = file["entries"].dtype
    if dtype not in (np.float32, np.float64, np.complex128):
        raise DataError(f"'{path}': entries is {dtype}, should be float32, float64 or complex128")
    for name in _DATASETS:
        for source in file[name].virtual_sources() if file[name].is_virtual else ():
            # HDF5 would return fill values for a missing source without a word
            if not (path.parent / source.file_name).is_file():
                raise DataError(f"'{path}' joins shards, and '{source.file_name}' is missing; copy the whole folder")
    return count, dtype.newbyteorder("=")


def _name(block: int, pair: np.ndarray) -> str:
    return f"block {block} (R = {pair[:3].tolist()}, i = {pair[3]}, j = {pair[4]})"
