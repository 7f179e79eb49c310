"""Make these files from full ones: matrices rounded to an absolute precision, then compressed.

    python shrink.py SOURCE TARGET [--hamiltonian 1e-5] [--overlap 1e-8]

Prints the sizes and what the rounding does to the eigenvalues at Γ, (1/3, 1/3, 0) and a general point.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.linalg import eigh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem, read_system, write_system

KPOINTS = np.array([[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0], [0.21, -0.13, 0.0]])
WINDOW = 5.0  # eV


def rounded(blocks: BlockSet, precision: float) -> BlockSet:
    """Entries moved by less than `precision`, to multiples of a power of two: the mantissas end in zeros."""
    step = 2.0 ** np.floor(np.log2(2 * precision))
    entries = (np.round(blocks.entries.astype(np.float64) / step) * step).astype(np.float32)
    return BlockSet(blocks.pairs, blocks.offsets, entries)


def bloch(blocks: BlockSet, orbitals: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Dense Σ_R exp(2πi k·R) A(R)."""
    first = np.concatenate([[0], np.cumsum(orbitals)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*image, i, j) in enumerate(blocks.pairs):
        phase = np.exp(2j * np.pi * np.dot(k, image))
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phase * blocks.block(index, orbitals)
    return matrix


def levels(system: DeephSystem, k: np.ndarray) -> tuple[np.ndarray, float]:
    """Eigenvalues in eV, and the smallest eigenvalue of S."""
    assert system.hamiltonian is not None
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    overlap = bloch(system.overlap, orbitals, k)
    smallest = np.linalg.eigvalsh(overlap)[0]
    return eigh(bloch(system.hamiltonian, orbitals, k), overlap, eigvals_only=True), float(smallest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--hamiltonian", type=float, default=1e-5, help="precision of H in eV (default 1e-5)")
    parser.add_argument("--overlap", type=float, default=1e-8, help="precision of S (default 1e-8)")
    arguments = parser.parse_args()
    full = read_system(arguments.source)
    assert full.hamiltonian is not None
    assert full.info.fermi_energy_eV is not None
    small = replace(
        full,
        hamiltonian=rounded(full.hamiltonian, arguments.hamiltonian),
        overlap=rounded(full.overlap, arguments.overlap),
    )
    write_system(arguments.target, small, compress=True)
    if (arguments.source / "reference.json").is_file():
        shutil.copyfile(arguments.source / "reference.json", arguments.target / "reference.json")
    before, after = (
        sum(file.stat().st_size for file in folder.iterdir()) for folder in (arguments.source, arguments.target)
    )
    print(f"{arguments.target}: {before / 1e6:.2f} MB → {after / 1e6:.2f} MB")
    for k in KPOINTS:
        (exact, _), (now, smallest) = levels(full, k), levels(read_system(arguments.target), k)
        near = np.abs(exact - full.info.fermi_energy_eV) < WINDOW
        change = np.abs(now - exact)
        print(
            f"  k = {np.round(k, 3)}: eigenvalues move by at most {1e3 * change[near].max():.3f} meV within {WINDOW:g} eV "
            f"of E_F, {1e3 * change.max():.2f} meV anywhere; smallest eigenvalue of S {smallest:.2e}"
        )


if __name__ == "__main__":
    main()
