"""`deeph-mpi info`: what was found on this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from deeph_mpi._version import __version__
from deeph_mpi.cli.session import Job
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel.world import World

__all__ = ["info"]


def info() -> Job:
    """Print the versions and abilities of what deeph-mpi works with. Run it under mpirun as a job would run."""

    def job(world: World) -> None:
        nodes = world.comm.allgather(platform.node())
        threads = world.comm.allgather(int(os.environ["OMP_NUM_THREADS"]))
        rows = [  # on all ranks: PETSc is initialised collectively
            ("deeph-mpi", __version__),
            ("python", platform.python_version()),
            ("ranks", f"{world.size} on {len(set(nodes))} node(s), {_range(threads)} thread(s) each"),
            ("MPI", _mpi()),
            ("PETSc", _petsc()),
            ("SLEPc", _slepc()),
            ("factors", _factorizations()),
            ("torch", _torch()),
            *((name, _version(name)) for name in ("numpy", "scipy", "h5py", "ase", "e3nn")),
        ]
        for name, found in rows if world.is_root else []:
            print(f"{name:<10} {found}")

    return job


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _mpi() -> str:
    from mpi4py import MPI

    return f"{MPI.Get_library_version().split(',')[0].splitlines()[0]} (mpi4py {_version('mpi4py')})"


def _petsc() -> str:
    try:
        from petsc4py import PETSc
    except ImportError as error:
        return f"not available: {error}"
    number = ".".join(map(str, PETSc.Sys.getVersion()))
    scalars = "complex" if PETSc.ScalarType().dtype.kind == "c" else "real"
    bits = PETSc.IntType().dtype.itemsize * 8
    mumps = "with" if PETSc.Sys.hasExternalPackage("mumps") else "without"
    return f"{number}, {scalars} scalars, {bits}-bit indices, {mumps} MUMPS (petsc4py {_version('petsc4py')})"


def _factorizations() -> str:
    try:
        from deeph_mpi.solvers import petsc
        from deeph_mpi.solvers.backends import available_backends

        names = available_backends()
    except (ImportError, DeephError) as error:
        return f"not available: {error}"
    if "mumps" in names and petsc.mumps_has_scotch():
        names[names.index("mumps")] = "mumps (orders with Scotch)"
    return ", ".join(names)


def _slepc() -> str:
    try:
        from slepc4py import SLEPc
    except ImportError as error:
        return f"not available: {error}"
    return f"{'.'.join(map(str, SLEPc.Sys.getVersion()))} (slepc4py {_version('slepc4py')})"


def _torch() -> str:
    try:
        import torch
    except ImportError as error:
        return f"not available: {error}"
    if not torch.cuda.is_available():
        return f"{torch.__version__}, no GPU, {torch.get_num_threads()} thread(s)"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.__version__}, CUDA {torch.version.cuda}: {', '.join(devices)}"
