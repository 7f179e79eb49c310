"""What any model must obey, whatever its weights: O(3), permutations, translations, Hermiticity, smoothness.

One function per fact. Each predicts a structure and a changed one and raises a `ConformanceError` with the measured number
and the tolerance when they do not fit each other; `check_conformance` runs all that apply. Models are in float64: in
float32 it would be rounding that is measured. Differences are relative to the largest element of H or S where that is above
1 eV or 1: see `difference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
import torch

from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.errors import ConformanceError, ModelError
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.subject import (
    Key,
    Matrices,
    Row,
    Subject,
    bond_nearest,
    course,
    difference,
    largest,
    predicted_blocks,
    relabelled,
    representation,
)
from deeph_mpi.structure.structure import Structure

__all__ = [
    "OPERATIONS",
    "check_chunks",
    "check_conformance",
    "check_equivariance",
    "check_hermiticity",
    "check_lattice_vectors",
    "check_permutation",
    "check_polar_axis",
    "check_smoothness",
    "check_translation",
]

STEP = 1e-4  # Å between the positions of an atom that passes through a radius
FAINT = 0.05  # eV; what is smaller cannot show that it transforms rightly


def _rotation() -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


OPERATIONS = {
    "rotation": _rotation(),
    "inversion": -np.eye(3),
    "rotated mirror": np.diag([1.0, -1.0, 1.0]) @ _rotation(),
}
"""Orthogonal 3×3 matrices: a rotation without any relation to the axes, and both kinds that turn space inside out."""


def check_equivariance(
    subject: Subject, structure: Structure, operation: str = "rotation", tolerance: float = 1e-11
) -> None:
    """H and S of a structure moved by one of `OPERATIONS` are the moved H and S, by e3nn's Wigner matrices.

    Raises:
        ConformanceError: also when all of H or S is below 0.05, as zero would transform rightly under anything.
    """
    before, matrix = subject(structure), OPERATIONS[operation]
    size = min(map(largest, before))
    if not size > FAINT:
        raise ConformanceError(f"{operation}: the largest element is {size:.1e}; one above {FAINT} is needed to see it")
    matrices = {z: representation(matrix, shells) for z, shells in subject.model.settings.orbitals.shells.items()}
    atoms = [matrices[z] for z in structure.numbers.tolist()]
    expected = relabelled(before, lambda key, block: (key, atoms[key[3]] @ block @ atoms[key[4]].T))
    moved = replace(structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T)
    subject.verify(operation, difference(expected, subject(moved)), tolerance)


def check_permutation(subject: Subject, structure: Structure, tolerance: float = 1e-12) -> None:
    """The order of the atoms does not matter. Raises ConformanceError."""
    order = np.random.default_rng(1).permutation(len(structure))
    place = np.argsort(order).tolist()
    permuted = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order])
    expected = relabelled(subject(structure), lambda key, block: ((*key[:3], place[key[3]], place[key[4]]), block))
    subject.verify("permutation", difference(expected, subject(permuted)), tolerance)


def check_translation(subject: Subject, structure: Structure, tolerance: float = 1e-12) -> None:
    """Where the structure lies does not matter. Raises ConformanceError."""
    shifted = replace(structure, positions=structure.positions + np.array([3.0, -7.0, 0.123]))
    subject.verify("translation", difference(subject(structure), subject(shifted)), tolerance)


def check_lattice_vectors(subject: Subject, structure: Structure, tolerance: float = 1e-12) -> None:
    """Atoms moved by lattice vectors, each by its own, carry their cells R with them. Raises ConformanceError."""
    cells = np.random.default_rng(2).integers(-2, 3, size=(len(structure), 3)) * structure.pbc
    shifted = replace(structure, positions=structure.positions + cells @ structure.cell)

    def renamed(key: Key, block: np.ndarray) -> tuple[Key, np.ndarray]:
        i, j = key[3:]
        return (*(np.array(key[:3]) - cells[j] + cells[i]).tolist(), i, j), block

    expected = relabelled(subject(structure), renamed)
    subject.verify("lattice vectors", difference(expected, subject(shifted)), tolerance)


def check_hermiticity(subject: Subject, structure: Structure) -> None:
    """Block (R, i, j) is the transpose of (−R, j, i) to the last bit, in any type. Raises ConformanceError."""
    matrices = subject(structure)
    transposed = relabelled(matrices, lambda key, block: ((-key[0], -key[1], -key[2], key[4], key[3]), block.T))
    complete = all(a.keys() == b.keys() for a, b in zip(matrices, transposed, strict=True))
    subject.verify("Hermiticity", difference(matrices, transposed) if complete else np.inf, 0.0)


def check_chunks(subject: Subject, structure: Structure, tolerance: float = 1e-13) -> None:
    """Bonds worked on a few at a time give what all of them at once give. Raises ConformanceError."""
    subject.verify("chunks", difference(subject(structure), subject(structure, 1e-9)), tolerance)


def check_polar_axis(subject: Subject, structure: Structure, tolerance: float = 3e-8) -> None:
    """A bond exactly along the polar axis (z) is an ordinary one: tilting it by 1e-9 Å changes nothing beyond that.

    Three atoms in a row, as far apart as the structure's shortest bond; without a bond there is nothing to check.
    Raises ConformanceError.
    """
    bond = bond_nearest(structure, 0.0, subject.model.settings.r_pair)
    if bond is None:
        return
    i, j, vector = bond
    spacing = float(np.linalg.norm(vector))
    row = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, spacing], [0.0, 0.0, 2 * spacing]])
    straight = Structure(structure.numbers[[i, j, i]], row, (20.0 + 2 * spacing) * np.eye(3), np.zeros(3, dtype=bool))
    tilted = replace(straight, positions=row + np.array([[0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [0.0, -1e-9, 0.0]]))
    subject.verify("polar axis", difference(subject(straight), subject(tilted)), tolerance)


def check_smoothness(
    subject: Subject,
    structure: Structure,
    radius: float,
    elements: tuple[int, int] | None = None,
    tolerance: float = 1e-4,
    steepest: float = 10.0,
) -> None:
    """H and S stay continuous, and so do their slopes, when an atom passes through a distance from another.

    The bond nearest to `radius` is brought to that length, and its end moved along it by two steps of 1e-4 Å to either
    side. Without a bond within 2 Å of `radius`, or where that brings atoms closer than the model serves, there is nothing to
    check.

    Args:
        radius: Å.
        elements: atomic numbers of the bond's ends; any by default.
        tolerance: of a jump of the slope, eV/Å for H; of a jump of the value it allows 1e-4 times as much, in eV.
        steepest: slope that counts as a wall, eV/Å for H; ten times as much in eV/Å² is the largest curvature.

    Raises:
        ConformanceError: for any of them.
    """
    bond = bond_nearest(structure, radius, radius + 2.0, elements)
    if bond is None or abs((length := float(np.linalg.norm(bond[2]))) - radius) > 2.0:
        return
    series = []
    for n in (-2, -1, 0, 1, 2):
        positions = structure.positions.copy()
        positions[bond[1]] += (radius + n * STEP - length) / length * bond[2]
        moved = replace(structure, positions=positions)
        if len(neighbour_pairs(moved, np.arange(len(moved)), subject.model.overlap.r_min)):
            return
        series.append(subject(moved))
    slope, curvature, jump = course(series, STEP)
    subject.verify(f"jump of the slope at {radius:.3f} Å", jump, tolerance)
    subject.verify(f"slope at {radius:.3f} Å", slope, steepest)
    subject.verify(f"curvature at {radius:.3f} Å", curvature, 10.0 * steepest)


def check_conformance(
    model: HamiltonianModel,
    structure: Structure,
    predict: Callable[[HamiltonianModel, Structure, float], Matrices] = predicted_blocks,
) -> list[Row]:
    """Run every check that applies to a structure, with the tolerances that are their defaults.

    Args:
        model: in float64, e.g. `load_checkpoint(path, torch.float64)`.
        structure: inside what the model was trained on; each check predicts it, or one close to it, up to five times.
        predict: (model, structure, memory_gb) → H and S, by default on this process.

    Returns:
        (name, measured, tolerance) of each measurement.

    Raises:
        ModelError: for a model in another type, or one that cannot predict the structure.
        ConformanceError: after all checks, naming each that failed.
    """
    if model.dtype != torch.float64:
        raise ModelError(f"a model is checked in float64, not {model.dtype}: load its checkpoint in that type")
    subject = Subject(model, predict)
    checks: list[Callable[[Subject, Structure], None]] = [
        *(partial(check_equivariance, operation=name) for name in OPERATIONS),
        *(check_permutation, check_translation, check_lattice_vectors),
        *(check_hermiticity, check_chunks, check_polar_axis),
        partial(check_smoothness, radius=model.settings.r_message),
    ]
    for pair in combinations_with_replacement(np.unique(structure.numbers).tolist(), 2):
        checks += [partial(check_smoothness, radius=radius, elements=pair) for radius in model.pair_radii(*pair)]
    failures = []
    for check in checks:
        try:
            check(subject, structure)
        except ConformanceError as error:
            failures.append(str(error))
    if failures:
        raise ConformanceError(f"{len(failures)} of {len(checks)} checks failed: " + "; ".join(failures))
    return subject.rows
