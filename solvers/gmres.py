"""Many systems with one matrix, solved together by one Krylov polynomial."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.world import World

__all__ = ["global_gmres"]

Operator = Callable[[np.ndarray], np.ndarray]


def global_gmres(
    world: World, apply: Operator, precondition: Operator, right: np.ndarray, tolerance: float, limit: int = 40
) -> tuple[np.ndarray, int]:
    """Solve A x = right for all columns, preconditioned from the right. Collective.

    Global GMRES (Jbilou, Messaoudi, Sadok, Appl. Numer. Math. 31, 49 (1999)): the block counts as one long vector, so that
    all columns share the coefficients. Right sides that are alike, such as random vectors, lose nothing by it, and the
    orthogonalization costs a matrix-vector product with the basis instead of one per column.

    Args:
        world: the ranks.
        apply: x ↦ A x on local rows (n, m).
        precondition: x ↦ P x with P ≈ A⁻¹.
        right: (n, m) complex.
        tolerance: of ‖A x − right‖ / ‖right‖, Frobenius norms.
        limit: iterations.

    Returns:
        x (n, m) and the iterations made.

    Raises:
        SolverError: no convergence; on all ranks.
    """
    norm = _norm(world, right)
    if norm == 0:
        return np.zeros_like(right), 0
    shape = right.shape
    basis = [(right / norm).ravel()]
    hessenberg = np.zeros((limit + 1, limit), dtype=np.complex128)
    for j in range(limit):
        vector = apply(precondition(basis[j].reshape(shape))).ravel()
        for _ in range(2):  # once more: single precision loses orthogonality
            local = np.array([np.vdot(v, vector) for v in basis], dtype=np.complex128)
            overlaps = world.comm.allreduce(local)
            for v, overlap in zip(basis, overlaps, strict=True):
                vector -= vector.dtype.type(overlap) * v
            hessenberg[: j + 1, j] += overlaps
        length = _norm(world, vector)
        hessenberg[j + 1, j] = length
        target = np.zeros(j + 2, dtype=np.complex128)
        target[0] = norm
        y = np.linalg.lstsq(hessenberg[: j + 2, : j + 1], target, rcond=None)[0]
        residual = np.linalg.norm(hessenberg[: j + 2, : j + 1] @ y - target) / norm
        if residual < tolerance:
            total = np.zeros_like(basis[0])
            for v, coefficient in zip(basis, y, strict=True):
                total += v.dtype.type(coefficient) * v
            return precondition(total.reshape(shape)), j + 1
        basis.append(vector / vector.real.dtype.type(length))
    raise _everywhere(
        SolverError(
            f"the inner iteration stopped at a relative residual of {residual:.1e} after {limit} iterations: "
            "give a larger dos.buffer"
        )
    )


def _norm(world: World, x: np.ndarray) -> float:
    return float(np.sqrt(world.sum(float(np.vdot(x, x).real))))


def _everywhere(error: SolverError) -> SolverError:
    error.everywhere = True
    return error
