"""Many systems with one matrix, solved together by one Krylov polynomial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        right: (n, m), complex or (with a real operator) real.
        tolerance: of ‖A x − right‖ / ‖right‖, Frobenius norms.
        limit: iterations.

    Returns:
        x (n, m) and the iterations made.

    Raises:
        SolverError: no convergence; on all ranks.
    """
    norm = float(np.sqrt(_products(world, [right.ravel()], right.ravel())[0].real))
    if norm == 0:
        return np.zeros_like(right), 0
    shape = right.shape
    basis = [(right / norm).ravel()]
    hessenberg = np.zeros((limit + 1, limit), dtype=np.complex128)
    for j in range(limit):
        vector = apply(precondition(basis[j].reshape(shape))).ravel()
        for _ in range(2):  # once more: single precision loses orthogonality
            overlaps = _products(world, [*basis, vector], vector)
            for v, overlap in zip(basis, overlaps[:-1], strict=True):
                vector -= _scalar(overlap, vector) * v
            hessenberg[: j + 1, j] += overlaps[:-1]
        # Of the second pass: what it took off is small, so nothing cancels.
        length = float(np.sqrt(max(overlaps[-1].real - (np.abs(overlaps[:-1]) ** 2).sum(), 0.0)))
        hessenberg[j + 1, j] = length
        target = np.zeros(j + 2, dtype=np.complex128)
        target[0] = norm
        y = np.linalg.lstsq(hessenberg[: j + 2, : j + 1], target, rcond=None)[0]
        residual = np.linalg.norm(hessenberg[: j + 2, : j + 1] @ y - target) / norm
        if residual < tolerance:
            total = np.zeros_like(basis[0])
            for v, coefficient in zip(basis, y, strict=True):
                total += _scalar(coefficient, v) * v
            return precondition(total.reshape(shape)), j + 1
        basis.append(vector / vector.real.dtype.type(length or 1.0))
    raise _everywhere(
        SolverError(
            f"the inner iteration stopped at a relative residual of {residual:.1e} after {limit} iterations: "
            "give a larger dos.buffer"
        )
    )


def _scalar(value: complex, vector: np.ndarray) -> Any:
    """`value` in the type of a vector: single precision stays single."""
    return vector.dtype.type(value if np.iscomplexobj(vector) else value.real)


def _products(world: World, left: list[np.ndarray], right: np.ndarray) -> np.ndarray:
    """Inner products of all of `left` with `right`, in one reduction. Collective."""
    local = np.array([np.vdot(v, right) for v in left], dtype=np.complex128)
    total = np.empty_like(local)
    world.comm.Allreduce(local, total)
    return total


def _everywhere(error: SolverError) -> SolverError:
    error.everywhere = True
    return error
