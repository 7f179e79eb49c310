"""What one structure of a dataset holds: complete or not, distances, decay, zero of energy, smallest eigenvalue of S."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from scipy.linalg import eigvalsh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.data.hermitian import image_reach
from deeph_mpi.data.members import read_member
from deeph_mpi.data.ragged import find, pair_keys
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.errors import DeephError
from deeph_mpi.structure.structure import Structure

__all__ = ["BIN", "Survey", "survey"]

BIN = 0.25  # Å, of the decay
_DENSE = 1500  # orbitals up to which S is diagonalized
_CHECKED_K = ((0.0, 0.0, 0.0), (0.31, 0.17, 0.23))
_NEAR = 5.0  # Å: distances that tell structures apart
_ROUNDED = 1e-3  # Å


@dataclass
class Survey:
    """Facts of one structure; with `error` set the others are empty.

    Attributes:
        name: of its folder.
        error: why it cannot be used.
        numbers: (N,) atomic numbers.
        shells: element → shells.
        pairs: number of blocks.
        range: largest distance of any pair, Å.
        complete_to: up to this distance (Å) no pair is missing; equal to `range` when none is.
        shortest: "A-B" → shortest distance, Å.
        decay: "A-B" → (bins, 2) largest |S| and |H| (eV) in intervals of `BIN` Å, after removing the common zero.
        smallest: smallest eigenvalue of S at Γ and a general k; None when it is too large.
        zero: μ = ⟨H, S⟩ / ⟨S, S⟩, eV.
        vacuum, fermi: as info.json says, eV.
        fingerprint: the same for the same structure, whatever its order, orientation or origin.
    """

    name: str
    error: str | None = None
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shells: dict[str, list[int]] = field(default_factory=dict)
    pairs: int = 0
    range: float = 0.0
    complete_to: float = 0.0
    shortest: dict[str, float] = field(default_factory=dict)
    decay: dict[str, np.ndarray] = field(default_factory=dict)
    smallest: float | None = None
    zero: float = 0.0
    vacuum: float | None = None
    fermi: float | None = None
    fingerprint: str = ""


def survey(path: str | os.PathLike[str]) -> Survey:
    """Read one structure of a dataset and look at it. Never raises for what is wrong with its data.

    Args:
        path: directory in the DeepH layout, or FILE/NAME of a packed dataset.
    """
    path = Path(path)
    try:
        return survey_system(read_member(path), path.name)
    except (DeephError, OSError) as error:
        return Survey(path.name, str(error))


def survey_system(system: DeephSystem, name: str) -> Survey:
    """The same of a system that was read already."""
    structure, overlap, hamiltonian = system.structure, system.overlap, system.hamiltonian
    assert hamiltonian is not None
    pairs = overlap.pairs
    bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
    lengths = np.linalg.norm(bonds, axis=1)
    same = _without_spin(hamiltonian, overlap, system.info.spinful)
    s_values = overlap.entries.astype(np.float64)
    zero = float(same @ s_values / (s_values @ s_values))
    largest = np.stack([_largest(overlap), _largest(BlockSet(pairs, overlap.offsets, same - zero * s_values))], axis=1)
    found = Survey(name, numbers=structure.numbers, shells=system.info.orbital_map.to_symbols(), pairs=len(pairs))
    found.range = float(lengths.max())
    found.complete_to = _complete_to(structure, pairs, found.range)
    z = np.sort(structure.numbers[pairs[:, 3:]], axis=1)
    onsite = (pairs[:, :3] == 0).all(axis=1) & (pairs[:, 3] == pairs[:, 4])
    bins = np.minimum((lengths / BIN).astype(np.int64), int(found.range / BIN))
    for first, second in np.unique(z[~onsite], axis=0).tolist():
        chosen = (z == (first, second)).all(axis=1) & ~onsite
        kind = f"{chemical_symbols[first]}-{chemical_symbols[second]}"
        found.shortest[kind] = float(lengths[chosen].min())
        table = np.zeros((int(found.range / BIN) + 1, 2))
        np.maximum.at(table, bins[chosen], largest[chosen])
        found.decay[kind] = table
    found.smallest = _smallest(system)
    found.zero = zero
    found.vacuum, found.fermi = system.info.vacuum_level_eV, system.info.fermi_energy_eV
    found.fingerprint = _fingerprint(structure)
    return found


def _without_spin(hamiltonian: BlockSet, overlap: BlockSet, spinful: bool) -> np.ndarray:
    """Entries of H on those of S: for spinors the mean of ↑↓ diagonals, real part."""
    if not spinful:
        return hamiltonian.entries.astype(np.float64)
    values = np.empty(len(overlap.entries))
    for index in range(len(overlap)):
        part = slice(overlap.offsets[index], overlap.offsets[index + 1])
        block = hamiltonian.entries[hamiltonian.offsets[index] : hamiltonian.offsets[index + 1]]
        columns = _columns(overlap, index, block.size)
        square = block.reshape(-1, 2 * columns)
        rows = len(square) // 2
        values[part] = ((square[:rows, :columns] + square[rows:, columns:]).real / 2).ravel()
    return values


def _columns(overlap: BlockSet, index: int, size: int) -> int:
    """Columns of a plain block: those of the onsite block of its second atom."""
    j = overlap.pairs[index, 4]
    onsite = np.flatnonzero((overlap.pairs == (0, 0, 0, j, j)).all(axis=1))[0]
    return int(np.sqrt(overlap.offsets[onsite + 1] - overlap.offsets[onsite]))


def _largest(blocks: BlockSet) -> np.ndarray:
    return np.maximum.reduceat(np.abs(blocks.entries), blocks.offsets[:-1]).astype(np.float64)


def _complete_to(structure: Structure, pairs: np.ndarray, reach: float) -> float:
    """Distance of the nearest pair that is missing; `reach` when none is."""
    near = neighbour_pairs(structure, np.arange(len(structure)), reach)
    wanted = np.column_stack([near.R, near.i, near.j]).astype(np.int64)
    if not len(wanted):
        return reach
    limit = max(image_reach(pairs), image_reach(wanted))
    keys = np.sort(pair_keys(pairs, len(structure), limit))
    missing = find(keys, pair_keys(wanted, len(structure), limit)) < 0
    return float(near.distances[missing].min()) if missing.any() else reach


def _smallest(system: DeephSystem) -> float | None:
    from deeph_mpi.data.supercell import coordinates

    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    total = int(orbitals.sum())
    if total > _DENSE:
        return None
    pair, rows, columns = coordinates(system.overlap, orbitals)
    values = []
    for k in _CHECKED_K:
        matrix = np.zeros((total, total), dtype=np.complex128 if any(k) else np.float64)
        phases = np.exp(2j * np.pi * (system.overlap.pairs[:, :3] @ np.array(k)))
        np.add.at(matrix, (rows, columns), system.overlap.entries * (phases if any(k) else phases.real)[pair])
        values.append(float(eigvalsh(matrix, subset_by_index=[0, 0])[0]))
    return min(values)


def _fingerprint(structure: Structure) -> str:
    near = neighbour_pairs(structure, np.arange(len(structure)), _NEAR)
    z = np.sort(structure.numbers[np.column_stack([near.i, near.j])], axis=1)
    code = z[:, 0] * 1000 + z[:, 1]
    table = np.column_stack([code, np.round(near.distances / _ROUNDED).astype(np.int64)])
    table = table[np.lexsort(table.T[::-1])]
    return hashlib.sha256(np.sort(structure.numbers).tobytes() + table.astype(np.int64).tobytes()).hexdigest()[:16]
