"""Arrays in unnamed files: what may not fit the memory. The kernel writes pages out as it sees fit."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet

__all__ = ["MappedBlocks", "empty_blocks", "mapped", "pieces_of", "release", "scratch_for"]

_PIECE = 2**17  # entries worked on at a time: each may touch a page of its own


class MappedBlocks(BlockSet):
    """Blocks whose entries are in a file."""

    def release(self) -> None:
        """Take the entries out of this process' memory; the kernel keeps them."""
        release(self.entries)


def mapped(directory: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """A zero array in a file of `directory` without a name, which vanishes with the array.

    Raises:
        OSError: when the space is not there: a full disk is an error now, not a crash later.
    """
    length = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not length:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, length)
        return np.memmap(file, dtype, "r+", 0, shape)


def release(array: np.ndarray | None) -> None:
    """Take a mapped file out of this process' memory; what was written stays with the kernel. Nothing for other arrays."""
    base = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    if isinstance(base, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        base._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def empty_blocks(pairs: np.ndarray, sizes: np.ndarray, dtype: np.dtype | type, scratch: Path | None) -> BlockSet:
    """Zero blocks for `pairs` (n, 5), given the rows of every atom (N,): in memory, or in a file of the folder `scratch`."""
    if scratch is None:
        return BlockSet.allocate(pairs, sizes, dtype)
    offsets = np.concatenate([[0], np.cumsum(sizes[pairs[:, 3]] * sizes[pairs[:, 4]])]).astype(np.int64)
    return MappedBlocks(
        np.ascontiguousarray(pairs, dtype=np.int64), offsets, mapped(scratch, (int(offsets[-1]),), dtype)
    )


def pieces_of(lengths: np.ndarray) -> list[slice]:
    """Consecutive blocks of `lengths` (n,) entries, divided into pieces of some hundred thousand entries."""
    ends = np.cumsum(lengths)
    turns = int(ends[-1]) // _PIECE + 1 if len(ends) else 0
    cuts = np.unique(np.searchsorted(ends, _PIECE * np.arange(1, max(turns, 1)), side="left") + 1)
    bounds = [0, *(int(cut) for cut in cuts if cut < len(lengths)), len(lengths)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]


def scratch_for(target: Path) -> Path:
    """The folder nearest above `target` that exists: on the disk where the result will be."""
    place = target.resolve()
    while not place.is_dir():
        place = place.parent
    return place
