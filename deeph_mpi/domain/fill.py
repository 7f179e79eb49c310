"""Fill of a sparse factor, estimated by nested dissection of the atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.radii import Radii
from deeph_mpi.structure.structure import Structure

__all__ = ["OVER_FACTOR", "FactorTree", "factor_fill", "factor_tree"]

# Memory of a factorization over the bytes of the factor's elements: MUMPS's fronts and copies of the matrix. 2.1 to 2.4 were
# measured for bilayer graphene with 1,084 to 2,524 atoms.
OVER_FACTOR = 2.5
LEAF = 48  # atoms that are eliminated as one dense front


@dataclass(frozen=True)
class FactorTree:
    """Dense fronts of a factorization, one for every separator or leaf of the dissection, parents before their children.

    Attributes:
        parent: (fronts,) int64, −1 for the first.
        own: (fronts,) float64, unknowns that it eliminates.
        rim: (fronts,) float64, unknowns of its parents that they are coupled to.
    """

    parent: np.ndarray
    own: np.ndarray
    rim: np.ndarray

    @property
    def elements(self) -> float:
        """Of the factor."""
        return float((self.own * (self.own + 1) / 2 + self.own * self.rim).sum())

    @property
    def flops(self) -> float:
        """Of the factorization."""
        return float(self._work.sum())

    @property
    def _work(self) -> np.ndarray:
        return self.own**3 / 3 + self.own**2 * self.rim + self.own * self.rim**2

    def slowest(self, ranks: int) -> float:
        """Flops after which the last of `ranks` ranks is done; all flops on one rank.

        As a multifrontal solver shares the work: each front gets ranks in proportion to the work below it, down to one; one
        rank eliminates the front's own unknowns, the others share what that changes in its rim; branches wait for each other.
        """
        work = self._work
        below = work.copy()
        for front in range(len(work) - 1, 0, -1):
            below[self.parent[front]] += below[front]
        share = np.full(len(work), float(ranks))  # of one branch; not whole numbers
        for front in range(1, len(work)):
            parent = self.parent[front]
            share[front] = share[parent] * below[front] / (below[parent] - work[parent])
        done = np.zeros(len(work))
        for front in range(len(work) - 1, -1, -1):
            alone = self.own[front] ** 3 / 3
            if share[front] <= 1:
                done[front] = below[front] / share[front]
            else:
                done[front] += alone + (work[front] - alone) / share[front]
            if front:
                done[self.parent[front]] = max(done[self.parent[front]], done[front])
        return float(done[0])


def factor_fill(structure: Structure, orbitals: np.ndarray, cutoff: Radii) -> tuple[float, float]:
    """Elements and flops of `factor_tree`. Not collective."""
    tree = factor_tree(structure, orbitals, cutoff)
    return tree.elements, tree.flops


def factor_tree(structure: Structure, orbitals: np.ndarray, cutoff: Radii) -> FactorTree:
    """How a real symmetric matrix with these blocks is factored: the size of L, and the work. Not collective.

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
    fronts: list[tuple[int, float, float]] = []
    work = [(np.arange(count), np.empty(0, dtype=np.int64), -1)]
    mark = np.zeros(count, dtype=bool)

    def touching(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Those of `atoms` with a neighbour among `others`."""
        mark[graph[others].indices] = True
        found = atoms[mark[atoms]]
        mark[:] = False
        return found

    while work:
        atoms, rim, parent = work.pop()
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
                    work.append((rest, touching(np.concatenate([rim, own]), rest), len(fronts)))
        fronts.append((parent, sizes[own].sum(), sizes[rim].sum()))
    parents, own_unknowns, rims = (np.array(column) for column in zip(*fronts, strict=True))
    return FactorTree(parents, own_unknowns, rims)
