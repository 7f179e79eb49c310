"""PETSc and SLEPc, initialised once and checked to work with this job's MPI."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from deeph_mpi.errors import SolverError

__all__ = ["factors_triangle", "has_mumps", "index_limit", "is_complex", "load"]

_MAPS = Path("/proc/self/maps")


@cache
def load() -> tuple[ModuleType, ModuleType]:
    """The modules (petsc4py.PETSc, slepc4py.SLEPc). Collective on first use.

    PETSc's own signal handlers are left out: termination is this program's business. Options come from PETSC_OPTIONS.

    Raises:
        SolverError: when either is missing or was built for another MPI.
    """
    try:
        import petsc4py
        import slepc4py
    except ImportError as error:
        raise SolverError(
            f"solving needs petsc4py and slepc4py ({error}): run launch/setup.sh, or put those of your site on "
            "PYTHONPATH (for Debian's: python3-petsc4py-real and python3-slepc4py-real)"
        ) from None
    from mpi4py import MPI

    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # calls are bound when first made: see `_prefer_scotch`
    try:
        arguments = ["deeph-mpi", "-no_signal_handler"]
        petsc4py.init(arguments, comm=MPI.COMM_WORLD)
        slepc4py.init(arguments)
        from petsc4py import PETSc
        from slepc4py import SLEPc
    except (ImportError, RuntimeError) as error:
        raise SolverError(f"PETSc or SLEPc cannot be loaded: {error}") from None
    finally:
        sys.setdlopenflags(flags)
    if PETSc.COMM_WORLD.getSize() != MPI.COMM_WORLD.Get_size():
        raise SolverError(
            f"PETSc sees {PETSc.COMM_WORLD.getSize()} ranks and mpi4py {MPI.COMM_WORLD.Get_size()}: they were built "
            "for different MPI libraries; use an mpi4py built with the MPI of PETSc"
        )
    _prefer_scotch()
    return PETSc, SLEPc


def _prefer_scotch() -> None:
    """Put the MUMPS that knows Scotch before the plain one that Debian's PETSc is linked to, where it is installed.

    Both have the same interface; plain MUMPS orders with PORD, whose factors of these matrices are a tenth to a fifth
    larger. PETSc's call of MUMPS is bound when it is first made, to what is global by then.
    """
    try:
        found = re.search(r"^.* (/.*/)lib([dz])mumps-([\d.]+?)(\.0)?\.so$", _MAPS.read_text(), re.MULTILINE)
    except OSError:
        return
    if found:
        with suppress(OSError):
            ctypes.CDLL(f"{found[1]}lib{found[2]}mumps_ptscotch-{found[3]}.so", mode=ctypes.RTLD_GLOBAL)


def is_complex() -> bool:
    """Whether PETSc's scalars are complex."""
    petsc, _ = load()
    return bool(np.dtype(petsc.ScalarType).kind == "c")


def has_mumps() -> bool:
    """Whether PETSc was built with MUMPS."""
    petsc, _ = load()
    return bool(petsc.Sys.hasExternalPackage("mumps"))


def factors_triangle(backend: str = "auto") -> bool:
    """Whether this package reads one triangle of a symmetric matrix and gives its inertia: MUMPS's LDLᵀ, real scalars.

    "auto" is MUMPS where PETSc has it.
    """
    return backend in ("auto", "mumps") and has_mumps() and not is_complex()


def index_limit() -> int:
    """Largest index or non-zero count that PETSc's integers hold."""
    petsc, _ = load()
    return int(np.iinfo(petsc.IntType).max)
