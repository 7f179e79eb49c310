"""Matrices of a structure from files in the DeepH layout: a user's overlap, rows that were predicted before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.data.ragged import find, pair_keys, sort_blocks, spread
from deeph_mpi.errors import DataError
from deeph_mpi.parallel.world import World
from deeph_mpi.structure.structure import Structure

__all__ = ["on_common_pairs", "read_matrix"]

SAME = 1e-4  # Å; positions of one structure in two files


def read_matrix(world: World, path: Path, structure: Structure, orbital_map: OrbitalMap, owner: np.ndarray) -> BlockSet:
    """Rows of a matrix in a DeepH-layout directory, renumbered to the order of `structure`. Collective.

    Args:
        path: of the file; POSCAR and info.json lie beside it and say which atoms it is for.
        structure: replicated, in the user's order.
        orbital_map: that the matrix must have.
        owner: (N,) owning rank of every atom of `structure`.

    Raises:
        DataError: on all ranks, when the file is not for this structure or these orbitals, or is damaged.
    """
    order = world.on_root(_order, path, structure, orbital_map)
    orbitals = orbital_map.orbitals(structure.numbers)
    blocks = read_rows(world, path, owner[order], orbitals[order])
    blocks.pairs[:, 3:] = order[blocks.pairs[:, 3:]]
    return sort_blocks(blocks)


def on_common_pairs(first: BlockSet, second: BlockSet, orbitals: np.ndarray) -> tuple[BlockSet, BlockSet]:
    """Both matrices on the pairs of either, blocks that one lacks being zero, sorted by (i, j, R). Rank-local.

    Args:
        orbitals: (N,) rows of every atom's blocks.
    """
    both = np.concatenate([first.pairs, second.pairs])
    reach = int(np.abs(both[:, :3]).max(initial=0))
    keys, chosen = np.unique(pair_keys(both, len(orbitals), reach), return_index=True)
    completed = []
    for blocks in (first, second):
        whole = BlockSet.allocate(both[chosen], orbitals, blocks.entries.dtype)
        at = find(keys, pair_keys(blocks.pairs, len(orbitals), reach))
        whole.entries[spread(whole.offsets[at], np.diff(blocks.offsets))] = blocks.entries
        completed.append(whole)
    return completed[0], completed[1]


def _order(path: Path, structure: Structure, orbital_map: OrbitalMap) -> np.ndarray:
    """(N,) the structure's index of every atom of the file."""
    theirs, info = read_geometry(path.parent)
    order = np.arange(len(theirs)) if info.atom_order is None else info.atom_order
    same = (
        len(theirs) == len(structure)
        and np.array_equal(theirs.numbers, structure.numbers[order])
        and np.abs(theirs.positions - structure.positions[order]).max() < SAME
        and np.abs(theirs.cell - structure.cell).max() < SAME
    )
    if not same:
        raise DataError(f"'{path}' belongs to another structure: atoms or cell in {path.parent / 'POSCAR'} differ")
    for number in np.unique(structure.numbers).tolist():
        if info.orbital_map.shells[number] != orbital_map.shells[number]:
            raise DataError(f"'{path}' has other orbitals than the checkpoint: see elements_orbital_map in info.json")
    return order
