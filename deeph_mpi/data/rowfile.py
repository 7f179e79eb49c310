"""A matrix that is computed straight into its file: each rank's rows are a mapped part of its shard.

The kernel writes pages out as it sees fit, so that rows may exceed the memory. Space is reserved before anything is computed:
a full disk is an error then, not a crash later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.info import read_info
from deeph_mpi.data.mapped import release
from deeph_mpi.errors import DataError
from deeph_mpi.parallel import World

__all__ = ["RowFile", "check_overwritable", "has_rows", "write_rows"]

_BLOCKS = 1 << 20  # rows of the tables that are worked on at a time
_ENTRIES = 1 << 22  # that are copied at a time
_WRITES = 16  # between two releases of memory


@dataclass
class _MappedBlocks(BlockSet):
    """Blocks in a file."""

    mapping: np.memmap | None = None
    writes: int = 0

    def release(self) -> None:
        """Take written entries out of this process' memory; the kernel keeps them until they are on disk."""
        self.writes += 1
        if self.writes % _WRITES == 0:
            for part in (self.mapping, self.offsets):
                release(part)


class RowFile:
    """`NAME.h5` of a DeepH-layout directory in the making: `blocks` are to be filled in, then `finish` makes it a file.

    Rank r writes `shards/NAME.RRRR.h5`; rank 0 joins them by an HDF5 virtual dataset `NAME.h5` with relative paths, so
    the folder can be moved as a whole. Files get their names only when all are complete. POSCAR and info.json
    (`write_geometry`) must be there already: when they group atoms by element, the blocks are renumbered to match.

    Attributes:
        blocks: this rank's, zero at first; atoms in the user's order until `finish`.
    """

    def __init__(
        self,
        world: World,
        directory: str | os.PathLike[str],
        name: str,
        count: int,
        fill_pairs: Callable[[np.ndarray], object],
        sizes: np.ndarray,
        dtype: np.dtype | type,
    ) -> None:
        """Reserve the space. Collective.

        Args:
            world: all ranks that share the matrix; each block is held by exactly one.
            directory: shared by all ranks.
            name: "overlap" or "hamiltonian".
            count: blocks of this rank, possibly none.
            fill_pairs: writes their `BlockSet.pairs` into an array (count, 5) int64.
            sizes: (N,) rows of every atom's blocks, in the user's order.
            dtype: of the entries.

        Raises:
            DataError: on all ranks, when info.json is missing or fits another number of atoms.
            DeephError: on all ranks, when a file cannot be made: no permission, no space.
        """
        self.world, self.directory, self.name = world, Path(directory), name
        self._order = world.on_root(_file_order, self.directory, len(sizes))
        world.on_root(_clear, self.directory, name)
        self._shard = self.directory / "shards" / f"{name}.{world.rank:04d}.h5"
        self._temporary = self._shard.with_name(self._shard.name + ".tmp")
        with world.together():
            self._temporary.unlink(missing_ok=True)
            shapes = {"atom_pairs": (count, 5), "chunk_boundaries": (count + 1,), "chunk_shapes": (count, 2)}
            pairs, offsets, self._shapes = (self._map(key, shape, np.int64) for key, shape in shapes.items())
            fill_pairs(pairs)
            total = 0
            for start in range(0, count, _BLOCKS):
                part = slice(start, min(start + _BLOCKS, count))
                self._shapes[part] = sizes[pairs[part, 3:]]
                ends = total + np.cumsum(self._shapes[part].prod(axis=1))
                offsets[part.start + 1 : part.stop + 1] = ends
                total = int(ends[-1])
            entries = self._map("entries", (total,), np.dtype(dtype))
        for table in (pairs, offsets, self._shapes):
            release(table)
        mapping = entries if isinstance(entries, np.memmap) else None
        self.blocks: BlockSet = _MappedBlocks(np.asarray(pairs), np.asarray(offsets), np.asarray(entries), mapping)

    def _map(self, key: str, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """A new dataset, zero, on disk space that is there, as an array."""
        try:
            with h5py.File(self._temporary, "a") as file:
                properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                properties.set_layout(h5py.h5d.CONTIGUOUS)
                properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
                dataset = h5py.h5d.create(file.id, key.encode(), kind, h5py.h5s.create_simple(shape), properties)
                offset = dataset.get_offset()
        except RuntimeError as error:  # HDF5's, when a file cannot be closed
            raise DataError(f"'{self._temporary}' cannot be written (is the disk full?): {error}") from None
        if not np.prod(shape):
            return np.zeros(shape, dtype=dtype)
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._temporary.open("r+b") as raw:
            os.posix_fallocate(raw.fileno(), offset, length)
        return np.memmap(self._temporary, dtype, "r+", offset, shape)

    def finish(self, origin: str = "") -> None:
        """Give the files their names; `blocks` must not be used afterwards. Collective.

        Args:
            origin: a text to know them by, see `has_rows`.
        """
        world, blocks = self.world, self.blocks
        dtype = blocks.entries.dtype
        counts = np.array(world.comm.allgather((len(blocks), len(blocks.entries))), dtype=np.int64).reshape(-1, 2)
        before = int(counts[: world.rank, 1].sum())
        place = None if self._order is None else np.argsort(self._order)
        for start in range(0, len(blocks) + 1, _BLOCKS):
            part = slice(start, start + _BLOCKS)
            # boundaries count from the start of the joined file: a virtual dataset cannot add an offset
            blocks.offsets[part] += before
            if place is not None:
                blocks.pairs[part, 3:] = place[blocks.pairs[part, 3:]]
        with world.together():
            if not len(blocks):  # an empty dataset has no place in the file that could be mapped
                with h5py.File(self._temporary, "a") as file:
                    file["chunk_boundaries"][...] = before
            del self.blocks, self._shapes, blocks
            self._temporary.replace(self._shard)
        world.on_root(_join, self.directory, self.name, counts, dtype, origin)


def write_rows(
    world: World,
    directory: str | os.PathLike[str],
    name: str,
    blocks: BlockSet,
    orbitals: np.ndarray,
    spinful: bool = False,
    origin: str = "",
) -> None:
    """Write blocks that every rank holds, see `RowFile`. Collective.

    Args:
        blocks: of this rank, possibly none; atoms in the user's order, as in the structure given to `write_geometry`.
        orbitals: (N,) orbitals of every atom, without spin, in the same order.
        spinful: whether these blocks are (2 n_i, 2 n_j).
        origin: a text to know them by, see `has_rows`.
    """
    sizes = np.asarray(orbitals, dtype=np.int64) * (2 if spinful else 1)

    def fill(pairs: np.ndarray) -> None:
        pairs[...] = blocks.pairs

    file = RowFile(world, directory, name, len(blocks), fill, sizes, blocks.entries.dtype)
    for start in range(0, len(blocks.entries), _ENTRIES):
        file.blocks.entries[start : start + _ENTRIES] = blocks.entries[start : start + _ENTRIES]
        for part in (file.blocks.entries, blocks.entries):
            release(part)
    file.finish(origin)


def _file_order(directory: Path, atoms: int) -> np.ndarray | None:
    info = read_info(directory)
    if info.atom_order is not None and len(info.atom_order) != atoms:
        raise DataError(f"'{directory}' describes {len(info.atom_order)} atoms, the matrix {atoms}")
    return info.atom_order


def check_overwritable(directory: Path) -> None:
    """Refuse a directory that holds matrices of another origin, before any work is done. Not collective.

    Raises:
        DataError: when one of its matrices is not a joined file of shards, as `RowFile` makes them.
    """
    for name in ("hamiltonian", "overlap"):
        path = directory / f"{name}.h5"
        if not path.exists():
            continue
        try:
            with h5py.File(path) as file:
                ours = bool(file["entries"].is_virtual)
        except (OSError, KeyError):
            ours = False
        if not ours:
            raise DataError(f"'{path}' was not written by infer and would be lost: choose another output.directory")


def _clear(directory: Path, name: str) -> None:
    """Remove what an earlier run, perhaps on more ranks, left: a joined file must never point to newer shards."""
    (directory / f"{name}.h5").unlink(missing_ok=True)
    (directory / "shards").mkdir(parents=True, exist_ok=True)
    for shard in (directory / "shards").glob(f"{name}.*.h5"):
        shard.unlink()


def has_rows(directory: Path, origin: str) -> bool:
    """Whether H and S of this origin are there, complete with all shards. Not collective."""
    for name in ("hamiltonian", "overlap"):
        try:
            with BlockFile.open(directory / f"{name}.h5") as file:
                if file.file.attrs.get("origin") != origin:
                    return False
        except DataError:
            return False
    return True


def _join(directory: Path, name: str, counts: np.ndarray, dtype: np.dtype, origin: str) -> None:
    """Write the virtual dataset over shards that hold `counts` (size, 2) blocks and entries."""
    blocks, entries = (int(total) for total in counts.sum(axis=0))
    layouts = {
        "atom_pairs": h5py.VirtualLayout((blocks, 5), np.int64),
        "chunk_shapes": h5py.VirtualLayout((blocks, 2), np.int64),
        "chunk_boundaries": h5py.VirtualLayout((blocks + 1,), np.int64),
        "entries": h5py.VirtualLayout((entries,), dtype),
    }
    last = len(counts) - 1
    start = np.zeros(2, dtype=np.int64)
    for rank, held in enumerate(counts):
        path = f"shards/{name}.{rank:04d}.h5"
        lengths = {"atom_pairs": held[0], "chunk_shapes": held[0], "entries": held[1]}
        lengths["chunk_boundaries"] = held[0] + (rank == last)  # the closing boundary comes from the last shard
        for dataset, length in lengths.items():
            if length == 0:
                continue
            layout = layouts[dataset]
            shape = (int(held[0]) + 1,) if dataset == "chunk_boundaries" else (int(length), *layout.shape[1:])
            first = int(start[1 if dataset == "entries" else 0])
            source = h5py.VirtualSource(path, dataset, shape=shape)
            layout[first : first + int(length)] = source[: int(length)]
        start += held
    temporary = directory / f"{name}.h5.tmp"
    with h5py.File(temporary, "w") as file:
        file.attrs["origin"] = origin
        for dataset, layout in layouts.items():
            file.create_virtual_dataset(dataset, layout)
    temporary.replace(directory / f"{name}.h5")
