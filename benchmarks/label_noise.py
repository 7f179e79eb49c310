"""Noise of the labels: how far CP2K's H moves when all atoms are shifted rigidly against its real-space grid.

    PYTHONPATH=examples/bilayer_graphene/make_data \\
        python benchmarks/label_noise.py STRUCTURE_DIRECTORY WORK_DIRECTORY [--kgrid 4 4 1] [--cp2k cp2k.psmp]

STRUCTURE_DIRECTORY is in the DeepH layout and was made with the settings of examples/bilayer_graphene/make_data. Its
structure is run again (a) as it is, for comparison with the stored labels, and (b) shifted by half a step of the finest
grid along every lattice vector (`--steps`). The physics of both is the same; what differs between them, no model that
respects translations can learn. Each H is brought to its own vacuum level, H − V_vac S; blocks are paired by bond vector,
since image indices belong to the wrapped atoms. Means are over all elements of the stored blocks after fitting out one
common shift μ = ⟨ΔH, S⟩ / ⟨S, S⟩, as in benchmarks/accuracy.py. Eigenvalues are those of CP2K's complete matrices within
±2 eV of E_F, by index. Runs that are complete in WORK_DIRECTORY (`a`, `b`) are not repeated.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.linalg
from make_data import bloch, write_input

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.structure.structure import Structure

KPOINTS = [[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0], [0.21, -0.13, 0.0]]
WINDOW = 2.0  # eV on either side of E_F
GRID_INFORMATION = "&FORCE_EVAL\n &PRINT\n  &GRID_INFORMATION\n  &END\n &END"


def main() -> None:
    """Run what is missing and print two tables in meV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", type=Path, help="directory in the DeepH layout")
    parser.add_argument("work", type=Path, help="directory for CP2K's files")
    parser.add_argument("--kgrid", type=int, nargs=3, default=(4, 4, 1), help="of the stored labels (default 4 4 1)")
    parser.add_argument("--steps", type=float, nargs=3, default=(0.5, 0.5, 0.5), help="shift in grid steps (default ½)")
    parser.add_argument("--cp2k", default="cp2k.psmp", help="command that runs CP2K (default cp2k.psmp)")
    arguments = parser.parse_args()
    stored = read_system(arguments.structure)
    structure = stored.structure
    kgrid = tuple(arguments.kgrid)

    plain = run(arguments.work / "a", structure, kgrid, arguments.cp2k)
    grid = finest_grid(arguments.work / "a" / "run.out")
    shift = np.array(arguments.steps) / grid
    moved = replace(structure, positions=structure.positions + shift @ structure.cell)
    shifted = run(arguments.work / "b", moved, kgrid, arguments.cp2k)
    if not np.array_equal(grid, finest_grid(arguments.work / "b" / "run.out")):
        sys.exit("label_noise: the two runs have different grids")

    lengths = np.linalg.norm(shift[:, None] * structure.cell, axis=1)
    print(f"{arguments.structure}: finest grid {'×'.join(map(str, grid))}, shift along the vectors {lengths} Å")
    print(f"{'':<26}{'stored':>12}{'a':>12}{'b':>12}")
    for name in ("vacuum_level_eV", "fermi_energy_eV"):
        values = (getattr(system.info, name) for system in (stored, plain, shifted))
        print(f"{name:<26}" + "".join(f"{value:12.6f}" for value in values))
    titles = ("H all", "onsite", "hopping", "H rms", "H max", "mu", "S max", "E", "E, mu out", "E max")
    print(f"{'meV (S: 1)':<26}" + "".join(f"{title:>11}" for title in titles))
    zero = np.zeros(3)
    print(line("a - stored", [*element_errors(stored, plain, stored, zero), *[np.nan] * 3]))
    elements = element_errors(plain, shifted, stored, shift)
    print(line("b - a", [*elements, *eigenvalue_errors(plain, shifted, 1e-3 * elements[5])]))


def line(name: str, row: list[float]) -> str:
    """One line of the table."""
    return f"{name:<26}" + "".join(
        f"{value:11.1e}" if index == 6 else f"{value:11.4f}" for index, value in enumerate(row)
    )


def run(directory: Path, structure: Structure, kgrid: tuple[int, int, int], command: str) -> DeephSystem:
    """CP2K's complete matrices (pairs not cut off), after a run of CP2K unless a finished one is there."""
    output = directory / "run.out"
    if not (output.exists() and "PROGRAM ENDED AT" in output.read_text()):
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("run*"):
            old.unlink()
        write_input(directory / "run.inp", structure, kgrid)
        text = (directory / "run.inp").read_text()
        (directory / "run.inp").write_text(text.replace("&FORCE_EVAL", GRID_INFORMATION, 1))
        with output.open("w") as file:
            code = subprocess.run(
                [*shlex.split(command), "-i", "run.inp"],
                cwd=directory,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if code:
            sys.exit(f"label_noise: '{command}' ended with code {code}; see {output}")
    if "SCF run converged in" not in output.read_text():
        sys.exit(f"label_noise: not converged; see {output}")
    return read_cp2k(directory)


def finest_grid(output: Path) -> np.ndarray:
    """(3,) points of CP2K's finest real-space grid."""
    points = re.findall(r"PW_GRID\|\s+Bounds\s+[123]\s+-?\d+\s+-?\d+\s+Points:\s+(\d+)", output.read_text())
    if not points or len(points) % 3:
        sys.exit(f"label_noise: no grid sizes in '{output}'")
    grids = np.array(points, dtype=int).reshape(-1, 3)
    return grids[int(np.argmax(grids.prod(axis=1)))]


def same_blocks(system: DeephSystem, moved: DeephSystem, pairs: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(n,) indices of the blocks of `moved` on the bonds that `pairs` are in `system`; −1 where it has none.

    Args:
        system: where the image indices of `pairs` belong.
        moved: the same atoms in the same order, shifted, and wrapped anew.
        pairs: (n, 5) R1, R2, R3, i, j.
        shift: (3,) fractional.
    """
    fractional, moved_to = (np.linalg.solve(s.structure.cell.T, s.structure.positions.T).T for s in (system, moved))
    jumps = moved_to - fractional - shift
    cells = np.round(jumps).astype(int)
    if np.abs(jumps - cells).max() > 1e-8:
        sys.exit("label_noise: the two structures are not the same up to the shift")
    i, j = pairs[:, 3], pairs[:, 4]
    wanted = np.concatenate([pairs[:, :3] + cells[i] - cells[j], pairs[:, 3:]], axis=1)
    places = {tuple(pair): index for index, pair in enumerate(moved.overlap.pairs.tolist())}
    found = np.array([places.get(tuple(pair), -1) for pair in wanted.tolist()])
    bonds, others = (bond_vectors(s.structure, p) for s, p in ((system, pairs), (moved, wanted)))
    if np.abs(bonds - others).max() > 1e-6:
        sys.exit("label_noise: bond vectors differ")
    return found


def bond_vectors(structure: Structure, pairs: np.ndarray) -> np.ndarray:
    """(n, 3) Å."""
    ends = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell
    return ends - structure.positions[pairs[:, 3]]


def entries(blocks: BlockSet, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Elements of the blocks in the order given; zeros for index −1 (below CP2K's print threshold)."""
    parts = []
    for index, size in zip(indices.tolist(), sizes.tolist(), strict=True):
        one = np.zeros(size) if index < 0 else blocks.entries[blocks.offsets[index] : blocks.offsets[index + 1]]
        parts.append(one.astype(float))
    return np.concatenate(parts)


def element_errors(first: DeephSystem, second: DeephSystem, stored: DeephSystem, shift: np.ndarray) -> list[float]:
    """MAE of H − V_vac S over all stored elements, onsite and hopping, RMS, largest, μ (meV), and largest ΔS."""
    pairs, sizes = stored.overlap.pairs, np.diff(stored.overlap.offsets)
    matrices = []
    for system, offset in ((first, np.zeros(3)), (second, shift)):
        indices = same_blocks(stored, system, pairs, offset)
        assert system.hamiltonian is not None
        h, s = (entries(blocks, indices, sizes) for blocks in (system.hamiltonian, system.overlap))
        matrices.append((h - (system.info.vacuum_level_eV or 0.0) * s, s))
    (h_first, s), (h_second, s_second) = matrices
    difference = h_second - h_first
    mu = float(difference @ s / (s @ s))
    rest = 1e3 * (difference - mu * s)
    onsite = np.repeat((pairs[:, 3] == pairs[:, 4]) & ~pairs[:, :3].any(axis=1), sizes)
    means = [float(np.abs(part).mean()) for part in (rest, rest[onsite], rest[~onsite])]
    return [
        *means,
        float(np.sqrt((rest**2).mean())),
        float(np.abs(rest).max()),
        1e3 * mu,
        float(np.abs(s_second - s).max()),
    ]


def eigenvalue_errors(first: DeephSystem, second: DeephSystem, mu: float) -> list[float]:
    """Mean absolute difference near E_F in meV, both relative to the vacuum; with μ out; largest with μ out."""
    orbitals = first.info.orbital_map.orbitals(first.structure.numbers)
    differences = []
    for k in np.array(KPOINTS):
        levels = []
        for system in (first, second):
            assert system.hamiltonian is not None
            h, s = (bloch(blocks, orbitals, k) for blocks in (system.hamiltonian, system.overlap))
            levels.append(scipy.linalg.eigh(h, s, eigvals_only=True) - (system.info.vacuum_level_eV or 0.0))
        fermi = (first.info.fermi_energy_eV or 0.0) - (first.info.vacuum_level_eV or 0.0)
        near = np.abs(levels[0] - fermi) < WINDOW
        differences.append((levels[1] - levels[0])[near])
    found = 1e3 * np.concatenate(differences)
    rest = np.abs(found - 1e3 * mu)
    return [float(np.abs(found).mean()), float(rest.mean()), float(rest.max())]


if __name__ == "__main__":
    main()
