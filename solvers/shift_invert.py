"""SLEPc's Krylov-Schur on a shift-inverted problem whose inverse this program owns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["found_vectors", "shift_inverted"]


class _Inverse:
    """PETSc's python preconditioner that applies a factor, so that SLEPc neither builds nor factors the shifted matrix."""

    def __init__(self, solve: Callable[[Any, Any], None]) -> None:
        self.solve = solve

    def apply(self, _: Any, right: Any, left: Any) -> None:
        self.solve(right, left)


def shift_inverted(
    pencil: Pencil,
    matrices: tuple[Any, ...],
    solve: Callable[[Any, Any], None],
    target: float,
    count: int,
    space: int,
    tolerance: float,
) -> Any:
    """A solver for the eigenvectors nearest `target`, not yet run. Collective; `found_vectors` runs and destroys it.

    Args:
        pencil: whose ranks and vectors these are.
        matrices: (A,) or (A, B) of A x = λ B x.
        solve: writes (A − target B)⁻¹ right into left, PETSc vectors (right, left).
        target: the shift.
        count: vectors wanted.
        space: dimension of what may be searched.
        tolerance: relative residual of the shift-inverted problem.
    """
    _, slepc = petsc.load()
    solver = slepc.EPS().create(pencil.world.comm)
    solver.setOperators(*matrices)
    kind = slepc.EPS.ProblemType
    solver.setProblemType(kind.HEP if len(matrices) == 1 else kind.GHEP)
    solver.setType(slepc.EPS.Type.KRYLOVSCHUR)
    solver.setWhichEigenpairs(slepc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(target)
    solver.setDimensions(count, min(space, max(2 * count, count + 24)))
    solver.setTolerances(tolerance, 200)
    solver.setPurify(False)  # B is regular: no null space to be cleaned away
    transform = solver.getST()
    transform.setType(slepc.ST.Type.SINVERT)
    transform.setMatMode(slepc.ST.MatMode.SHELL)
    linear = transform.getKSP()
    linear.setType("preonly")
    linear.getPC().setType("python")
    linear.getPC().setPythonContext(_Inverse(solve))
    return solver


def found_vectors(pencil: Pencil, solver: Any) -> np.ndarray:
    """Run the solver and destroy it: its converged vectors (local_dimension, found). Collective."""
    solver.solve()
    vector = pencil.s.createVecRight()
    found = np.empty((pencil.local_dimension, solver.getConverged()), dtype=pencil.dtype, order="F")
    for n in range(found.shape[1]):
        solver.getEigenvector(n, vector)
        found[:, n] = pencil.unpack(vector)
    vector.destroy()
    solver.destroy()
    return found
