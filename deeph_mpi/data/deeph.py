"""The DeepH layout: one directory per structure with POSCAR, info.json, overlap.h5 and hamiltonian.h5."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.blockfile import BlockFile, check_spin, new_tables
from deeph_mpi.data.geometry import bond_lengths, read_geometry, users_structure, write_geometry
from deeph_mpi.data.hermitian import name_pair, symmetrize
from deeph_mpi.data.info import DeephInfo
from deeph_mpi.data.mapped import empty_blocks, pieces_of
from deeph_mpi.data.ragged import block_order, gather_entries, sort_blocks, spread
from deeph_mpi.data.unfinished import unfinished
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = [
    "DeephInfo",
    "DeephSystem",
    "check_same_pairs",
    "in_users_order",
    "read_system",
    "system_from_files",
    "write_system",
]


@dataclass(frozen=True)
class DeephSystem:
    """A structure with its matrices, whole on one process.

    Attributes:
        structure: atoms in the order that `overlap` and `hamiltonian` index.
        info: metadata.
        overlap: S, blocks in the order (i, j, R); real, also for spinors.
        hamiltonian: H in eV, the same pairs as S; blocks (2 n_i, 2 n_j) complex for spinors. None when not read.
    """

    structure: Structure
    info: DeephInfo
    overlap: BlockSet
    hamiltonian: BlockSet | None = None


def read_system(
    directory: str | os.PathLike[str], *, hamiltonian: bool = True, scratch: Path | None = None
) -> DeephSystem:
    """Read and check a whole directory on this process, in the order of its POSCAR. Not collective.

    H and S come back Hermitian to the bit (see `symmetrize`), with the file's dtype. H and S must hold the same pairs:
    a block missing from one of them could be a zero or a truncated file, and the reader does not guess. (The converters
    complete what codes drop below their print thresholds.)

    Args:
        directory: in the DeepH layout, also as written by several ranks.
        hamiltonian: read `hamiltonian.h5` too; else only the overlap.
        scratch: folder for unnamed files that hold the blocks; memory by default.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    directory = Path(directory)

    def matrix(name: str) -> BlockFile:
        return BlockFile.open(directory / f"{name}.h5")

    return system_from_files(directory, matrix, hamiltonian=hamiltonian, scratch=scratch)


def system_from_files(
    directory: Path, open_matrix: Callable[[str], BlockFile], *, hamiltonian: bool = True, scratch: Path | None = None
) -> DeephSystem:
    """`read_system` with the geometry of a folder and matrices from anywhere.

    Args:
        directory: with POSCAR and info.json.
        open_matrix: opens "overlap" or "hamiltonian".
        hamiltonian, scratch: see `read_system`.
    """
    structure, info = read_geometry(directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    overlap = _read_blocks(open_matrix("overlap"), orbitals, False, scratch)
    if not hamiltonian:
        return DeephSystem(structure, info, overlap)
    matrix = _read_blocks(open_matrix("hamiltonian"), orbitals, info.spinful, scratch)
    check_same_pairs(matrix, overlap, str(directory))
    return DeephSystem(structure, info, overlap, matrix)


def write_system(
    directory: str | os.PathLike[str],
    system: DeephSystem,
    dtype: np.dtype | type | str | None = None,
    *,
    compress: bool = False,
) -> None:
    """Write a directory in the DeepH layout; it appears under its name only when complete. Not collective.

    Atoms are grouped by element as the layout wants; where that moves atoms, info.json keeps the order (`atom_order`)
    and `in_users_order` restores it.

    Args:
        directory: made when absent; other files in it stay.
        system: H and S index the atoms of its structure. A few MB at a time are in memory beside them.
        dtype: of the entries, float32 or float64 (complex128 for a spinful H in either case); as they are by default.
        compress: gzip with byte shuffle, blocks ordered by bond length: like magnitudes lie together, and the files are
            a third smaller.

    Raises:
        DataError: an element without orbitals, or blocks whose size contradicts the orbital map.
    """
    with unfinished(Path(directory)) as place:
        _write(place, system, dtype, compress)


def _write(directory: Path, system: DeephSystem, dtype: np.dtype | type | str | None, compress: bool) -> None:
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    order = write_geometry(directory, system.structure, system.info.orbital_map, system.info)
    file_index = np.argsort(order)
    for name, blocks, spins in (("overlap", system.overlap, 1), ("hamiltonian", system.hamiltonian, 2)):
        if blocks is None:
            continue
        sizes = orbitals * (spins if system.info.spinful else 1)
        if (np.diff(blocks.offsets) != sizes[blocks.pairs[:, 3:]].prod(axis=1)).any():
            raise DataError(f"the {name} blocks do not have the sizes that the orbital map gives")
        pairs = blocks.pairs.copy()
        pairs[:, 3:] = file_index[pairs[:, 3:]]
        sequence = block_order(pairs)
        if compress:
            lengths = bond_lengths(system.structure, blocks.pairs)
            # partners, equal up to rounding, stay neighbours
            sequence = sequence[np.argsort(np.round(lengths[sequence], 9), kind="stable")]
        kind = blocks.entries.dtype if dtype is None or blocks.entries.dtype.kind == "c" else np.dtype(dtype)
        with new_tables(directory / f"{name}.h5", pairs[sequence], sizes[order], kind, compress) as entries:
            start = 0
            for part in pieces_of(np.diff(blocks.offsets)[sequence]):
                values = gather_entries(blocks, sequence[part])
                entries[start : start + len(values)] = values.astype(kind, copy=False)
                start += len(values)
                blocks.release()


def in_users_order(system: DeephSystem) -> DeephSystem:
    """Undo the grouping by element: atoms in the order the user gave them (`atom_order`)."""
    order = system.info.atom_order
    if order is None:
        return system
    structure = users_structure(system.structure, order)

    def restored(blocks: BlockSet) -> BlockSet:
        pairs = blocks.pairs.copy()
        pairs[:, 3:] = order[pairs[:, 3:]]
        return sort_blocks(BlockSet(pairs, blocks.offsets, blocks.entries))

    matrix = None if system.hamiltonian is None else restored(system.hamiltonian)
    return DeephSystem(structure, replace(system.info, atom_order=None), restored(system.overlap), matrix)


def check_same_pairs(hamiltonian: BlockSet, overlap: BlockSet, name: str) -> None:
    """Refuse H and S, both sorted and of the same rows, that hold different pairs.

    Raises:
        DataError: with the numbers and the first pair that one of them lacks.
    """
    if np.array_equal(hamiltonian.pairs, overlap.pairs):
        return
    h_pairs, s_pairs = (set(map(tuple, blocks.pairs.tolist())) for blocks in (hamiltonian, overlap))
    only_h, only_s = sorted(h_pairs - s_pairs), sorted(s_pairs - h_pairs)
    example = np.array((only_h or only_s)[0])
    lacking = "overlap.h5" if only_h else "hamiltonian.h5"
    raise DataError(
        f"'{name}': H and S hold different pairs ({len(only_h)} only in H, {len(only_s)} only in S; {lacking} lacks "
        f"{name_pair(example)}); write both with the same pairs, zero blocks included"
    )


def _read_blocks(opened: BlockFile, orbitals: np.ndarray, spinful: bool, scratch: Path | None) -> BlockSet:
    sizes = orbitals * (2 if spinful else 1)
    with opened as file:
        check_spin(file.dtype, spinful, file.path)
        pairs, bounds = file.tables(0, file.count, sizes)
        lengths = np.diff(bounds)
        order = block_order(pairs)
        blocks = empty_blocks(pairs[order], sizes, file.dtype, scratch)
        starts = np.empty_like(lengths)
        starts[order] = blocks.offsets[:-1]
        for part in pieces_of(lengths):
            piece = file.read(part.start, part.stop, sizes)
            blocks.entries[spread(starts[part], lengths[part])] = piece.entries
            blocks.release()
    symmetrize(blocks, sizes, str(opened.path))
    return blocks
