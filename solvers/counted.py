"""The density of states by counting: inertia on a grid of energies, exact wherever H − σS can be factored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["counted_states"]


def counted_states(
    pencil: Pencil,
    edges: np.ndarray,
    options: FactorOptions | None = None,
    note: Callable[[str], None] = lambda message: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Number of levels below each of `edges` (eV, ascending). Collective.

    Returns:
        The edges (moved by some 1e-6 eV where they met a level) and the counts, int64.

    Raises:
        SolverError: S not positive definite, no memory, or a factorization that cannot count; on all ranks.
    """
    factor = ShiftedFactor(pencil, options)
    try:
        if not factor.counts_inertia:
            error = SolverError('dos.method = "inertia" needs a real PETSc with MUMPS: use "stochastic"')
            error.everywhere = True
            raise error
        factor.require_positive_overlap()
        used, counts = [], []
        for n, edge in enumerate(edges):
            shift, count = factor.below(float(edge))
            used.append(shift)
            counts.append(count)
            note(f"{n + 1} of {len(edges)} energies, {count} levels below {shift:.4f} eV")
        return np.array(used), np.array(counts, dtype=np.int64)
    finally:
        factor.destroy()
