"""Independent dense H(k), S(k) from the files of the DeepH layout: plain loops, no code of the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.linalg


@dataclass
class DenseCrystal:
    """Blocks of one directory, by (R1, R2, R3, i, j), and the orbital count of every atom."""

    h: dict[tuple[int, ...], np.ndarray]
    s: dict[tuple[int, ...], np.ndarray]
    sizes: list[int]
    electrons: float

    def at(self, k: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
        """H(k), S(k) as complex matrices in atom order."""
        return _bloch(self.h, self.sizes, k), _bloch(self.s, self.sizes, k)

    def energies(self, k: tuple[float, float, float]) -> np.ndarray:
        """All eigenvalues at k, ascending."""
        return scipy.linalg.eigh(*self.at(k), eigvals_only=True)


def read_crystal(directory: Path) -> DenseCrystal:
    """Read a directory in the DeepH layout."""
    info = json.loads((directory / "info.json").read_text())
    lines = (directory / "POSCAR").read_text().split("\n")
    sizes = []
    for symbol, count in zip(lines[5].split(), lines[6].split(), strict=True):
        sizes += [sum(2 * shell + 1 for shell in info["elements_orbital_map"][symbol])] * int(count)
    h = _blocks(directory / "hamiltonian.h5")
    s = _blocks(directory / "overlap.h5")
    return DenseCrystal(h, s, sizes, info["occupation"])


def _blocks(path: Path) -> dict[tuple[int, ...], np.ndarray]:
    blocks = {}
    with h5py.File(path) as file:
        pairs = file["atom_pairs"][:]
        bounds = file["chunk_boundaries"][:]
        shapes = file["chunk_shapes"][:]
        entries = file["entries"][:].astype(float)
    for n in range(len(pairs)):
        blocks[tuple(int(x) for x in pairs[n])] = entries[bounds[n] : bounds[n + 1]].reshape(shapes[n])
    return blocks


def _bloch(blocks: dict[tuple[int, ...], np.ndarray], sizes: list[int], k: tuple[float, ...]) -> np.ndarray:
    first = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for (r1, r2, r3, i, j), block in blocks.items():
        phase = np.exp(2j * np.pi * (k[0] * r1 + k[1] * r2 + k[2] * r3))
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phase * block
    return matrix
