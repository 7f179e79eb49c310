"""From the elements that a code prints to blocks of the DeepH layout: what all converters share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.conventions import orbital_change
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.hermitian import image_reach, symmetrize
from deeph_mpi.data.ragged import find, pair_keys, reversed_pairs, sort_blocks
from deeph_mpi.errors import DataError
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["Elements", "blocks_of", "pairs_of", "system_of"]

_PIECE = 2**20  # elements


@dataclass
class Elements:
    """Non-zero elements ⟨row in cell 0| A |column in cell R⟩ over all images.

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

    def parts(self) -> Iterator[slice]:
        """Pieces to work on one after the other: temporaries then stay small beside the elements."""
        for start in range(0, len(self.rows), _PIECE):
            yield slice(start, start + _PIECE)

    def reordered(self, convention: str, orbital_map: OrbitalMap, numbers: np.ndarray) -> Elements:
        """The same matrix between our orbitals; `rows` and `columns` counted in the convention's order.

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
        values = self.values.copy()
        for part in self.parts():
            values[part] *= sign[self.rows[part]] * sign[self.columns[part]]
        return Elements(self.images, ours[self.rows], ours[self.columns], values, self.spins)


def system_of(
    structure: Structure,
    info: DeephInfo,
    overlap: Elements,
    hamiltonian: Elements,
    *,
    convention: str,
    name: str,
    cutoff: float | None = None,
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

    Raises:
        DataError: elements outside the atoms' orbitals, an order that is not known, or a matrix far from Hermitian.
    """
    check_structure(structure, name)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    total = int(orbitals.sum())
    for elements in (overlap, hamiltonian):
        ends = (elements.rows, elements.columns)
        if any(len(end) and (end.min() < 0 or end.max() >= total) for end in ends):
            raise DataError(f"'{name}' has matrix elements of orbitals outside 0…{total - 1}, which the shells give")
    overlap, hamiltonian = (
        elements.reordered(convention, info.orbital_map, structure.numbers) for elements in (overlap, hamiltonian)
    )
    atom_of = np.repeat(np.arange(len(orbitals)), orbitals)
    pairs = pairs_of(structure, (hamiltonian, overlap), atom_of, cutoff)
    blocks = []
    for elements, part, spins in ((overlap, "S", 1), (hamiltonian, "H", 2 if info.spinful else 1)):
        made = blocks_of(elements, pairs, orbitals, atom_of)
        symmetrize(made, orbitals * spins, f"{name}: {part}")
        blocks.append(made)
    return DeephSystem(structure, info, blocks[0], blocks[1])


def pairs_of(
    structure: Structure, matrices: tuple[Elements, ...], atom_of: np.ndarray, cutoff: float | None
) -> np.ndarray:
    """(n, 5) all pairs that any matrix has within the cutoff, their Hermitian partners, and the onsite ones.

    Args:
        atom_of: atom of every orbital.
        cutoff: in Å; None for all.
    """
    onsite = np.zeros((len(structure), 5), dtype=np.int64)
    onsite[:, 3] = onsite[:, 4] = np.arange(len(structure))
    tables = [onsite]
    reach = max(image_reach(elements.images) for elements in matrices)
    for elements in matrices:
        for part in elements.parts():
            ends = np.stack([atom_of[elements.rows[part]], atom_of[elements.columns[part]]], axis=1)
            table = np.concatenate([elements.images[part], ends], axis=1)
            _, chosen = np.unique(pair_keys(table, len(structure), reach), return_index=True)
            tables.append(table[chosen])
    pairs = np.concatenate(tables)
    if cutoff is not None:
        bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
        pairs = pairs[np.linalg.norm(bonds, axis=1) <= cutoff]
    return np.unique(np.concatenate([pairs, reversed_pairs(pairs)]), axis=0)


def blocks_of(elements: Elements, pairs: np.ndarray, orbitals: np.ndarray, atom_of: np.ndarray) -> BlockSet:
    """Blocks of `pairs`, sorted; elements of other pairs are dropped, blocks without elements are zero."""
    spins = 1 if elements.spins is None else 2
    sizes = orbitals * spins
    blocks = sort_blocks(BlockSet.allocate(pairs, sizes, elements.values.dtype))
    reach = max(image_reach(blocks.pairs), image_reach(elements.images))
    first = np.concatenate([[0], np.cumsum(orbitals)])
    present = pair_keys(blocks.pairs, len(orbitals), reach)
    for part in elements.parts():
        row, column = elements.rows[part], elements.columns[part]
        i, j = atom_of[row], atom_of[column]
        block = find(present, pair_keys(np.column_stack([elements.images[part], i, j]), len(orbitals), reach))
        kept = block >= 0
        row, column = row - first[i], column - first[j]
        if elements.spins is not None:
            row = row + elements.spins[part, 0] * orbitals[i]
            column = column + elements.spins[part, 1] * orbitals[j]
        within = row * sizes[j] + column
        blocks.entries[blocks.offsets[block[kept]] + within[kept]] = elements.values[part][kept]
    return blocks
