"""Whether the libraries are there, belong together, and have the types that deeph-mpi wants."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from deeph_mpi.installation.facts import package_version
from deeph_mpi.installation.finding import Finding, Level
from deeph_mpi.parallel.world import World

__all__ = ["check_hdf5", "check_mpi_of_petsc", "check_scalars", "check_threads", "check_torch"]

_MAPS = Path("/proc/self/maps")
_MPI_LIBRARY = re.compile(r"^.* (/.*/(?:libmpi(?:ch|_cray|_intel)?|libmpich\w*)\.so[.\d]*)$", re.MULTILINE)
_SETUP = "run launch/setup.sh, or load the modules that it was run with"


def check_mpi_of_petsc(world: World) -> list[Finding]:
    """One MPI library for mpi4py and PETSc, which sees the same ranks. Collective."""
    from mpi4py import MPI

    name = MPI.Get_library_version().split(",")[0].splitlines()[0]
    found = [Finding(Level.good, "mpi4py", f"{package_version('mpi4py')} with {name}, {world.size} rank(s)")]
    from deeph_mpi.solvers import petsc

    library, slepc = petsc.load()  # raises when it sees another number of ranks
    same = MPI.Comm.Compare(library.COMM_WORLD.tompi4py(), MPI.COMM_WORLD) in (MPI.IDENT, MPI.CONGRUENT)
    loaded = mpi_libraries()
    remedy = "install an mpi4py that is compiled with the MPI of PETSc: pip install --no-binary mpi4py mpi4py, with its mpicc"
    if not same or len(loaded) > 1:
        text = f"mpi4py and PETSc do not share one MPI library: {', '.join(loaded) or name} are loaded"
        return [*found, Finding(Level.wrong, "MPI of PETSc", text, remedy)]
    where = f" ({loaded[0]})" if loaded else ""
    numbers = [".".join(map(str, one.Sys.getVersion())) for one in (library, slepc)]
    found.append(Finding(Level.good, "MPI of PETSc", f"the same library as that of mpi4py{where}"))
    found.append(Finding(Level.good, "PETSc, SLEPc", " and ".join(numbers)))
    if numbers[0].split(".")[:2] != numbers[1].split(".")[:2]:
        text = f"PETSc {numbers[0]} and SLEPc {numbers[1]} are of different releases"
        found.append(Finding(Level.wrong, "PETSc, SLEPc", text, "install the SLEPc of the same release"))
    return found


def mpi_libraries() -> list[str]:
    """Files of the MPI libraries loaded into this process; none where the system does not tell."""
    try:
        return sorted({os.path.realpath(name) for name in _MPI_LIBRARY.findall(_MAPS.read_text())})
    except OSError:
        return []


def check_scalars(world: World) -> list[Finding]:
    """Scalar and index types, packages that factor, and the orderings of MUMPS. Collective."""
    from deeph_mpi.solvers import petsc
    from deeph_mpi.solvers.backends import available_backends
    from deeph_mpi.solvers.orderings import mumps_orderings

    if petsc.is_complex():
        text = "complex: numbers of states cannot be proved, and at Γ factors take four times the memory"
        found = [Finding(Level.note, "scalars", text, "a PETSc with real scalars (launch/build_petsc.sh makes one)")]
    else:
        found = [Finding(Level.good, "scalars", "real: LDLᵀ at any k-point, numbers of states are proved")]
    bits = int(np.dtype(petsc.load()[0].IntType).itemsize * 8)
    limit = f": at most {petsc.index_limit():,} non-zeros on a rank" if bits == 32 else ""
    found.append(Finding(Level.good, "indices", f"{bits} bits{limit}"))
    packages = [name for name in available_backends() if name != "petsc"]
    if "mumps" not in packages:
        text = f"no MUMPS: {'factors by ' + ', '.join(packages) if packages else 'nothing factors on several ranks'}"
        level = Level.note if packages else Level.wrong
        found.append(Finding(level, "MUMPS", text, "a PETSc that was configured with MUMPS (launch/build_petsc.sh)"))
        return found
    orderings = mumps_orderings()
    text = f"orders with {', '.join(orderings) or 'minimum degree only'}"
    if {"METIS", "Scotch"} & set(orderings):
        found.append(Finding(Level.good, "MUMPS", text))
    else:
        remedy = (
            "on Debian install libmumps-ptscotch-5.x of the same version; elsewhere a MUMPS built with METIS or Scotch"
        )
        found.append(
            Finding(Level.note, "MUMPS", f"{text}: factors are a tenth to a fifth larger than need be", remedy)
        )
    return found


def check_hdf5(world: World) -> list[Finding]:
    """A file written and read again on every rank. Collective."""
    folder = Path(tempfile.mkdtemp(prefix="deeph-mpi-"))
    try:
        import h5py

        values = np.arange(1000.0) + world.rank
        with h5py.File(folder / "test.h5", "w") as file:
            file.create_dataset("values", data=values, compression="gzip")
        with h5py.File(folder / "test.h5", "r") as file:
            same = bool(np.array_equal(file["values"][:], values))
        problem = "" if same else "what is read differs from what was written"
    except (ImportError, OSError) as error:
        problem = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problems = [text for text in world.comm.allgather(problem) if text]
    if problems:
        remedy = f"{_SETUP}; or point TMPDIR to a disk that can be written"
        return [Finding(Level.wrong, "h5py", problems[0], remedy)]
    return [Finding(Level.good, "h5py", f"{package_version('h5py')} writes and reads")]


def check_torch(world: World) -> list[Finding]:
    """torch, and a product on every GPU that a rank sees. Collective."""
    try:
        import torch
    except ImportError as error:
        return [Finding(Level.wrong, "torch", str(error), f"{_SETUP}; `solve` works without it, `infer` does not")]
    found = [Finding(Level.good, "torch", f"{torch.__version__}, {torch.get_num_threads()} thread(s)")]
    cards = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not seen:
        if cards and torch.version.cuda is None:
            text = f"{len(cards)} card(s) in this node, but this torch was built without CUDA"
            found.append(Finding(Level.note, "CUDA", text, "install torch's CUDA build into the environment"))
        elif cards:
            text = f"{len(cards)} card(s) in this node, but torch {torch.__version__} cannot use them"
            remedy = "compare nvidia-smi's driver with the CUDA version of torch; see CUDA_VISIBLE_DEVICES"
            found.append(Finding(Level.note, "CUDA", text, remedy))
        else:
            found.append(Finding(Level.good, "CUDA", "no GPU here: the network runs on the CPU"))
        return found
    for index in range(seen):
        name = torch.cuda.get_device_name(index)
        try:
            a = torch.eye(64, device=f"cuda:{index}", dtype=torch.float64)
            good = bool(((a @ a) - a).abs().max().item() == 0)
        except RuntimeError as error:
            text = f"{index}, {name}: {str(error).splitlines()[0]}"
            found.append(Finding(Level.wrong, "GPU", text, "a torch whose CUDA build knows this card"))
            continue
        level, said = (Level.good, "computes") if good else (Level.wrong, "computes wrongly")
        found.append(Finding(level, "GPU", f"{index}, {name}: {said}", "" if good else "have the card checked"))
    return found


def check_threads(world: World) -> list[Finding]:
    """As many threads as cores. Collective."""
    from deeph_mpi.parallel.threads import core_load

    threads = int(os.environ["OMP_NUM_THREADS"])
    load = world.max(core_load(world, threads))
    text = f"{threads} a rank, {load:.2g} on the busiest core"
    if load > 1.01:
        remedy = "fewer ranks or a lower OMP_NUM_THREADS; with Open MPI --bind-to none, or --map-by slot:PE=THREADS"
        return [Finding(Level.note, "threads", f"{text}: they wait for each other", remedy)]
    return [Finding(Level.good, "threads", text)]
