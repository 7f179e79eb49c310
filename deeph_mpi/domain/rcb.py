"""Recursive coordinate bisection: compact domains of equal weight, from the positions alone."""

from __future__ import annotations

import numpy as np

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.partition import Partition
from deeph_mpi.structure.structure import Structure

__all__ = ["partition_atoms"]


def partition_atoms(structure: Structure, weights: np.ndarray, size: int) -> Partition:
    """Divide the atoms into `size` domains of nearly equal weight, cutting each piece across its longest extent.

    Coordinates are the wrapped fractional ones times the lengths of the lattice vectors, counted from the widest gap of
    each periodic direction, so that a slab is not torn at the cell's face. Any number of domains; a piece for p of them
    is cut in the proportion ⌊p/2⌋ : ⌈p/2⌉. Deterministic: every rank that calls it gets the same result. Domains are
    empty only where there are fewer atoms than domains. Cost O(N log N log size).

    Args:
        structure: the atoms, replicated.
        weights: (N,) non-negative.
        size: number of domains.

    Raises:
        StructureError: when positions are not finite or lattice vectors span no volume.
    """
    coordinates = _coordinates(structure)
    ranks = _ranks(coordinates)
    weights = np.asarray(weights, dtype=np.float64)
    owner = np.zeros(len(structure), dtype=np.int32)
    pieces = [(np.arange(len(structure)), 0, size)]
    while pieces:
        atoms, first, parts = pieces.pop()
        if parts == 1 or len(atoms) == 0:
            owner[atoms] = first
            continue
        axis = int(np.argmax(np.ptp(coordinates[atoms], axis=0)))
        atoms = atoms[np.argsort(ranks[axis, atoms])]
        cut = _cut(weights[atoms], parts)
        pieces.append((atoms[:cut], first, parts // 2))
        pieces.append((atoms[cut:], first + parts // 2, parts - parts // 2))
    return Partition(owner, size)


def _coordinates(structure: Structure) -> np.ndarray:
    wrapped = wrap(structure)
    x = wrapped.fractional.copy()
    for axis in np.flatnonzero(wrapped.pbc):
        line = np.sort(x[:, axis])
        if len(line) > 1:
            gaps = np.diff(line, append=line[0] + 1)
            widest = int(np.argmax(gaps))
            start = line[(widest + 1) % len(line)]
            x[:, axis] = (x[:, axis] - start) % 1.0
    # Rounded, so that atoms of one crystal plane tie exactly and are cut along the next coordinate.
    return np.round(x * np.linalg.norm(wrapped.cell, axis=1), 6)


def _ranks(coordinates: np.ndarray) -> np.ndarray:
    ranks = np.empty((3, len(coordinates)), dtype=np.int32)
    for axis in range(3):
        u, v = coordinates[:, (axis + 1) % 3], coordinates[:, (axis + 2) % 3]
        ranks[axis, np.lexsort((v, u, coordinates[:, axis]))] = np.arange(len(coordinates))
    return ranks


def _cut(weights: np.ndarray, parts: int) -> int:
    left = parts // 2
    before = np.concatenate([[0.0], np.cumsum(weights)])
    cut = int(np.argmin(np.abs(before - before[-1] * (left / parts))))
    n = len(weights)
    # Neither side may get fewer atoms than it has domains, nor (when atoms are few) domains with two.
    least, most = (left, n - (parts - left)) if n >= parts else (n - min(n, parts - left), min(n, left))
    return min(max(cut, least), most)
