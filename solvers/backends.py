"""The factorization packages of the PETSc at hand, and how MUMPS is set up for an LDLᵀ that counts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers import petsc

__all__ = ["FactorOptions", "available_backends", "choose_backend", "new_preconditioner"]

_PACKAGES = ("mumps", "superlu_dist", "strumpack", "pastix", "mkl_pardiso", "mkl_cpardiso", "superlu", "umfpack")
_SERIAL = ("superlu", "umfpack", "mkl_pardiso", "petsc")


@dataclass(frozen=True)
class FactorOptions:
    """How H − σS is factored.

    Attributes:
        backend: one of `available_backends`, or "auto" for the first of them that works on the ranks at hand; only
            "mumps" (real scalars) counts states, others find them.
        out_of_core: whether the factor lies on disk (MUMPS): "auto" when it does not fit in memory.
        scratch: directory for it.
        memory: bytes that the factorization may take on each rank; None: what is available.
        low_rank: relative tolerance of block low-rank compression (MUMPS), 0: none. Counts are then not proved.
        drop: Frobenius norm in eV below which blocks of H − σS between two atoms are left out of the factor, 0: none are.
            Counts are then not proved.
    """

    backend: str = "auto"
    out_of_core: Literal["auto", "always", "never"] = "auto"
    scratch: Path = field(default_factory=lambda: Path(os.environ.get("TMPDIR", "/tmp")))
    memory: int | None = None
    low_rank: float = 0.0
    drop: float = 0.0


def available_backends() -> list[str]:
    """Packages that this PETSc can factor with, the preferred first; "petsc" is its own LU, on one rank."""
    library, _ = petsc.load()
    return [name for name in _PACKAGES if library.Sys.hasExternalPackage(name)] + ["petsc"]


def choose_backend(name: str, ranks: int) -> str:
    """The package meant by `name` ("auto": the preferred one) on this many ranks.

    Raises:
        SolverError: it is not there, with those that are.
    """
    usable = [b for b in available_backends() if ranks == 1 or b not in _SERIAL]
    if name == "auto" and usable:
        return usable[0]
    if name not in usable:
        where = "one rank" if ranks == 1 else f"{ranks} ranks"
        raise SolverError(
            f"PETSc has no factorization '{name}' for {where}; it has: {', '.join(usable) or 'none'} "
            "(`deeph-mpi info` lists them)"
        )
    return name


def new_preconditioner(
    world: World,
    matrix: Any,
    options: FactorOptions,
    backend: str,
    *,
    block: int,
    workspace: int,
    limit: int | None,
    out_of_core: bool,
) -> Any:
    """A PETSc preconditioner that factors `matrix` (AIJ or SBAIJ). Collective; the caller destroys it.

    Args:
        world: the ranks.
        matrix: the operator.
        options: where the factor may lie, compression.
        backend: see `choose_backend`.
        block: see `Pencil`.
        workspace: per cent above MUMPS's estimate.
        limit: bytes that MUMPS may take on each rank; None: no limit.
        out_of_core: whether MUMPS writes the factor to `options.scratch`.
    """
    library, _ = petsc.load()
    triangle = petsc.factors_triangle(backend)
    pc = library.PC().create(world.comm)
    pc.setOperators(matrix, matrix)
    pc.setType(library.PC.Type.CHOLESKY if triangle else library.PC.Type.LU)
    pc.setFactorSolverType(backend)
    if backend == "mumps":
        os.environ["MUMPS_OOC_TMPDIR"] = str(options.scratch)  # read when the factor matrix is made
        pc.setFactorSetUpSolverType()
        mumps = pc.getFactorMatrix()
        mumps.setMumpsIcntl(14, workspace)
        if triangle:
            mumps.setMumpsIcntl(13, 1)  # no ScaLAPACK at the root, which would hide its signs
            mumps.setMumpsIcntl(24, 1)  # detect null pivots instead of dividing by them
            if block > 1:
                mumps.setMumpsIcntl(
                    15, -block
                )  # the graph of atoms is ordered: the same fill, in a fraction of the time
        if out_of_core:
            mumps.setMumpsIcntl(22, 1)
        if limit is not None:
            mumps.setMumpsIcntl(23, max(1, limit // 10**6))
        if options.low_rank > 0:
            mumps.setMumpsIcntl(35, 2)
            mumps.setMumpsCntl(7, options.low_rank)
    return pc
