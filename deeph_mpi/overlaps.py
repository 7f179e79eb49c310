"""The lower end of the spectrum of S at Γ: whether an overlap is fit for an eigenproblem."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.eigenvalue import smallest_eigenvalue
from deeph_mpi.errors import SolverError

__all__ = ["LowerEnd", "lower_end"]


@dataclass(frozen=True)
class LowerEnd:
    """The smallest eigenvalue of S, in words and as a number.

    Attributes:
        value: the eigenvalue.
        how: what is known of it.
    """

    value: float
    how: str


def lower_end(overlap: BlockSet, orbitals: np.ndarray) -> LowerEnd:
    """Find the smallest eigenvalue of Σ_R S(R) on this process.

    With a real PETSc with MUMPS by inverse iteration, with a proof; else by Lanczos, to a hundredth.

    Args:
        overlap: all blocks.
        orbitals: (N,) of every atom.

    Raises:
        SolverError: no convergence, or not enough memory for the factor.
    """
    if find_spec("petsc4py") is None or find_spec("slepc4py") is None:
        return _lanczos(overlap, orbitals, "PETSc is not there to prove it")
    from deeph_mpi.solvers import petsc

    if not petsc.factors_triangle():
        return _lanczos(overlap, orbitals, "this PETSc has no inertia to prove it")
    from deeph_mpi.assembly.pencil import PencilAssembler
    from deeph_mpi.assembly.rows import RowMap
    from deeph_mpi.domain.partition import Partition
    from deeph_mpi.parallel.world import World
    from deeph_mpi.solvers.factor import ShiftedFactor
    from deeph_mpi.solvers.overlap import smallest_overlap

    world = World.alone()
    rows = RowMap(Partition(np.zeros(len(orbitals), dtype=np.int32), 1), orbitals)
    assembler = PencilAssembler(world, rows, overlap, overlap)
    pencil = assembler.pencil(np.zeros(3))
    assembler.release()
    pencil.h.destroy()
    pencil.h = pencil.s  # H is not looked at
    factor = ShiftedFactor(pencil)
    try:
        found = smallest_overlap(factor)
    finally:
        factor.destroy()
        pencil.s.destroy()
    if found.below:
        return LowerEnd(found.value, f"{found.below} are not positive: S is not fit for an eigenproblem")
    proof = "none is lower by more than a thousandth of it, as inertia proves"
    return LowerEnd(found.value, proof if found.proved else f"not proved: {factor.doubt or 'something lies below it'}")


def _lanczos(overlap: BlockSet, orbitals: np.ndarray, why: str) -> LowerEnd:
    try:
        return LowerEnd(smallest_eigenvalue(overlap, orbitals), f"to a hundredth; {why}")
    except SolverError as error:
        raise SolverError(f"{error} ({why})") from None
