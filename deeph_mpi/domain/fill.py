"""Fill of a sparse factor, estimated by nested dissection of the atoms."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.radii import Radii
from deeph_mpi.structure.structure import Structure

__all__ = ["OVER_FACTOR", "factor_fill"]

# Memory of a factorization over the bytes of the factor's elements: MUMPS's fronts and copies of the matrix. 2.1 to 2.4 were
# measured for bilayer graphene with 1,084 to 2,524 atoms.
OVER_FACTOR = 2.5
LEAF = 48  # atoms that are eliminated as one dense front


def factor_fill(structure: Structure, orbitals: np.ndarray, cutoff: Radii) -> tuple[float, float]:
    """Elements of the factor L of a real symmetric matrix with these blocks, and the flops to compute it. Not collective.

    Nested dissection (George, SIAM J. Numer. Anal. 10, 345 (1973)) across the longest extent; a separator is the side of a
    cut with fewer orbitals at it. A good ordering of the graph finds the same fill within some ten percent.
    """
    pairs = neighbour_pairs(structure, np.arange(len(structure)), cutoff)
    count = len(structure)
    graph = csr_matrix((np.ones(len(pairs), dtype=bool), (pairs.i, pairs.j)), shape=(count, count))
    del pairs
    wrapped = wrap(structure)
    x = wrapped.fractional @ wrapped.cell
    sizes = np.asarray(orbitals, dtype=np.float64)
    entries = flops = 0.0
    work = [(np.arange(count), np.empty(0, dtype=np.int64))]
    mark = np.zeros(count, dtype=bool)

    def touching(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Those of `atoms` with a neighbour among `others`."""
        mark[graph[others].indices] = True
        found = atoms[mark[atoms]]
        mark[:] = False
        return found

    while work:
        atoms, rim = work.pop()
        if len(atoms) == 0:
            continue
        own = atoms
        if len(atoms) > LEAF:
            axis = int(np.argmax(np.ptp(x[atoms], axis=0)))
            order = atoms[np.argsort(x[atoms, axis], kind="stable")]
            low, high = order[: len(order) // 2], order[len(order) // 2 :]
            sides = touching(low, high), touching(high, low)
            side = int(sizes[sides[1]].sum() < sizes[sides[0]].sum())
            own = sides[side]
            for half in (low, high):
                rest = np.setdiff1d(half, own)
                if len(rest):
                    work.append((rest, touching(np.concatenate([rim, own]), rest)))
        s, b = sizes[own].sum(), sizes[rim].sum()
        entries += s * (s + 1) / 2 + s * b
        flops += s**3 / 3 + s * s * b + s * b * b
    return float(entries), float(flops)
