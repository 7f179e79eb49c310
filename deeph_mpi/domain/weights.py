"""What an atom costs: the matrix elements of its rows."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.neighbours import Shell, shells_around
from deeph_mpi.domain.radii import Radii, RadiusTable
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["pair_weights"]

CHUNK = 10_000  # centres at a time
SLACK = 1e-6  # Å, lets an atom find itself (its onsite block) where the radius of its element is zero


def pair_weights(world: World, structure: Structure, orbitals: np.ndarray, cutoff: Radii) -> np.ndarray:
    """Matrix elements in the rows of every atom, Σ_j n_i n_j over its pairs and itself. Collective.

    Counted, not estimated (but for rounding at the radius), and the same for any number of ranks. Memory and the time
    to decode and to multiply are proportional to it. Each rank counts for a compact share of the atoms.

    Args:
        structure: the atoms, replicated.
        orbitals: (N,) orbitals per atom, alike for all atoms of an element.
        cutoff: Å, one radius or one per pair of elements.

    Returns:
        (N,) float64.

    Raises:
        StructureError: on all ranks, when a pair of elements has no radius or the cell spans no volume.
    """
    from mpi4py import MPI

    with world.together():
        radii = RadiusTable.build(cutoff, structure.numbers)
        wrapped = wrap(structure)
        parts = -(-len(structure) // (CHUNK * world.size))  # of each rank, compact as the bisection numbers them
        pieces = partition_atoms(structure, np.ones(len(structure)), parts * world.size)
        share = pieces.owner // max(parts, 1)
        mine = np.flatnonzero(share == world.rank)
        columns = np.empty(len(mine))
        order = mine[np.argsort(pieces.owner[mine], kind="stable")]
        sizes = np.bincount(pieces.owner[mine] - world.rank * parts, minlength=parts)
        groups = np.split(order, np.cumsum(sizes)[:-1])
        for centres, shell in zip(groups, shells_around(wrapped, groups, radii.largest + SLACK), strict=True):
            columns[np.searchsorted(mine, centres)] = _columns(structure, shell, centres, np.asarray(orbitals), radii)
    counts = np.bincount(share, minlength=world.size)
    gathered = np.empty(len(structure))
    world.comm.Allgatherv(columns, [gathered, counts, MPI.DOUBLE])
    weights = np.empty(len(structure))
    weights[np.argsort(share, kind="stable")] = gathered
    return weights * orbitals


def _columns(
    structure: Structure, shell: Shell, centres: np.ndarray, orbitals: np.ndarray, radii: RadiusTable
) -> np.ndarray:
    # Counting needs no list of pairs, only one count per centre and species.
    centre_numbers, shell_numbers = structure.numbers[centres], structure.numbers[shell.atoms]
    columns = np.zeros(len(centres))
    for z2 in np.unique(shell_numbers):
        there = shell_numbers == z2
        tree = cKDTree(shell.positions[there])
        size = orbitals[shell.atoms[there][0]]
        for z1 in np.unique(centre_numbers):
            here = np.flatnonzero(centre_numbers == z1)
            radius = radii.radii[radii.species[z1], radii.species[z2]] + SLACK
            columns[here] += size * tree.query_ball_point(shell.centres[here], radius, return_length=True)
    return columns
