"""The density of states by counting: inertia on a grid of energies, exact wherever H − σS can be factored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.journal import Forgetful, Journal, Record
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["counted_states"]


def counted_states(
    pencil: Pencil,
    edges: np.ndarray,
    options: FactorOptions | None = None,
    note: Callable[[str], None] = lambda message: None,
    journal: Journal | None = None,
    unit: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Number of levels below each of `edges` (eV, ascending). Collective.

    Args:
        pencil: whose levels.
        edges: energies.
        options: how matrices are factored.
        note: called after every energy.
        journal: keeps the counts, under names that begin with `unit`.

    Returns:
        The edges (moved by some 1e-6 eV where they met a level) and the counts, int64.

    Raises:
        StopRequested: see `deeph_mpi.solvers.journal`.
        SolverError: S not positive definite, no memory, or a factorization that cannot count; on all ranks.
    """
    journal = journal or Forgetful()
    factor = ShiftedFactor(pencil, options)
    try:
        if not factor.counts_inertia:
            error = SolverError('dos.method = "inertia" needs a real PETSc with MUMPS: use "stochastic"')
            error.everywhere = True
            raise error
        used, counts, shown = [], [], False
        for n, edge in enumerate(edges):
            known = journal.known(f"{unit}{n}")
            if known is None:
                if not shown:
                    factor.require_positive_overlap()
                    shown = True
                known = Record(dict(zip(("shift", "count"), factor.below(float(edge)), strict=True)))
                journal.keep(f"{unit}{n}", known)
            shift, count = float(known.values["shift"]), int(known.values["count"])
            used.append(shift)
            counts.append(count)
            note(f"{n + 1} of {len(edges)} energies, {count} levels below {shift:.4f} eV")
        return np.array(used), np.array(counts, dtype=np.int64)
    finally:
        factor.destroy()
