"""Systems made up for tests: random Hermitian blocks on random atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.structure.structure import Structure

ORBITALS = OrbitalMap.from_symbols({"B": [0, 1], "C": [0, 0, 1, 1, 2], "N": [0, 1, 2]})


def carbon_system() -> DeephSystem:
    """Like `random_system`, all atoms carbon."""
    return random_system(9, numbers=[6] * 7)


def random_system(
    seed: int,
    *,
    spinful: bool = False,
    noise: float = 0.0,
    dtype: type = np.float64,
    numbers: Sequence[int] = (6, 7, 5, 6, 7, 7, 5),
) -> DeephSystem:
    """Seven atoms of three elements, not grouped by element, in a small cell; S ≻ 0 is not claimed.

    `noise` breaks the Hermiticity of H by so much.
    """
    rng = np.random.default_rng(seed)
    kinds = np.array(numbers, dtype=np.int64)
    corners = np.array([[x, y, z] for x in (0.0, 2.0) for y in (0.0, 2.0) for z in (0.0, 2.0)])[:7]
    structure = Structure(
        kinds,
        corners + rng.uniform(-0.2, 0.2, (7, 3)),
        4.5 * np.eye(3) + rng.uniform(0, 0.3, (3, 3)),
        np.ones(3, bool),
    )
    orbitals = ORBITALS.orbitals(kinds)
    images = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-2, 0, 2)])
    pairs = [(*image, i, j) for image in images for i in range(7) for j in range(7) if rng.random() < 0.1]
    chosen = set(pairs) | {(0, 0, 0, i, i) for i in range(7)}
    chosen |= {(-a, -b, -c, j, i) for a, b, c, i, j in chosen}
    table = np.array(sorted(chosen), dtype=np.int64)

    def blocks(sizes: np.ndarray, kind: type, noise: float) -> BlockSet:
        made = BlockSet.allocate(table, sizes, kind)
        where = {tuple(pair): index for index, pair in enumerate(table.tolist())}
        for (a, b, c, i, j), index in where.items():
            partner = where[(-a, -b, -c, j, i)]
            if index > partner:
                continue
            value = rng.normal(size=(sizes[i], sizes[j])).astype(kind)
            if np.issubdtype(kind, np.complexfloating):
                value = value + 1j * rng.normal(size=value.shape)
            if index == partner:
                value = ((value + value.conj().T) / 2).astype(kind)
            made.block(partner, sizes)[:] = value.conj().T + noise * rng.normal(size=value.shape[::-1])
            made.block(index, sizes)[:] = value
        return sort_blocks(made)

    info = DeephInfo(ORBITALS, spinful=spinful, fermi_energy_eV=-1.5, occupation=27, vacuum_level_eV=3.25)
    return DeephSystem(
        structure,
        info,
        overlap=blocks(orbitals, dtype, 0.0),
        hamiltonian=blocks(orbitals * (2 if spinful else 1), np.complex128 if spinful else dtype, noise),
    )


def bloch(system: DeephSystem, which: str, k: Sequence[float]) -> np.ndarray:
    """Dense Σ_R exp(2πi k·R) A(R) of "overlap" or "hamiltonian", block by block."""
    blocks: BlockSet = getattr(system, which)
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*image, i, j) in enumerate(blocks.pairs):
        phase = np.exp(2j * np.pi * np.dot(k, image))
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phase * blocks.block(index, orbitals)
    return matrix
