"""States at an energy against `scipy.sparse.linalg.eigsh(sigma=…)` (ARPACK and SuperLU), on the same pencils and one rank.

    OMP_NUM_THREADS=1 python benchmarks/eigensolver.py DIRECTORY… [--target -4.48] [--states 40] [--repeat 2]

Each DIRECTORY holds H and S in the DeepH layout. Ours runs with the proof that no state is missing and without it, which is
what eigsh gives. Every solver runs in a process of its own, in turn, with the threads of the environment; the reading is
not timed, and memory is what the process grew by at its peak. The table ends with the exponents of a fit over the sizes;
nested dissection of a plane has 1.5 for the flops and 1 (times a logarithm) for the memory (George, 1973).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SOLVERS = ("proved", "unproved", "scipy")


def run_ours(directory: Path, target: float, states: int, prove: bool) -> dict[str, object]:
    """Solve with this project at Γ."""
    from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory, resident_memory, return_freed_memory
    from deeph_mpi.solvers.spectrum import SolveOptions, spectrum

    assembler = assembled(directory)
    return_freed_memory()
    reset_peak_memory()
    before, begin = resident_memory(), time.perf_counter()
    options = SolveOptions(target=target, states=states, prove=prove)
    found = spectrum(assembler, np.zeros((1, 3)), options, release=True)
    return {
        "seconds": time.perf_counter() - begin,
        "memory": peak_memory() - before,
        "energies": found.energies[0].tolist(),
        "proved": bool(found.verified.all()),
        "factorizations": found.factorizations,
        "dimension": assembler.rows.dimension,
    }


def run_scipy(directory: Path, target: float, states: int) -> dict[str, object]:
    """Solve with eigsh at Γ, from the same matrices in compressed columns."""
    import scipy.sparse
    from scipy.sparse.linalg import eigsh

    from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory, resident_memory, return_freed_memory

    pencil = assembled(directory).pencil(np.zeros(3))
    matrices = []
    for matrix in (pencil.h, pencil.s):
        matrix.convert("aij")
        indptr, indices, data = matrix.getValuesCSR()
        matrices.append(scipy.sparse.csr_matrix((data, indices, indptr)).tocsc())
    pencil.destroy()
    del matrix, indptr, indices, data
    return_freed_memory()
    reset_peak_memory()
    before, begin = resident_memory(), time.perf_counter()
    energies = eigsh(matrices[0], states, matrices[1], sigma=target, return_eigenvectors=True)[0]
    return {
        "seconds": time.perf_counter() - begin,
        "memory": peak_memory() - before,
        "energies": np.sort(energies).tolist(),
        "dimension": matrices[0].shape[0],
    }


def assembled(directory: Path) -> object:
    """The blocks of a directory, on one rank."""
    from deeph_mpi.assembly.pencil import PencilAssembler
    from deeph_mpi.assembly.rows import RowMap
    from deeph_mpi.data.geometry import read_geometry
    from deeph_mpi.data.parallel import read_rows
    from deeph_mpi.domain.rcb import partition_atoms
    from deeph_mpi.parallel import World

    world = World.default()
    structure, info = read_geometry(directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), 1)
    h, s = (
        read_rows(world, directory / f"{name}.h5", partition.owner, orbitals) for name in ("hamiltonian", "overlap")
    )
    return PencilAssembler(world, RowMap(partition, orbitals), h, s)


def in_process(solver: str, directory: Path, target: float, states: int) -> dict[str, object]:
    """Run one solver in a process of its own."""
    command = [
        sys.executable,
        __file__,
        str(directory),
        "--target",
        str(target),
        "--states",
        str(states),
        "--run",
        solver,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{solver} failed on {directory}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> None:
    """Time all directories in turn and print the table and the fits."""
    print(
        f"{'orbitals':>9}  {'solver':<9}{'seconds':>9}{'GB':>7}  {'scipy / it':>10}  factorizations  largest difference"
    )
    table: dict[str, list[tuple[int, float, float]]] = {solver: [] for solver in SOLVERS}
    for directory in arguments.directories:
        times: dict[str, list[float]] = {solver: [] for solver in SOLVERS}
        last: dict[str, dict[str, object]] = {}
        for _ in range(arguments.repeat):
            for solver in SOLVERS:
                if solver == "scipy" and last["proved"]["dimension"] > arguments.scipy_up_to:
                    continue
                last[solver] = in_process(solver, directory, arguments.target, arguments.states)
                times[solver].append(last[solver]["seconds"])
        for solver, result in last.items():
            seconds = float(np.median(times[solver]))
            made, ratio, difference = result.get("factorizations", 1), "", ""
            if solver != "scipy" and "scipy" in last:
                ratio = f"{np.median(np.array(times['scipy']) / np.array(times[solver])):.1f}"
                mine, other = np.array(result["energies"]), np.array(last["scipy"]["energies"])
                difference = f"{max(np.abs(mine - e).min() for e in other):.1e} eV"
            table[solver].append((result["dimension"], seconds, result["memory"] / 1e9))
            print(
                f"{result['dimension']:9d}  {solver:<9}{seconds:9.1f}{result['memory'] / 1e9:7.2f}  {ratio:>10}  {made:>14}"
                f"  {difference}",
                flush=True,
            )
    for solver, rows in table.items():
        if len(rows) > 1:
            n, seconds, memory = np.log(np.array(rows)).T
            slopes = np.polyfit(n, seconds, 1)[0], np.polyfit(n, memory, 1)[0]
            print(f"{solver}: seconds ~ N^{slopes[0]:.2f}, memory ~ N^{slopes[1]:.2f}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--target", type=float, default=-4.48, help="eV")
    parser.add_argument("--states", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scipy-up-to", type=int, default=10**9, help="orbitals")
    parser.add_argument("--run", choices=SOLVERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        asked = arguments.directories[0], arguments.target, arguments.states
        print(
            json.dumps(run_scipy(*asked) if arguments.run == "scipy" else run_ours(*asked, arguments.run == "proved"))
        )
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
