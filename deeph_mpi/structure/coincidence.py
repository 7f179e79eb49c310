"""Rotations that bring a two-dimensional lattice into coincidence with itself, in exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from deeph_mpi.errors import StructureError

__all__ = ["Coincidence", "coincidence"]

_TOLERANCE = 1e-4  # of the metric relative to its idealized value: files give lattice vectors with few digits
_DENOMINATOR = 24  # of the metric of rectangular and rhombic lattices; larger ones give no cell of use

Matrix = tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]


@dataclass(frozen=True)
class Coincidence:
    """A common cell of a lattice and its rotated copy.

    Attributes:
        angle: rotation of the copy, radians.
        basis: (2, 2) int64, the basis used (rows, in the vectors given): equal lengths, or orthogonal; right-handed.
        lower: (2, 2) int64, rows are the cell's vectors in that basis.
        upper: (2, 2) int64, the same vectors in the rotated basis.
        hexagonal: whether the lattice is.
    """

    angle: float
    basis: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    hexagonal: bool


def coincidence(vectors: np.ndarray, m: int, r: int) -> Coincidence:
    """The smallest common cell of a lattice and its copy rotated by the angle that (m, r) names.

    With equal vectors at any angle (hexagonal, square, rhombic) the copy's m·a₂ + (m + r)·a₁ is turned onto
    m·a₁ + (m + r)·a₂; for the hexagonal lattice this is cos θ = (3m² + 3mr + r²/2)/(3m² + 3mr + r²) of Lopes dos
    Santos, Peres and Castro Neto, Phys. Rev. B 86, 155449 (2012), and for the square one the Pythagorean rotations.
    With orthogonal vectors of unlike lengths m·a₁ − r·a₂ is turned onto m·a₁ + r·a₂.

    Args:
        vectors: (2, 2) lattice vectors as rows.
        m: positive, without common divisor with r.
        r: positive.

    Raises:
        StructureError: bad m or r; a lattice without mirror lines or with an irrational metric.
    """
    if m < 1 or r < 1 or math.gcd(m, r) != 1:
        raise StructureError(f"m = {m} and r = {r} must be positive and without a common divisor")
    basis, metric = _symmetric_basis(vectors)
    one, cosine, ratio = metric[0][0], metric[0][1], metric[1][1]
    if one == ratio:
        target = (Fraction(m), Fraction(m + r))
        mirror: Matrix = ((Fraction(0), Fraction(1)), (Fraction(1), Fraction(0)))
    else:
        target = (Fraction(m), Fraction(r))
        mirror = ((Fraction(1), Fraction(0)), (Fraction(0), Fraction(-1)))
    # a rotation is two reflections: the lattice's own mirror takes the copy's vector to the target or to its mirror
    # image, the reflection about the target's line fixes the target
    turn = _times(mirror, _reflection(target, metric))
    back = _inverse(turn)
    lower = _reduce(_integer_points(back), metric)
    upper = np.array([[int(sum(Fraction(int(row[k])) * back[k][c] for k in (0, 1))) for c in (0, 1)] for row in lower])
    start = (target[0] * mirror[0][0] + target[1] * mirror[1][0], target[0] * mirror[0][1] + target[1] * mirror[1][1])
    angle = math.acos(float(_dot(start, target, metric) / _dot(target, target, metric)))
    return Coincidence(angle, basis, lower, upper, hexagonal=one == ratio and abs(cosine) == Fraction(1, 2))


def _symmetric_basis(vectors: np.ndarray) -> tuple[np.ndarray, Matrix]:
    """The shortest right-handed basis, (2, 2) int64, of equal vectors at up to 90°, or else of orthogonal ones.

    Returns it with its idealized metric, |a₁|² = 1.
    """
    short = _gauss(vectors)
    steps = [np.array([i, j]) @ short for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    found: list[tuple[bool, float, np.ndarray]] = []
    for u in steps:
        for v in steps:
            basis = np.array([u, v])
            a, b = basis @ vectors
            if abs(round(np.linalg.det(basis))) != 1 or a[0] * b[1] - a[1] * b[0] <= 0:
                continue
            equal = abs(b @ b / (a @ a) - 1) < _TOLERANCE
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            if (equal and cosine > -_TOLERANCE) or abs(cosine) < _TOLERANCE:
                found.append((not equal, round(float(a @ a + b @ b), 6), basis))
    if not found:
        raise StructureError(
            "this oblique lattice has no mirror lines, so no rotated copy coincides with it; "
            "strain it to a rectangular, rhombic, square or hexagonal one"
        )
    unequal, _, basis = min(found, key=lambda entry: entry[:2])
    a, b = basis @ vectors
    cosine = _rational(a @ b / (a @ a))
    return basis, ((Fraction(1), cosine), (cosine, _rational(b @ b / (a @ a)) if unequal else Fraction(1)))


def _gauss(vectors: np.ndarray) -> np.ndarray:
    """(2, 2) int64: a shortest basis (Lagrange-Gauss reduction)."""
    basis = np.eye(2, dtype=np.int64)
    while True:
        a, b = basis @ vectors
        basis = np.array([basis[0], basis[1] - round(float(a @ b / (a @ a))) * basis[0]])
        a, b = basis @ vectors
        if b @ b >= (1 - _TOLERANCE) * (a @ a):
            return basis
        basis = basis[::-1]


def _rational(value: float) -> Fraction:
    fraction = Fraction(float(value)).limit_denominator(_DENOMINATOR)
    if abs(float(fraction) - value) > _TOLERANCE:
        raise StructureError(
            f"the ratio {value:.6f} in the metric of the lattice is not a fraction with a small denominator, so its "
            "rotated copies do not coincide with it; strain the lattice a little"
        )
    return fraction


def _dot(x: tuple[Fraction, Fraction], y: tuple[Fraction, Fraction], metric: Matrix) -> Fraction:
    return sum((x[i] * metric[i][j] * y[j] for i in (0, 1) for j in (0, 1)), Fraction(0))


def _reflection(line: tuple[Fraction, Fraction], metric: Matrix) -> Matrix:
    """Reflection about a line, for row vectors of lattice coordinates: x → 2⟨x, v⟩/⟨v, v⟩ v − x."""
    along = [2 * _dot((Fraction(i == 0), Fraction(i == 1)), line, metric) / _dot(line, line, metric) for i in (0, 1)]
    return (
        (along[0] * line[0] - 1, along[0] * line[1]),
        (along[1] * line[0], along[1] * line[1] - 1),
    )


def _times(x: Matrix, y: Matrix) -> Matrix:
    (a, b), (c, d) = ((x[i][0] * y[0][0] + x[i][1] * y[1][0], x[i][0] * y[0][1] + x[i][1] * y[1][1]) for i in (0, 1))
    return ((a, b), (c, d))


def _inverse(x: Matrix) -> Matrix:
    (a, b), (c, d) = x
    volume = a * d - b * c
    return ((d / volume, -b / volume), (-c / volume, a / volume))


def _integer_points(turn: Matrix) -> np.ndarray:
    """(2, 2) int64 basis of the integer vectors x for which x·turn is integer too."""
    common = math.lcm(*(entry.denominator for row in turn for entry in row))
    table = np.array([[int(entry * common) for entry in row] for row in turn], dtype=object)
    first = math.lcm(*(entry.denominator for entry in turn[0]))
    steps = np.arange(first, dtype=object)
    for second in range(1, common + 1):
        hits = np.flatnonzero(((steps[:, None] * table[0] + second * table[1]) % common == 0).all(axis=1))
        if len(hits):
            return np.array([[first, 0], [int(hits[0]), second]], dtype=np.int64)
    raise AssertionError("(0, common) is always a solution")


def _reduce(points: np.ndarray, metric: Matrix) -> np.ndarray:
    """The shortest right-handed basis, at 60° to 90°, of the lattice spanned by `points` (2, 2)."""
    u, v = ((Fraction(int(x)), Fraction(int(y))) for x, y in points)
    while True:
        shift = round(_dot(u, v, metric) / _dot(u, u, metric))
        v = (v[0] - shift * u[0], v[1] - shift * u[1])
        if _dot(v, v, metric) >= _dot(u, u, metric):
            break
        u, v = v, u
    if _dot(u, v, metric) < 0:
        v = (-v[0], -v[1])
    if u[0] * v[1] - u[1] * v[0] < 0:
        u, v = v, u
    return np.array([[int(x) for x in u], [int(x) for x in v]], dtype=np.int64)
