"""Run CP2K on every structure of a folder and convert the results to the DeepH layout; see README.md."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.deeph import write_system
from deeph_mpi.errors import DataError, DeephError
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure

TEMPLATE = Path(__file__).parent.parent / "bilayer_graphene" / "make_data" / "template.inp"


def k_grid(structure: Structure, spacing: float) -> tuple[int, ...]:
    """Divisions for k-points at most `spacing` (1/Å) apart; 1 along directions that are not periodic."""
    lengths = np.linalg.norm(2 * np.pi * np.linalg.inv(structure.cell).T, axis=1)
    return tuple(int(count) for count in np.where(structure.pbc, np.ceil(lengths / spacing - 1e-6), 1))


def write_input(path: Path, structure: Structure, arguments: argparse.Namespace) -> None:
    """Fill the template."""
    symbols = [chemical_symbols[number] for number in structure.numbers]
    kinds = [
        f"  &KIND {symbol}\n   BASIS_SET {arguments.basis}\n   POTENTIAL {arguments.potential}\n  &END"
        for symbol in sorted(set(symbols))
    ]
    grid = arguments.kgrid or k_grid(structure, arguments.k_spacing)
    cell = [f"   {name} {x:.12f} {y:.12f} {z:.12f}" for name, (x, y, z) in zip("ABC", structure.cell, strict=True)]
    atoms = [
        f"   {name} {x:.12f} {y:.12f} {z:.12f}" for name, (x, y, z) in zip(symbols, structure.positions, strict=True)
    ]
    path.write_text(
        arguments.template.read_text().format(
            project="run",
            kgrid=" ".join(map(str, grid)),
            empty_states=max(8, len(symbols)),
            cell="\n".join(cell),
            atoms="\n".join(atoms),
            kinds="\n".join(kinds),
        )
    )


def make(source: Path, target: Path, arguments: argparse.Namespace) -> str:
    """Run and convert one structure.

    Raises:
        DeephError: an unreadable structure, a run that failed, or output that cannot be converted.
    """
    structure = read_structure(source)
    scratch = target.with_name(target.name + ".cp2k")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write_input(scratch / "run.inp", structure, arguments)
    with (scratch / "run.out").open("w") as output:
        command = [*shlex.split(arguments.cp2k), "-i", "run.inp"]
        code = subprocess.run(command, cwd=scratch, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise DataError(f"CP2K ended with code {code}; see '{scratch / 'run.out'}'")
    system = read_cp2k(scratch, cutoff=arguments.cutoff)
    partial = target.with_name(target.name + ".partial")
    write_system(partial, system, np.float32, compress=True)
    partial.rename(target)
    if not arguments.keep:
        shutil.rmtree(scratch)
    return f"{len(structure)} atoms, {len(system.overlap)} pairs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path, help="folder of structure files")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--cp2k", default="cp2k.psmp", help="command that runs CP2K, with its launcher")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="input with fields in braces")
    parser.add_argument("--basis", default="DZVP-MOLOPT-SR-GTH", help="basis set of every element")
    parser.add_argument("--potential", default="GTH-PBE", help="potential of every element")
    parser.add_argument("--k-spacing", type=float, default=0.3, help="largest distance of k-points, 1/Å (default 0.3)")
    parser.add_argument("--kgrid", type=int, nargs=3, help="k-point divisions, instead of --k-spacing")
    parser.add_argument("--cutoff", type=float, help="keep pairs up to this distance, Å (default all)")
    parser.add_argument("--keep", action="store_true", help="keep CP2K's own files")
    arguments = parser.parse_args()
    sources = sorted(
        path for path in arguments.structures.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    if not sources:
        sys.exit(f"run_cp2k: '{arguments.structures}' holds no files")
    failed = []
    for source in sources:
        target = arguments.out / source.stem
        if target.is_dir():
            print(f"{target}: there already", flush=True)
            continue
        try:
            print(f"{target}: {make(source, target, arguments)}", flush=True)
        except DeephError as error:
            failed.append(source.name)
            print(f"{target}: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"run_cp2k: {len(failed)} of {len(sources)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
