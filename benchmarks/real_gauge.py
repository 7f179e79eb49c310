"""Factorizations at a general k in the real gauge of a crystal against matrices of twice the dimension, and against Γ.

    OMP_NUM_THREADS=1 python benchmarks/real_gauge.py DIRECTORY… [--target -4.5] [--states 20] [--repeat 1]

Each DIRECTORY holds H and S in the DeepH layout, of a structure with an inversion or C2z. Every form runs in a process of its
own, in turn, at a first k-point and then at the one whose numbers are given, with the symbolic analysis of the first. Seconds
are those of the processor, so that a shared machine does not show; memory is what the process grew by at its peak after the
matrices were read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FORMS = {"Γ": "never", "Γ, real gauge": "always", "general k": "auto", "general k, doubled": "never"}
POINTS = {True: np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]), False: np.array([[2 / 3, 1 / 3, 0.0], [0.31, 0.12, 0.0]])}


def run(form: str, directory: Path, target: float, states: int) -> dict[str, object]:
    """Solve in one form."""
    from deeph_mpi.assembly.pencil import PencilAssembler
    from deeph_mpi.assembly.real_gauge import choose_gauge
    from deeph_mpi.assembly.rows import RowMap
    from deeph_mpi.data.geometry import read_geometry
    from deeph_mpi.data.parallel import read_rows
    from deeph_mpi.domain.rcb import partition_atoms
    from deeph_mpi.parallel import World
    from deeph_mpi.parallel.memory import peak_memory, reset_peak_memory, resident_memory, return_freed_memory
    from deeph_mpi.solvers.factor import ShiftedFactor
    from deeph_mpi.solvers.slicing import nearest_states

    world = World.default()
    structure, info = read_geometry(directory)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    rows = RowMap(partition_atoms(structure, np.ones(len(structure)), 1), orbitals)
    blocks = [
        read_rows(world, directory / f"{name}.h5", rows.partition.owner, orbitals)
        for name in ("hamiltonian", "overlap")
    ]
    points = POINTS[form.startswith("Γ")]
    gauge = None
    if FORMS[form] != "never":
        gauge = choose_gauge(structure, info.orbital_map, points, always=FORMS[form] == "always")
        if gauge is None:
            raise SystemExit(f"the structure in {directory} has no operation that keeps all k-points")
    return_freed_memory()
    reset_peak_memory()
    before, begin = resident_memory(), time.process_time()
    assembler = PencilAssembler(world, rows, *blocks, gauge=gauge)
    del blocks
    pencil = assembler.pencil(points[0])
    assembled = time.process_time() - begin
    factor = ShiftedFactor(pencil)
    factor.factorize(target)
    begin = time.process_time()
    assembler.pencil(points[1], pencil)
    filled = time.process_time() - begin
    factor.renew()
    begin = time.process_time()
    factor.factorize(target)
    factorized = time.process_time() - begin
    begin = time.process_time()
    found = nearest_states(factor, target, states, factor.shift, prove=False).nearest(target, states, 1e-6)
    solved = time.process_time() - begin
    cost = factor.cost
    assert cost is not None
    return {
        "orbitals": rows.dimension,
        "assemble": assembled,
        "fill": filled,
        "factor": factorized,
        "states": solved,
        "elements": cost.elements,
        "flops": cost.flops,
        "mumps": cost.memory,
        "memory": peak_memory() - before,
        "energies": found.energies.tolist(),
        "first": found.first,
    }


def in_process(form: str, directory: Path, target: float, states: int) -> dict[str, object]:
    """Run one form in a process of its own."""
    options = ["--target", str(target), "--states", str(states), "--run", form]
    done = subprocess.run(
        [sys.executable, __file__, str(directory), *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{form} failed on {directory}:\n{done.stderr[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace) -> None:
    """Time all directories in turn and print the table."""
    print("| orbitals | form | L, million | Gflop | MUMPS GB | process GB | assemble | fill | factor | states |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for directory in arguments.directories:
        runs: dict[str, list[dict[str, object]]] = {form: [] for form in arguments.forms}
        for _ in range(arguments.repeat):
            for form in arguments.forms:
                runs[form].append(in_process(form, directory, arguments.target, arguments.states))
        for form, results in runs.items():
            one = results[0]
            seconds = [min(r[name] for r in results) for name in ("assemble", "fill", "factor", "states")]
            sizes = one["elements"] / 1e6, one["flops"] / 1e9, one["mumps"] / 1e9, one["memory"] / 1e9
            print(
                f"| {one['orbitals']} | {form} | {sizes[0]:.0f} | {sizes[1]:.0f} | {sizes[2]:.2f} | {sizes[3]:.2f} | "
                + " | ".join(f"{s:.1f}" for s in seconds)
                + " |",
                flush=True,
            )
        pairs = [forms for forms in (list(FORMS)[:2], list(FORMS)[2:]) if all(runs.get(form) for form in forms)]
        for forms in pairs:
            a, b = (runs[form][0] for form in forms)
            low = min(a["first"], b["first"])
            both = [
                dict(zip(range(r["first"] - low, r["first"] - low + 10**6), r["energies"], strict=False))
                for r in (a, b)
            ]
            common = both[0].keys() & both[1].keys()
            worst = max(abs(both[0][n] - both[1][n]) for n in common)
            print(f"{' and '.join(forms)}: {len(common)} states differ by at most {worst:.1e} eV", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--target", type=float, default=-4.5, help="eV")
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--run", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments.run, arguments.directories[0], arguments.target, arguments.states)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
