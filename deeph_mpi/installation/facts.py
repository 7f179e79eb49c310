"""Versions and abilities of what deeph-mpi works with, in words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from deeph_mpi._version import __version__
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel.world import World

__all__ = ["facts", "package_version"]


def facts(world: World) -> list[tuple[str, str]]:
    """Name and description of everything. Collective: PETSc is initialised."""
    nodes = world.comm.allgather(platform.node())
    threads = world.comm.allgather(int(os.environ["OMP_NUM_THREADS"]))
    return [
        ("deeph-mpi", __version__),
        ("python", platform.python_version()),
        ("ranks", f"{world.size} on {len(set(nodes))} node(s), {_range(threads)} thread(s) each"),
        ("MPI", _mpi()),
        ("PETSc", _petsc()),
        ("SLEPc", _slepc()),
        ("factors", _factorizations()),
        ("torch", _torch()),
        *((name, package_version(name)) for name in ("numpy", "scipy", "h5py", "ase", "e3nn")),
    ]


def package_version(package: str) -> str:
    """Of an installed package, or that it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _mpi() -> str:
    from mpi4py import MPI

    return f"{MPI.Get_library_version().split(',')[0].splitlines()[0]} (mpi4py {package_version('mpi4py')})"


def _petsc() -> str:
    try:
        from petsc4py import PETSc
    except ImportError as error:
        return f"not available: {error}"
    number = ".".join(map(str, PETSc.Sys.getVersion()))
    scalars = "complex" if np.dtype(PETSc.ScalarType).kind == "c" else "real"
    bits = np.dtype(PETSc.IntType).itemsize * 8
    mumps = "with" if PETSc.Sys.hasExternalPackage("mumps") else "without"
    return f"{number}, {scalars} scalars, {bits}-bit indices, {mumps} MUMPS (petsc4py {package_version('petsc4py')})"


def _factorizations() -> str:
    try:
        from deeph_mpi.solvers.backends import available_backends
        from deeph_mpi.solvers.orderings import mumps_orderings

        names = available_backends()
        orderings = mumps_orderings() if "mumps" in names else []
    except (ImportError, DeephError) as error:
        return f"not available: {error}"
    return ", ".join(f"{name} (orders with {', '.join(orderings)})" if name == "mumps" else name for name in names)


def _slepc() -> str:
    try:
        from slepc4py import SLEPc
    except ImportError as error:
        return f"not available: {error}"
    return f"{'.'.join(map(str, SLEPc.Sys.getVersion()))} (slepc4py {package_version('slepc4py')})"


def _torch() -> str:
    try:
        import torch
    except ImportError as error:
        return f"not available: {error}"
    if not torch.cuda.is_available():
        return f"{torch.__version__}, no GPU, {torch.get_num_threads()} thread(s)"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.__version__}, CUDA {torch.version.cuda}: {', '.join(devices)}"
