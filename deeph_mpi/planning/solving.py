"""Seconds of factorizations and eigensolver, from the size of the factor and the rate of dense products measured here."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from deeph_mpi.config import SolveSection
from deeph_mpi.domain.fill import FactorTree

__all__ = ["SolveSeconds", "dense_rate", "solve_seconds"]

_SIZE = 1000  # of the matrices whose product is timed, about that of large fronts
# Shares of that rate which MUMPS and PETSc reach in factorizations, passes of a block of 16 vectors through the factor, and
# products with S: measured at 244 to 1,084 atoms of bilayer graphene on one core (`benchmarks/spectra.md`).
_FACTOR, _PASS, _PRODUCT = 0.66, 0.44, 0.43
_COPIED = (
    1.7e-8  # seconds per non-zero and factorization: H − σS, and its elements to MUMPS, which sorts them into fronts
)
_ANALYSED = 2e-8  # seconds per non-zero, once, on one rank
_WORKSPACE = 2.0  # memory of MUMPS over the factor, written to for the first time by the first factorization
# On two ranks a factorization took longer than the sharing of its fronts says: 0.65 s of 0.31 (244 atoms, where one rank takes
# 0.45), 7.7 of 6.0 (1,084), which is this much for each unknown. What is not factorization took as long as on one rank.
_SHARED = 1.1e-4  # seconds
_DIVIDED = 1.4  # over the speedup of the fronts
_PASSED = 5e-6  # seconds for each unknown and block of 16 vectors
_VECTORS = 10  # passed for each state: 9 to 11 of block Lanczos, and those that check shifts


@dataclass(frozen=True)
class SolveSeconds:
    """Until the slowest rank is done.

    Attributes:
        factorization: seconds of one.
        speedup: of that over one rank.
        factorizations: at a k-point, at least; of a window with up to one slice of states.
        vectors: seconds of the eigensolver at a k-point; 0 for a window, whose states are not known beforehand.
        kpoints: how many.
        once: seconds of the analysis, and of memory that is written to for the first time.
    """

    factorization: float
    speedup: float
    factorizations: int
    vectors: float
    kpoints: int
    once: float

    @property
    def total(self) -> float:
        """Seconds of all k-points."""
        return self.once + self.kpoints * (self.factorizations * self.factorization + self.vectors)


def dense_rate() -> float:
    """Double-precision flops per second of products of large matrices, on the threads of this process; the best of five."""
    a = np.random.default_rng(0).random((_SIZE, _SIZE))
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        best = max(best, 2 * _SIZE**3 / (time.perf_counter() - begin))
    return best


def solve_seconds(
    solve: SolveSection, tree: FactorTree, nonzeros: float, rate: float, fresh: float, kpoints: int, ranks: int
) -> SolveSeconds:
    """What [solve] takes on `ranks` ranks of this rate. Passes are taken to divide as the factorization does.

    Args:
        solve: the section.
        tree: of the factorization.
        nonzeros: of S, as it is factored.
        rate: of one rank, see `dense_rate`.
        fresh: seconds per byte of memory that is written to for the first time.
        kpoints: number of k-points.
        ranks: of the job.
    """
    several = ranks > 1
    slowest = tree.slowest(ranks)
    working = slowest / (_FACTOR * rate) + (_SHARED * float(tree.own.sum()) if several else 0.0)
    factorization = working + _COPIED * nonzeros / ranks
    once = _ANALYSED * nonzeros + fresh * _WORKSPACE * 8 * tree.elements / ranks
    speedup = tree.flops / (_FACTOR * rate) / working
    if solve.window is not None:
        return SolveSeconds(factorization, speedup, 4, 0.0, kpoints, once)
    one = 4 * tree.elements / (_PASS * rate) + 4 * nonzeros / (_PRODUCT * rate)
    count = _VECTORS * (solve.states or 1)
    vectors = count * one * slowest / tree.flops
    if several:
        vectors = _DIVIDED * vectors + _PASSED * count / 16 * float(tree.own.sum())
    return SolveSeconds(factorization, speedup, 4 if solve.prove else 1, vectors, kpoints, once)
