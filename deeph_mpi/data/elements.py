"""From the elements that a code prints to blocks of the DeepH layout: what all converters share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.conventions import orbital_change
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.geometry import bond_lengths
from deeph_mpi.data.hermitian import image_reach, symmetrize
from deeph_mpi.data.mapped import empty_blocks
from deeph_mpi.data.ragged import find, pair_keys, reversed_pairs
from deeph_mpi.errors import DataError
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["PIECE", "ElementSource", "Elements", "blocks_of", "pairs_of", "system_of"]

PIECE = 2**17  # elements worked on at a time


@dataclass
class Elements:
    """Non-zero elements ⟨row in cell 0| A |column in cell R⟩.

    Attributes:
        images: (n, 3) R of the column.
        rows: (n,) orbital, counted from 0 over all atoms in their order.
        columns: (n,) likewise.
        values: (n,) real, or complex for spinors.
        spins: (n, 2) spin of row and column, 0 (up) or 1 (down); None for a matrix without spin.
    """

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    spins: np.ndarray | None = None

    @classmethod
    def join(cls, parts: list[Elements]) -> Elements:
        """All elements of several parts, all with spins or none."""
        spins = [part.spins for part in parts if part.spins is not None]
        images, rows, columns, values = (
            np.concatenate([getattr(part, key) for part in parts]) for key in ("images", "rows", "columns", "values")
        )
        return cls(images, rows, columns, values, np.concatenate(spins) if spins else None)

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def spinful(self) -> bool:
        """Whether they have spins."""
        return self.spins is not None

    def pieces(self) -> Iterator[Elements]:
        """Pieces to work on one after the other: temporaries then stay small beside the elements."""
        for start in range(0, len(self.rows), PIECE):
            yield self.take(slice(start, start + PIECE))

    def take(self, part: slice | np.ndarray) -> Elements:
        """Some of them."""
        spins = None if self.spins is None else self.spins[part]
        return Elements(self.images[part], self.rows[part], self.columns[part], self.values[part], spins)


class ElementSource(Protocol):
    """Elements over all images, in memory (`Elements`) or in files (`deeph_mpi.data.spool.Spool`)."""

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""

    @property
    def spinful(self) -> bool:
        """Whether they have spins."""

    def pieces(self) -> Iterator[Elements]:
        """All of them, some hundred thousand at a time; any number of times."""


def system_of(
    structure: Structure,
    info: DeephInfo,
    overlap: ElementSource,
    hamiltonian: ElementSource,
    *,
    convention: str,
    name: str,
    cutoff: float | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """The system of a code's elements: our orbitals, H and S on the same pairs, Hermitian to the bit. Not collective.

    Args:
        structure: atoms in the code's order; images count from these positions.
        info: with the shells in the code's order.
        overlap: S, without spin.
        hamiltonian: H in eV; with spins when `info.spinful`.
        convention: name of the code's order and signs (`deeph_mpi.basis.conventions`).
        name: of the source, for messages.
        cutoff: keep pairs up to this distance, Å; all by default.
        scratch: folder for unnamed files that hold the blocks; memory by default.

    Raises:
        DataError: elements outside the atoms' orbitals, an order that is not known, or a matrix far from Hermitian.
    """
    check_structure(structure, name)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    change = _change(convention, info.orbital_map, structure.numbers)
    pairs = pairs_of(structure, orbitals, (hamiltonian, overlap), cutoff, name)
    blocks = []
    for elements, part, spins in ((overlap, "S", 1), (hamiltonian, "H", 2 if info.spinful else 1)):
        made = blocks_of(elements, pairs, orbitals, change, scratch)
        symmetrize(made, orbitals * spins, f"{name}: {part}")
        blocks.append(made)
    return DeephSystem(structure, info, blocks[0], blocks[1])


def _change(convention: str, orbital_map: OrbitalMap, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Our index and the sign of every orbital of a code.

    Raises:
        DataError: an l whose order is not known.
    """
    orbitals = orbital_map.orbitals(numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    ours = np.empty(first[-1], dtype=np.int64)
    sign = np.empty(first[-1], dtype=np.int64)
    for number in np.unique(numbers).tolist():
        order, signs = orbital_change(convention, orbital_map, number)
        theirs = first[:-1][numbers == number, None] + order
        ours[theirs] = first[:-1][numbers == number, None] + np.arange(len(order))
        sign[theirs] = signs
    return ours, sign


def pairs_of(
    structure: Structure, orbitals: np.ndarray, matrices: tuple[ElementSource, ...], cutoff: float | None, name: str
) -> np.ndarray:
    """(n, 5) all pairs that any matrix has within the cutoff, their Hermitian partners, and the onsite ones; sorted.

    Args:
        structure: of which `orbitals` (N,) are every atom's.
        matrices: any number of them.
        cutoff: in Å; None for all.
        name: of the source, for messages.

    Raises:
        DataError: elements outside the atoms' orbitals.
    """
    atoms, total = len(structure), int(orbitals.sum())
    atom_of = np.repeat(np.arange(atoms), orbitals)
    onsite = np.zeros((atoms, 5), dtype=np.int64)
    onsite[:, 3] = onsite[:, 4] = np.arange(atoms)
    tables = [onsite]
    for elements in matrices:
        for part in elements.pieces():
            if any(end.min(initial=0) < 0 or end.max(initial=0) >= total for end in (part.rows, part.columns)):
                raise DataError(
                    f"'{name}' has matrix elements of orbitals outside 0…{total - 1}, which the shells give"
                )
            ends = np.stack([atom_of[part.rows], atom_of[part.columns]], axis=1)
            tables.append(_distinct(np.concatenate([part.images, ends], axis=1), atoms, name))
    pairs = _distinct(np.concatenate(tables), atoms, name)
    if cutoff is not None:
        pairs = pairs[bond_lengths(structure, pairs) <= cutoff]
    return _distinct(np.concatenate([pairs, reversed_pairs(pairs)]), atoms, name)


def _distinct(pairs: np.ndarray, atoms: int, name: str) -> np.ndarray:
    """Every pair once, in the order (i, j, R)."""
    _, chosen = np.unique(pair_keys(pairs, atoms, image_reach(pairs), name), return_index=True)
    return pairs[chosen]


def blocks_of(
    elements: ElementSource,
    pairs: np.ndarray,
    orbitals: np.ndarray,
    change: tuple[np.ndarray, np.ndarray] | None = None,
    scratch: Path | None = None,
) -> BlockSet:
    """Blocks of sorted `pairs`; elements of other pairs are dropped, blocks without elements are zero.

    Args:
        elements: of the matrix.
        pairs: (n, 5) in the order (i, j, R).
        orbitals: (N,) of every atom.
        change: our index and the sign of every orbital; none when the orbitals are ours.
        scratch: folder for an unnamed file that holds the blocks; memory by default.
    """
    sizes = orbitals * (2 if elements.spinful else 1)
    atom_of = np.repeat(np.arange(len(orbitals)), orbitals)
    blocks = empty_blocks(pairs, sizes, elements.dtype, scratch)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    reach = image_reach(pairs)
    present = pair_keys(pairs, len(orbitals), reach)
    for part in elements.pieces():
        near = np.flatnonzero(np.abs(part.images).max(axis=1) <= reach)
        if len(near) < len(part.rows):
            part = part.take(near)
        row, column, values = part.rows, part.columns, part.values
        if change is not None:
            values = values * (change[1][row] * change[1][column])
            row, column = change[0][row], change[0][column]
        i, j = atom_of[row], atom_of[column]
        block = find(present, pair_keys(np.column_stack([part.images, i, j]), len(orbitals), reach))
        kept = block >= 0
        row, column = row - first[i], column - first[j]
        if part.spins is not None:
            row = row + part.spins[:, 0] * orbitals[i]
            column = column + part.spins[:, 1] * orbitals[j]
        within = row * sizes[j] + column
        blocks.entries[blocks.offsets[block[kept]] + within[kept]] = values[kept]
        blocks.release()
    return blocks
