"""Pictures of a spectrum: bands along a path, the density of states of a mesh, or levels of single k-points."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeph_mpi.results.colours import Colouring
from deeph_mpi.results.dos_plot import plot_dos
from deeph_mpi.results.figure import energy_axis, formula_label, new_figure, save_figure
from deeph_mpi.results.record import RunRecord, SpectrumRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_spectrum"]


def plot_spectrum(
    run: RunRecord,
    spectrum: SpectrumRecord,
    directory: Path,
    window: tuple[float, float] | None = None,
    colouring: Colouring | None = None,
) -> list[Path]:
    """Draw what the k-points allow, as PNG and PDF. Not collective.

    Args:
        run, spectrum: what to draw.
        directory: where `bands`, `dos` or `levels` goes; made when absent.
        window: energy axis in eV, relative to E_F where it is known; by default all states.
        colouring: of bands and levels.

    Returns:
        The files written.
    """
    if spectrum.is_mesh and colouring is None:
        return plot_dos(run, spectrum, directory, window)
    figure = new_figure((5.2 if colouring is None else 5.9, 4.4))
    axes = figure.subplots()
    along = len(spectrum.distances) > 0
    (_bands if along else _levels)(axes, spectrum, spectrum.eigenvalues - spectrum.zero, colouring)
    energy_axis(axes, spectrum, window, vertical=True)
    axes.set_title(formula_label(run.formula), fontsize="medium")
    return save_figure(figure, directory / ("bands" if along else "levels"))


def _bands(axes: Axes, spectrum: SpectrumRecord, levels: np.ndarray, colouring: Colouring | None) -> None:
    if (spectrum.first >= 0).all():
        bands, shares = (
            _by_index(spectrum, levels, table) for table in (levels, levels if colouring is None else colouring.values)
        )
        for cut in _segments(spectrum.distances):
            if colouring is None:
                axes.plot(spectrum.distances[cut], bands[cut], color="C0", linewidth=1.1)
        if colouring is not None:
            _coloured_bands(axes, spectrum.distances, bands, shares, colouring)
    else:
        distances = np.broadcast_to(spectrum.distances[:, None], levels.shape)
        if colouring is None:
            axes.plot(distances.ravel(), levels.ravel(), ".", color="C0", markersize=2)
        else:
            order = np.argsort(colouring.values, axis=None)
            scale = colouring.scale(axes)
            flat = [table.ravel()[order] for table in (distances, levels, colouring.values)]
            axes.scatter(flat[0], flat[1], c=scale.to_rgba(flat[2]), s=4, linewidths=0)
    for tick in spectrum.ticks:
        axes.axvline(tick, color="0.8", linewidth=0.6, zorder=0)
    axes.set_xticks(spectrum.ticks, spectrum.labels)
    axes.set_xlim(spectrum.distances[0], spectrum.distances[-1])


def _by_index(spectrum: SpectrumRecord, levels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(nk, bands) of a table (nk, n) of the states found: each band is one index of the whole spectrum; NaN elsewhere."""
    counts = np.isfinite(levels).sum(axis=1)
    low, high = int(spectrum.first.min()), int((spectrum.first + counts).max())
    bands = np.full((len(levels), high - low), np.nan)
    for n, (first, count) in enumerate(zip(spectrum.first, counts, strict=True)):
        bands[n, first - low : first - low + count] = table[n, :count]
    return bands


def _coloured_bands(
    axes: Axes, distances: np.ndarray, bands: np.ndarray, shares: np.ndarray, colouring: Colouring
) -> None:
    """Bands as short lines, the largest populations on top."""
    from matplotlib.collections import LineCollection

    lines, values = [], []
    for cut in _segments(distances):
        x = np.broadcast_to(distances[cut][:, None], bands[cut].shape)
        points = np.stack([x, bands[cut]], axis=-1)  # (k, bands, 2)
        ends = np.stack([points[:-1], points[1:]], axis=2).reshape(-1, 2, 2)
        mean = ((shares[cut][:-1] + shares[cut][1:]) / 2).ravel()
        known = np.isfinite(ends).all(axis=(1, 2))
        lines.append(ends[known])
        values.append(mean[known])
    order = np.argsort(np.concatenate(values), kind="stable")
    colours = colouring.scale(axes).to_rgba(np.concatenate(values)[order])
    axes.add_collection(
        LineCollection(list(np.concatenate(lines)[order]), colors=colours, linewidths=1.6, capstyle="round")
    )
    axes.autoscale_view()


def _segments(distances: np.ndarray) -> list[slice]:
    """Stretches of a path between jumps, where the distance does not grow."""
    jumps = np.flatnonzero(np.diff(distances) <= 0) + 1
    bounds = [0, *jumps.tolist(), len(distances)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def _levels(axes: Axes, spectrum: SpectrumRecord, levels: np.ndarray, colouring: Colouring | None) -> None:
    scale = None if colouring is None else colouring.scale(axes)
    for n, energies in enumerate(levels):
        found = np.isfinite(energies)
        colours: Any = "C0" if scale is None or colouring is None else scale.to_rgba(colouring.values[n][found])
        axes.hlines(energies[found], n - 0.35, n + 0.35, colors=colours, linewidth=1.0 if scale is None else 1.4)
    names = ["(" + ", ".join(f"{x:.3g}" for x in k) + ")" for k in spectrum.kpoints]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("k (fractional)")
