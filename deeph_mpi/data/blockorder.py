"""Whole blocks of a code brought to our orbitals: for formats that hold blocks, in less memory than `elements` needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.conventions import orbital_change
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.geometry import bond_lengths
from deeph_mpi.data.hermitian import symmetrize
from deeph_mpi.data.mapped import empty_blocks, pieces_of
from deeph_mpi.data.ragged import block_order
from deeph_mpi.errors import DataError
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["BlockReader", "reorder", "system_of_blocks"]

_PIECE = 2**17  # entries that are worked on at a time


@dataclass(frozen=True)
class BlockReader:
    """Blocks in a code's file.

    Attributes:
        dtype: of the entries.
        read: (m,) indices of blocks → their entries, one after the other.
    """

    dtype: np.dtype
    read: Callable[[np.ndarray], np.ndarray]


def system_of_blocks(
    structure: Structure,
    info: DeephInfo,
    pairs: np.ndarray,
    overlap: BlockReader,
    hamiltonian: BlockReader,
    *,
    convention: str,
    name: str,
    cutoff: float | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """The system of a code's blocks: our orbitals, sorted, Hermitian to the bit. Not collective.

    Args:
        structure: atoms in the code's order; images count from these positions.
        info: with the shells in the code's order.
        pairs: (n, 5) of the blocks in both matrices.
        overlap: S.
        hamiltonian: H in eV; (2 n_i, 2 n_j) complex for spinors.
        convention: name of the code's order and signs (`deeph_mpi.basis.conventions`).
        name: of the source, for messages.
        cutoff: keep pairs up to this distance, Å; all by default.
        scratch: folder for unnamed files that hold the blocks; memory by default.

    Raises:
        DataError: an order that is not known, a pair without partner, or a matrix far from Hermitian.
    """
    check_structure(structure, name)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    chosen = block_order(pairs)
    if cutoff is not None:
        chosen = chosen[bond_lengths(structure, pairs[chosen]) <= cutoff]
    made = []
    for reader, part, spins in ((overlap, "S", 1), (hamiltonian, "H", 2 if info.spinful else 1)):
        blocks = empty_blocks(pairs[chosen], orbitals * spins, reader.dtype, scratch)
        for piece in pieces_of(np.diff(blocks.offsets)):
            values = reader.read(chosen[piece])
            if not np.isfinite(values).all():
                raise DataError(f"'{name}': {part} has elements that are not finite")
            blocks.entries[blocks.offsets[piece.start] : blocks.offsets[piece.stop]] = values
            blocks.release()
        reorder(blocks, convention, info, structure.numbers, spins)
        symmetrize(blocks, orbitals * spins, f"{name}: {part}")
        made.append(blocks)
    return DeephSystem(structure, info, made[0], made[1])


def reorder(blocks: BlockSet, convention: str, info: DeephInfo, numbers: np.ndarray, spins: int = 1) -> None:
    """Bring the orbitals of every block from the convention's order and signs to ours, in place.

    Args:
        numbers: (N,) atomic numbers.
        spins: 2 for spinor blocks [[↑↑, ↑↓], [↓↑, ↓↓]].

    Raises:
        DataError: an l whose order is not known.
    """
    changes = {}
    for number in np.unique(numbers).tolist():
        order, sign = orbital_change(convention, info.orbital_map, number)
        doubled = np.concatenate([order + spin * len(order) for spin in range(spins)])
        changes[number] = doubled, np.tile(sign, spins)
    kinds = numbers[blocks.pairs[:, 3]] * 1000 + numbers[blocks.pairs[:, 4]]
    for kind in np.unique(kinds).tolist():
        (rows, row_signs), (columns, column_signs) = changes[kind // 1000], changes[kind % 1000]
        signs = row_signs[:, None] * column_signs
        members = np.flatnonzero(kinds == kind)
        for piece in np.array_split(members, len(members) * signs.size // _PIECE + 1):
            where = blocks.offsets[piece, None] + np.arange(signs.size)
            theirs = blocks.entries[where].reshape(-1, *signs.shape)
            blocks.entries[where] = (theirs[:, rows][:, :, columns] * signs).reshape(len(piece), -1)
            blocks.release()
