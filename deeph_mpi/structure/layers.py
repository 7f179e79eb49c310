"""Layers of a stacked structure, told from the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.domain.cell import wrap
from deeph_mpi.structure.structure import Structure

__all__ = ["Stacking", "stacking"]

GAP = 2.0  # Å without an atom between two layers; planes of one layer (S-Mo-S: 1.6 Å) are closer


@dataclass(frozen=True)
class Stacking:
    """How the atoms lie along the direction with the widest gap.

    Attributes:
        axis: 0, 1 or 2, the lattice vector across the layers.
        normal: (3,) unit vector normal to the other two, the direction of stacking.
        heights: (N,) Å along `normal`, periodic images chosen so that the widest gap lies outside.
        gap: Å, width of that gap; infinite along a direction that is not periodic.
        layer: (N,) int64, from 1 at the bottom; all 1 where no gap is wider than 2 Å.
    """

    axis: int
    normal: np.ndarray
    heights: np.ndarray
    gap: float
    layer: np.ndarray

    @property
    def count(self) -> int:
        """Number of layers."""
        return int(self.layer.max())


def stacking(structure: Structure) -> Stacking:
    """Find the direction with the widest gap between atoms, the vacuum included, and the layers along it.

    The third lattice vector wins where others are as good.
    """
    wrapped = wrap(structure)
    candidates = [_along(wrapped.cell, wrapped.fractional, axis, bool(wrapped.pbc[axis])) for axis in (2, 1, 0)]
    return max(candidates, key=lambda candidate: round(candidate.gap, 6))


def _along(cell: np.ndarray, fractional: np.ndarray, axis: int, periodic: bool) -> Stacking:
    normal = np.linalg.inv(cell)[:, axis]
    period = 1.0 / np.linalg.norm(normal)
    normal = normal * period
    heights = fractional[:, axis] * period
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    if periodic:
        outer = float(heights[order[0]] + period - heights[order[-1]])
        widest = int(np.argmax(gaps)) if len(gaps) and gaps.max() > outer + 1e-6 else -1
        if widest >= 0:  # start above the widest gap
            heights = np.where(heights >= heights[order[widest + 1]], heights, heights + period)
            order = np.argsort(heights, kind="stable")
            outer, gaps = float(gaps[widest]), np.diff(heights[order])
    else:
        outer = np.inf
    layer = np.empty(len(heights), dtype=np.int64)
    layer[order] = 1 + np.concatenate([[0], np.cumsum(gaps > GAP)])
    return Stacking(axis, normal, heights, outer, layer)
