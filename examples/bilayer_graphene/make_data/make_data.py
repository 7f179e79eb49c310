"""Make training data with CP2K: structures, runs, conversion to the DeepH layout, reference eigenvalues.

    python make_data.py bilayer_graphene --count 40 --cp2k "mpirun -n 8 cp2k.psmp" --out data

Every structure becomes `OUT/NNN` with POSCAR, info.json (including `vacuum_level_eV`), overlap.h5, hamiltonian.h5 and
reference.json: eigenvalues in eV of CP2K's complete matrices, not truncated at the cutoff. CP2K's own files stay in
`OUT/NNN.cp2k` until the conversion has succeeded. A structure that is there already is skipped, so an interrupted run
is continued by the same command. PBE, GTH pseudopotentials, DZVP-MOLOPT-SR-GTH, 200 Ry, Fermi smearing at 500 K.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from scipy.linalg import eigh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.deeph import DeephSystem, write_system
from deeph_mpi.errors import DeephError
from deeph_mpi.structure.structure import Structure

VALENCE = {"B": 3, "C": 4, "N": 5}
KPOINTS = [[0.0, 0.0, 0.0], [1 / 3, 2 / 3, 0.0], [0.21, -0.13, 0.0]]  # Γ, K (vectors at 60°), a general point


@dataclass(frozen=True)
class Recipe:
    """How to make one kind of data.

    Attributes:
        build: the structure number n, given its random generator.
        kgrid: Monkhorst-Pack divisions.
        cutoff: pairs kept, Å.
    """

    build: Callable[[np.random.Generator], Structure]
    kgrid: tuple[int, int, int]
    cutoff: float


def hexagonal(constant: float, height: float, cells: int) -> np.ndarray:
    """(3, 3) vectors of `cells`×`cells` hexagonal cells, Å."""
    vectors = np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(3) / 2, 0.0], [0.0, 0.0, 0.0]]) * constant * cells
    vectors[2, 2] = height
    return vectors


def honeycomb(constant: float, cells: int) -> np.ndarray:
    """(2·cells², 3) positions of a honeycomb sheet at z = 0, sublattices alternating."""
    sites = [(i + s / 3, j + s / 3, 0.0) for i in range(cells) for j in range(cells) for s in (0, 1)]
    return np.array(sites) @ hexagonal(constant, 0.0, 1)


def bilayer_graphene(rng: np.random.Generator) -> Structure:
    """2×2 bilayer of 16 atoms: random registry, distance 3.2…3.7 Å, every coordinate displaced by 0.05 Å (normal)."""
    sheet, cell = honeycomb(2.46, 2), hexagonal(2.46, 20.0, 2)
    registry = rng.random(2) @ hexagonal(2.46, 0.0, 1)[:2]
    distance = rng.uniform(3.2, 3.7)
    lower, upper = sheet - [0, 0, distance / 2], sheet + registry + [0, 0, distance / 2]
    positions = np.concatenate([lower, upper])
    return Structure(np.full(16, 6), positions + rng.normal(0, 0.05, positions.shape), cell, np.ones(3, dtype=bool))


def graphene_unseen(rng: np.random.Generator) -> Structure:
    """What the bilayers lack, to try a network out: a vacancy, sheets 3.0 or 4.0 Å apart, strain; 15 or 16 atoms."""
    sheets = bilayer_graphene(rng)
    numbers, positions, cell = sheets.numbers.copy(), sheets.positions.copy(), sheets.cell.copy()
    kind = rng.choice(["vacancy", "close", "far apart", "strain"])
    if kind == "vacancy":
        keep = np.arange(16) != rng.integers(16)
        numbers, positions = numbers[keep], positions[keep]
    elif kind == "strain":
        strain = np.diag([*(1 + rng.uniform(-0.03, 0.03, 2)), 1.0])
        positions, cell = positions @ strain, cell @ strain
    else:
        now = positions[8:, 2].mean() - positions[:8, 2].mean()
        positions[8:, 2] += (3.0 if kind == "close" else 4.0) - now
    return Structure(numbers, positions, cell, np.ones(3, dtype=bool))


def ab_bilayer(rng: np.random.Generator) -> Structure:
    """Perfect AB bilayer graphene, 4 atoms, distance 3.35 Å."""
    sheet = honeycomb(2.46, 1)
    shifted = sheet + sheet[1] + [0, 0, 3.35]
    positions = np.concatenate([sheet, shifted]) - [0, 0, 3.35 / 2]
    return Structure(np.full(4, 6), positions, hexagonal(2.46, 20.0, 1), np.ones(3, dtype=bool))


def hbn_carbon(rng: np.random.Generator) -> Structure:
    """2×2 hBN sheet of 8 atoms, one of them replaced by C, every coordinate displaced by 0.06 Å (normal)."""
    positions = honeycomb(2.504, 2)
    numbers = np.tile([atomic_numbers["B"], atomic_numbers["N"]], 4)
    numbers[rng.integers(8)] = atomic_numbers["C"]
    cell = hexagonal(2.504, 16.0, 2)
    return Structure(numbers, positions + rng.normal(0, 0.06, positions.shape), cell, np.ones(3, dtype=bool))


def hbn_carbon_sheet(rng: np.random.Generator) -> Structure:
    """3×3 hBN sheet of 18 atoms, none to two B and as many N replaced by C, coordinates displaced by 0.06 Å (normal)."""
    return carbon_sheet(rng, int(rng.integers(3)))


def hbn_carbon_rich(rng: np.random.Generator) -> Structure:
    """The same with two B and two N replaced, in one of four sheets one and one: most arrangements have four carbon atoms."""
    return carbon_sheet(rng, 1 if rng.random() < 0.25 else 2)


def carbon_sheet(rng: np.random.Generator, count: int) -> Structure:
    """3×3 hBN sheet of 18 atoms, `count` B and as many N replaced by C, every coordinate displaced by 0.06 Å (normal)."""
    positions = honeycomb(2.504, 3)
    numbers = np.tile([atomic_numbers["B"], atomic_numbers["N"]], 9)
    for sublattice in (0, 1):
        numbers[2 * rng.permutation(9)[:count] + sublattice] = atomic_numbers["C"]
    cell = hexagonal(2.504, 16.0, 3)
    return Structure(numbers, positions + rng.normal(0, 0.06, positions.shape), cell, np.ones(3, dtype=bool))


def hbn_unseen(rng: np.random.Generator) -> Structure:
    """What the others lack, to try a network out: vacancies, three C around one site, ripples, strain; 17 or 18 atoms."""
    sheet = carbon_sheet(rng, 0)
    numbers, positions, cell = sheet.numbers.copy(), sheet.positions.copy(), sheet.cell.copy()
    keep = np.ones(18, dtype=bool)
    kind = rng.choice(["vacancy of B", "vacancy of N", "three C", "ripple", "strain"])
    if kind.startswith("vacancy"):
        keep[2 * rng.integers(9) + (kind == "vacancy of N")] = False
    elif kind == "three C":
        centre = positions[rng.integers(18)]
        vectors = (positions - centre) @ np.linalg.inv(cell)
        distance = np.linalg.norm((vectors - np.round(vectors)) @ cell, axis=1)
        numbers[np.argsort(distance)[1:4]] = atomic_numbers["C"]
    elif kind == "ripple":
        phase = positions @ np.linalg.inv(cell)[:, rng.integers(2)] + rng.random()
        positions[:, 2] += rng.uniform(0.3, 0.6) * np.sin(2 * np.pi * phase)
    else:
        strain = np.diag([*(1 + rng.uniform(-0.04, 0.04, 2)), 1.0])
        positions, cell = positions @ strain, cell @ strain
    return Structure(numbers[keep], positions[keep], cell, np.ones(3, dtype=bool))


RECIPES = {
    "bilayer_graphene": Recipe(bilayer_graphene, (4, 4, 1), 8.0),
    "graphene_unseen": Recipe(graphene_unseen, (4, 4, 1), 8.0),
    "ab_bilayer": Recipe(ab_bilayer, (9, 9, 1), 8.0),
    "hbn_carbon": Recipe(hbn_carbon, (4, 4, 1), 9.0),
    "hbn_carbon_sheet": Recipe(hbn_carbon_sheet, (3, 3, 1), 10.0),
    "hbn_carbon_rich": Recipe(hbn_carbon_rich, (3, 3, 1), 10.0),
    "hbn_unseen": Recipe(hbn_unseen, (3, 3, 1), 10.0),
}


def write_input(path: Path, structure: Structure, kgrid: tuple[int, int, int]) -> None:
    """Fill the template."""
    symbols = [chemical_symbols[number] for number in structure.numbers]
    kinds = "".join(
        f"  &KIND {symbol}\n   BASIS_SET DZVP-MOLOPT-SR-GTH\n   POTENTIAL GTH-PBE-q{VALENCE[symbol]}\n  &END\n"
        for symbol in sorted(set(symbols))
    )
    rows = [f"   {name} {x:.12f} {y:.12f} {z:.12f}" for name, (x, y, z) in zip("ABC", structure.cell, strict=True)]
    atoms = [
        f"   {name} {x:.12f} {y:.12f} {z:.12f}" for name, (x, y, z) in zip(symbols, structure.positions, strict=True)
    ]
    template = (Path(__file__).parent / "template.inp").read_text()
    path.write_text(
        template.format(
            project="run",
            kgrid=" ".join(map(str, kgrid)),
            empty_states=max(8, len(symbols)),
            cell="\n".join(rows),
            atoms="\n".join(atoms),
            kinds=kinds.rstrip("\n"),
        )
    )


def bloch(blocks: BlockSet, orbitals: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Dense Σ_R exp(2πi k·R) A(R)."""
    first = np.concatenate([[0], np.cumsum(orbitals)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    phases = np.exp(2j * np.pi * blocks.pairs[:, :3] @ k)
    for index, (i, j) in enumerate(blocks.pairs[:, 3:]):
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phases[index] * blocks.block(index, orbitals)
    return matrix


def eigenvalues(system: DeephSystem) -> list[list[float]]:
    """Eigenvalues in eV at KPOINTS."""
    assert system.hamiltonian is not None
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    levels = []
    for k in np.array(KPOINTS):
        matrices = (bloch(blocks, orbitals, k) for blocks in (system.hamiltonian, system.overlap))
        levels.append([round(float(level), 7) for level in eigh(*matrices, eigvals_only=True)])
    return levels


def make(recipe: Recipe, number: int, arguments: argparse.Namespace) -> None:
    """Make one structure, unless it is there."""
    name = f"{number + arguments.names_from:03d}"
    target = arguments.out / name
    if target.is_dir():
        print(f"{target}: there already", flush=True)
        return
    scratch = arguments.out / f"{name}.cp2k"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    structure = recipe.build(np.random.default_rng([arguments.seed, number]))
    write_input(scratch / "run.inp", structure, recipe.kgrid)
    with (scratch / "run.out").open("w") as output:
        command = [*shlex.split(arguments.cp2k), "-i", "run.inp"]
        code = subprocess.run(command, cwd=scratch, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        sys.exit(f"make_data: '{arguments.cp2k}' ended with code {code}; see {scratch / 'run.out'}")
    kept = read_cp2k(scratch, cutoff=recipe.cutoff)
    reference = {"kpoints": KPOINTS, "eigenvalues_eV": eigenvalues(read_cp2k(scratch))}
    partial = arguments.out / f"{name}.partial"
    write_system(partial, kept, np.float32, compress=True)
    (partial / "reference.json").write_text(json.dumps(reference) + "\n")
    partial.rename(target)
    if not arguments.keep:
        shutil.rmtree(scratch)
    print(f"{target}: {len(structure)} atoms, {len(kept.overlap)} blocks", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=RECIPES)
    parser.add_argument("--count", type=int, default=1, help="how many structures (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random structures (default 0)")
    parser.add_argument("--names-from", type=int, default=0, help="number that names the first one (default 0)")
    parser.add_argument(
        "--cp2k", default="cp2k.psmp", help="command that runs CP2K, with its launcher (default cp2k.psmp)"
    )
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the results (default data)")
    parser.add_argument("--keep", action="store_true", help="keep CP2K's own files")
    arguments = parser.parse_args()
    for number in range(arguments.count):
        try:
            make(RECIPES[arguments.system], number, arguments)
        except DeephError as error:
            sys.exit(f"make_data: {error}")


if __name__ == "__main__":
    main()
