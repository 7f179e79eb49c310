"""Mulliken populations: how much of every state lies on which group of orbitals."""

from __future__ import annotations

import numpy as np

from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["mulliken_populations"]


def mulliken_populations(pencil: Pencil, pairs: Eigenpairs, groups: np.ndarray, cluster: float) -> np.ndarray:
    """Populations w_g = Re Σ_{i in g} c_i* (S c)_i of S-orthonormal states. Collective.

    Over all groups of all ranks they add up to 1 for every state; single ones may be slightly negative (Mulliken,
    J. Chem. Phys. 23, 1833 (1955)). The vectors of a degenerate level are arbitrary among themselves, so its states share
    the mean of their populations: what is returned does not depend on the number of ranks.

    Args:
        pencil: whose eigenpairs they are; only S is used.
        pairs: with their vectors.
        groups: (orbitals of this rank,) group of each, 0 … n − 1. A group lies on one rank.
        cluster: eV; neighbouring states closer than this are degenerate.

    Returns:
        (local groups, m) float32.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    result = np.empty((count, len(pairs)))
    for n in range(len(pairs)):
        vector = pairs.vectors[:, n : n + 1]  # one at a time: S x of all would be a second set of vectors
        image = pencil.orbitals(pencil.multiply(pencil.s, vector))
        product = (pencil.orbitals(vector).conj() * image).real
        result[:, n] = np.bincount(groups, weights=product[:, 0], minlength=count)
    bounds = np.flatnonzero(np.diff(pairs.energies) > cluster) + 1
    for level in np.split(np.arange(len(pairs)), bounds):
        if len(level) > 1:
            result[:, level] = result[:, level].mean(axis=1, keepdims=True)
    return result.astype(np.float32)
