"""A model under test: its predictions as dictionaries of blocks, how much two of them differ, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from e3nn import o3

from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.errors import ConformanceError
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.structure.structure import Structure

__all__ = [
    "Blocks",
    "Course",
    "Key",
    "Matrices",
    "Row",
    "Subject",
    "bond_nearest",
    "course",
    "difference",
    "largest",
    "predicted_blocks",
    "relabelled",
    "representation",
]

Key = tuple[int, ...]

Blocks = dict[Key, np.ndarray]
"""{(R1, R2, R3, i, j): block}"""

Matrices = tuple[Blocks, Blocks]
"""H (eV) and S."""

# H and S fade as (r_pair − r)³, so that the block of a pair which rounding alone puts inside or outside is below this
VANISHED = 1e-20


class Row(NamedTuple):
    """What one check found; it passes when `measured` ≤ `tolerance`."""

    name: str
    measured: float
    tolerance: float


def predicted_blocks(model: HamiltonianModel, structure: Structure, memory_gb: float = 1.0) -> Matrices:
    """H and S predicted on this process with temporaries of up to `memory_gb` GB; raises as `predict_alone`."""
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    h, s = predict_alone(model, structure, memory_gb)
    return h.as_dict(orbitals), s.as_dict(orbitals)


@dataclass
class Subject:
    """A model under test.

    Attributes:
        model: in float64, unless only what must be exact is tested.
        predict: (model, structure, memory_gb) → H and S, by default on this process.
        rows: what was measured, in order.
    """

    model: HamiltonianModel
    predict: Callable[[HamiltonianModel, Structure, float], Matrices] = predicted_blocks
    rows: list[Row] = field(default_factory=list)

    def __call__(self, structure: Structure, memory_gb: float = 1.0) -> Matrices:
        """H and S of a structure."""
        return self.predict(self.model, structure, memory_gb)

    def verify(self, name: str, measured: float, tolerance: float) -> None:
        """Note a measurement.

        Raises:
            ConformanceError: when it is above the tolerance or not a number.
        """
        self.rows.append(Row(name, measured, tolerance))
        if not measured <= tolerance:
            raise ConformanceError(f"{name}: measured {measured:.2e}, tolerance {tolerance:.1e}")


def largest(blocks: Blocks) -> float:
    """Largest absolute value of any element; 0 without blocks, NaN when there is one."""
    return float(np.max([np.abs(block).max() for block in blocks.values()], initial=0.0))


def difference(expected: Matrices, found: Matrices) -> float:
    """Largest difference of any element of H or S, divided by the largest element of that matrix where that is above 1.

    Infinite when one has a block that the other lacks, unless its elements have vanished at the radius of the pairs.
    """
    worst = [0.0]
    for a, b in zip(expected, found, strict=True):
        lone = {key: (a if key in a else b)[key] for key in a.keys() ^ b.keys()}
        if not largest(lone) <= VANISHED:
            return float("inf")
        worst.append(largest({key: a[key] - b[key] for key in a.keys() & b.keys()}) / max(largest(a), 1.0))
    return float(np.max(worst))


def relabelled(matrices: Matrices, change: Callable[[Key, np.ndarray], tuple[Key, np.ndarray]]) -> Matrices:
    """Both matrices with `change` applied to each key and block."""
    h, s = (dict(change(key, block) for key, block in blocks.items()) for blocks in matrices)
    return h, s


class Course(NamedTuple):
    """How H and S run along a line; per Å or Å², and divided as in `difference`.

    Attributes:
        slope: largest.
        curvature: largest.
        jump: of the slope at the middle: what its change there has beyond the mean of the changes on either side, so that
            curvature drops out. A jump J of a value counts as J / step or more.
    """

    slope: float
    curvature: float
    jump: float


def course(series: Sequence[Matrices], step: float) -> Course:
    """Finite differences of five predictions at points `step` (Å) apart; blocks that are absent are zero."""
    found = [(0.0, 0.0, 0.0)]
    for points in zip(*series, strict=True):
        scale = max(1.0, *map(largest, points))
        for key in set().union(*points):
            zero = np.zeros_like(next(blocks[key] for blocks in points if key in blocks))
            slope = np.diff([blocks.get(key, zero) for blocks in points], axis=0) / step / scale
            change = np.diff(slope, axis=0)
            jump = change[1] - (change[0] + change[2]) / 2
            found.append((np.abs(slope).max(), np.abs(change).max() / step, np.abs(jump).max()))
    return Course(*np.max(found, axis=0).tolist())


def bond_nearest(
    structure: Structure, length: float, reach: float, elements: tuple[int, int] | None = None
) -> tuple[int, int, np.ndarray] | None:
    """Of all pairs of different atoms within `reach` (Å): i, j and the vector (3,) of the one nearest to `length` (Å).

    Args:
        elements: atomic numbers of the ends, in either order; any by default.

    Returns:
        None when there is no such pair.
    """
    pairs = neighbour_pairs(structure, np.arange(len(structure)), reach)
    wanted = pairs.i != pairs.j  # moving an atom does not change the distance from its own image
    if elements is not None:
        numbers = np.sort(structure.numbers[np.stack([pairs.i, pairs.j], axis=1)], axis=1)
        wanted &= (numbers == sorted(elements)).all(axis=1)
    pairs = pairs[wanted]
    if len(pairs) == 0:
        return None
    nearest = int(np.abs(pairs.distances - length).argmin())
    return int(pairs.i[nearest]), int(pairs.j[nearest]), pairs.vectors[nearest]


def representation(matrix: np.ndarray, shells: Sequence[int]) -> np.ndarray:
    """Matrix by which orbitals of the given l transform under an orthogonal 3×3 matrix.

    It comes from e3nn alone, not from our own Wigner matrices, whose conventions it thereby tests.

    Returns:
        (n, n) float64 for n orbitals, each shell in the order m = −l … l.
    """
    yzx = torch.tensor(matrix)[[1, 2, 0]][:, [1, 2, 0]]
    with _default_dtype(torch.float64):  # e3nn's matrices are of single precision otherwise, whatever their dtype
        blocks = [o3.Irrep(degree, (-1) ** degree).D_from_matrix(yzx).numpy() for degree in shells]
    whole = np.zeros((sum(map(len, blocks)),) * 2)
    start = 0
    for block in blocks:
        stop = start + len(block)
        whole[start:stop, start:stop] = block
        start = stop
    return whole


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(former)
