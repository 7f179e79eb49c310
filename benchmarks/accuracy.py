"""Errors of a checkpoint against DFT: matrix elements and eigenvalues.

    python benchmarks/accuracy.py CHECKPOINT STRUCTURE_DIRECTORY…

Each directory is in the DeepH layout, with `reference.json` (k-points and eigenvalues of the DFT code's complete matrices)
where eigenvalues are to be compared. Errors of H are means over all elements of the stored blocks, after fitting out one
common shift μ = ⟨ΔH, S⟩ / ⟨S, S⟩ per structure; S is the model's own. Eigenvalues are those within ±2 eV of the DFT code's
Fermi level, compared by index, both relative to the vacuum level; the last column has the shift μ taken out as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import scipy.linalg

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import predict_alone

COLUMNS = ("H all", "onsite", "hopping", "S mean", "S worst", "E(±2 eV)", "E, μ out")


def main() -> None:
    """Print a table in meV (S: dimensionless)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint)
    rows = []
    print(f"{'structure':<28}" + "".join(f"{column:>11}" for column in COLUMNS))
    for directory in arguments.structures:
        rows.append(errors(model, directory))
        print(line(f"{directory.parent.name}/{directory.name}", rows[-1]), flush=True)
    mean = np.nanmean(np.array(rows), axis=0)
    mean[4] = max(row[4] for row in rows)
    print(line("mean (S worst: largest)", mean))


def line(name: str, row: np.ndarray | list[float]) -> str:
    """One line of the table."""
    shown = [f"{value:11.1e}" if index in (3, 4) else f"{value:11.3f}" for index, value in enumerate(row)]
    return f"{name:<28}" + "".join(shown)


def errors(model: HamiltonianModel, directory: Path) -> list[float]:
    """One row of the table."""
    system = read_system(directory)
    h, s = predict_alone(model, system.structure)
    orbitals = model.settings.orbitals.orbitals(system.structure.numbers)
    level = system.info.vacuum_level_eV or 0.0
    assert system.hamiltonian is not None
    places = {tuple(pair): index for index, pair in enumerate(h.pairs.tolist())}
    onsite, hopping, ds, product, norm = [], [], [], 0.0, 0.0
    for index, pair in enumerate(system.hamiltonian.pairs.tolist()):
        at = places[tuple(pair)]
        true_s = system.overlap.block(index, orbitals).astype(float)
        true_h = system.hamiltonian.block(index, orbitals) - level * true_s
        error = h.block(at, orbitals) - true_h
        product, norm = product + (error * true_s).sum(), norm + (true_s**2).sum()
        is_onsite = pair[3] == pair[4] and not any(pair[:3])
        (onsite if is_onsite else hopping).append((error.ravel(), true_s.ravel()))
        ds.append(np.abs(s.block(at, orbitals) - true_s).ravel())
    shift = product / norm
    means = []
    for group in (onsite + hopping, onsite, hopping):
        rest, overlap = (np.concatenate(parts) for parts in zip(*group, strict=True))
        means.append(1e3 * np.abs(rest - shift * overlap).mean())
    flat = np.concatenate(ds)
    return [*means, flat.mean(), flat.max(), *eigenvalue_errors(directory, system, h, s, orbitals, level, shift)]


def eigenvalue_errors(
    directory: Path,
    system: DeephSystem,
    h: BlockSet,
    s: BlockSet,
    orbitals: np.ndarray,
    level: float,
    shift: float,
) -> tuple[float, float]:
    """Mean absolute errors in meV of dense eigenvalues near E_F, as predicted and with μ out; NaN without reference."""
    path = directory / "reference.json"
    if not path.exists() or system.info.fermi_energy_eV is None:
        return float("nan"), float("nan")
    reference = json.loads(path.read_text())
    plain, shifted = [], []
    for k, energies in zip(reference["kpoints"], reference["eigenvalues_eV"], strict=True):
        matrices = [dense(blocks, orbitals, np.array(k)) for blocks in (h, s)]
        found = scipy.linalg.eigh(*matrices, eigvals_only=True)
        expected = np.array(energies)
        near = np.abs(expected - system.info.fermi_energy_eV) < 2.0
        difference = (found[: len(expected)] - (expected - level))[near]
        plain.append(difference)
        shifted.append(difference - shift)
    if not any(map(len, plain)):  # a wide gap
        return float("nan"), float("nan")
    return tuple(1e3 * np.abs(np.concatenate(parts)).mean() for parts in (plain, shifted))


def dense(blocks: BlockSet, orbitals: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Σ_R exp(2πi k·R) A(R)."""
    first = np.concatenate([[0], np.cumsum(orbitals)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for index, (*cell, i, j) in enumerate(blocks.pairs.tolist()):
        phase = np.exp(2j * np.pi * np.dot(k, cell))
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phase * blocks.block(index, orbitals)
    return matrix


if __name__ == "__main__":
    main()
