"""Atoms seen from above, coloured by a number on each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.results.figure import new_figure, save_figure
from deeph_mpi.structure.layers import stacking
from deeph_mpi.structure.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = ["plot_top_view"]

_DISC = 0.75  # radius of an atom, in covalent radii
_RARE = 0.1  # elements with fewer of the atoms are ringed and named
_BONDS = 5000  # atoms of which bonds are drawn at most; of more they cannot be seen
_PANELS = 4  # layers drawn by themselves at most
_WIDTH = 4.6  # inches of the drawing
_MARGIN = 1.2  # Å around the cell
_RINGS = ("#0072b2", "#009e73", "#56b4e9", "#cc79a7")


def plot_top_view(structure: Structure, values: np.ndarray, label: str, title: str, path: Path) -> list[Path]:
    """Draw one cell from above, as discs of atoms on a colour scale; of two to four layers each by itself. Not collective.

    The view is along the direction with the widest gap between atoms. Large values are drawn on top. The scale starts at
    0, or at the smallest value where that is more than half of the largest.

    Args:
        structure: the atoms.
        values: (N,) what colours them.
        label: of the colour bar.
        title: of the picture.
        path: of the files, without the ending.

    Returns:
        The files written.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    view = _View.of(structure)
    low, high = float(values.min()), max(float(values.max()), 1e-12)
    colours = LinearSegmentedColormap.from_list("above", ["white", *colormaps["magma_r"](np.linspace(0.12, 1.0, 12))])
    scale = ScalarMappable(Normalize(low if low > high / 2 else 0.0, high), colours)
    panels = [np.ones(len(structure), dtype=bool)]
    if 2 <= view.layer.max() <= _PANELS:
        panels = [view.layer == n + 1 for n in range(view.layer.max())]

    across, along = view.corners.max(axis=0) - view.corners.min(axis=0) + 2 * _MARGIN
    beside = along > 0.9 * across  # wide cells above each other, narrow ones side by side
    rows, columns = (1, len(panels)) if beside else (len(panels), 1)
    width = _WIDTH if len(panels) == 1 or not beside else 0.75 * _WIDTH
    height = float(np.clip(width * along / across, 1.6, 2.2 * width))
    figure = new_figure((columns * (width + 0.3) + 1.2, rows * (height + 0.5) + 0.5))
    subplots = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (axes, chosen) in enumerate(zip(subplots, panels, strict=True)):
        _draw(axes, structure, view, chosen, values, scale)
        if len(panels) > 1:
            axes.set_title(f"layer {number + 1}", fontsize="small")
        lowest, leftmost = number >= (rows - 1) * columns, number % columns == 0
        axes.set_xlabel("x (Å)" if lowest else "")
        axes.set_ylabel("y (Å)" if leftmost else "")
        axes.tick_params(labelbottom=lowest, labelleft=leftmost)
    if len(panels) == 1:
        subplots[0].set_title(title, fontsize="medium")
    else:
        figure.suptitle(title, fontsize="medium")
    figure.colorbar(scale, ax=list(subplots), label=label, pad=0.02, shrink=0.85, aspect=28)
    return save_figure(figure, path)


@dataclass(frozen=True)
class _View:
    """The atoms as seen from above.

    Attributes:
        plane: (2, 3) unit vectors to the right and up.
        points: (N, 2) Å, atoms within the cell.
        corners: (5, 2) Å, outline of the cell.
        layer: (N,) of every atom, from 1.
    """

    plane: np.ndarray
    points: np.ndarray
    corners: np.ndarray
    layer: np.ndarray

    @classmethod
    def of(cls, structure: Structure) -> _View:
        stack, wrapped = stacking(structure), wrap(structure)
        first, second = (wrapped.cell[(stack.axis + n) % 3] for n in (1, 2))
        right = first / np.linalg.norm(first)
        plane = np.stack([right, np.cross(stack.normal, right)])
        a, b = plane @ first, plane @ second
        corners = np.array([0 * a, a, a + b, b, 0 * a])
        # a hair inside, or an atom on the edge lands on either side by rounding
        inside = (wrapped.fractional + 1e-6) % 1.0 - 1e-6
        fractional = np.where(wrapped.pbc, inside, wrapped.fractional)
        return cls(plane, fractional @ wrapped.cell @ plane.T, corners, stack.layer)


def _draw(
    axes: Axes, structure: Structure, view: _View, chosen: np.ndarray, values: np.ndarray, scale: ScalarMappable
) -> None:
    """One panel: the outline of the cell, bonds, and the chosen atoms."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(*view.corners.T, color="0.55", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    if len(structure) <= _BONDS:
        _draw_bonds(axes, structure, view, chosen)
    _draw_atoms(axes, structure, view, chosen, values, scale)
    extent = np.concatenate([view.corners, view.points])
    axes.set_aspect("equal")
    axes.set_xlim(extent[:, 0].min() - _MARGIN, extent[:, 0].max() + _MARGIN)
    axes.set_ylim(extent[:, 1].min() - _MARGIN, extent[:, 1].max() + _MARGIN)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _draw_atoms(
    axes: Axes, structure: Structure, view: _View, chosen: np.ndarray, values: np.ndarray, scale: ScalarMappable
) -> None:
    from matplotlib.collections import EllipseCollection

    order = np.argsort(values, kind="stable")
    order = order[chosen[order]]
    diameters = 2 * _DISC * covalent_radii[structure.numbers[order]]
    shown = len(structure) <= _BONDS
    edges = np.full(len(structure), "0.5" if shown else "none", dtype=object)
    widths = np.full(len(structure), 0.4 if shown else 0.0)
    kinds, counts = np.unique(structure.numbers, return_counts=True)
    rings = iter(_RINGS)
    for z, count in zip(kinds, counts, strict=True):
        here = structure.numbers == z
        if len(kinds) > 1 and count <= _RARE * len(structure):
            edges[here], widths[here] = next(rings, "black"), 1.6
        if len(kinds) > 1 and shown:
            edge, line, size = edges[here][0], widths[here][0], 9 * covalent_radii[z]
            style = {"markerfacecolor": "white", "markeredgecolor": edge, "markeredgewidth": line, "markersize": size}
            axes.plot([], [], "o", label=chemical_symbols[z], **style)
    discs = EllipseCollection(
        diameters, diameters, np.zeros(len(order)), units="xy", offsets=view.points[order],
        transOffset=axes.transData, facecolors=scale.to_rgba(values[order]), edgecolors=list(edges[order]),
        linewidths=widths[order], zorder=3,
    )  # fmt: skip
    axes.add_collection(discs)
    if len(kinds) > 1 and shown:
        axes.legend(edgecolor="none", framealpha=0.85, loc="upper left", fontsize="small", handletextpad=0.1)


def _draw_bonds(axes: Axes, structure: Structure, view: _View, chosen: np.ndarray) -> None:
    """Half of every bond from each of its atoms, so that those that leave the cell end at its edge."""
    from matplotlib.collections import LineCollection

    reach = 2.4 * float(covalent_radii[structure.numbers].max())
    pairs = neighbour_pairs(structure, np.flatnonzero(chosen), reach)
    lengths = covalent_radii[structure.numbers[pairs.i]] + covalent_radii[structure.numbers[pairs.j]]
    pairs = pairs[pairs.distances < 1.2 * lengths]
    starts = view.points[pairs.i]
    lines = np.stack([starts, starts + pairs.vectors @ view.plane.T / 2], axis=1)
    axes.add_collection(LineCollection(list(lines), colors="0.75", linewidths=0.7, zorder=2))
