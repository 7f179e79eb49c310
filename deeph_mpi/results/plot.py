"""Pictures of a spectrum: bands along a path, the density of states of a mesh, or levels of single k-points."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.results.dos import density_of_states
from deeph_mpi.results.figure import new_figure, save_figure
from deeph_mpi.results.record import RunRecord, SpectrumRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_spectrum"]


def plot_spectrum(
    run: RunRecord, spectrum: SpectrumRecord, directory: Path, window: tuple[float, float] | None = None
) -> list[Path]:
    """Draw what the k-points allow, as PNG and PDF. Not collective.

    Args:
        run, spectrum: what to draw.
        directory: where `bands`, `dos` or `levels` goes; made when absent.
        window: energy axis in eV, relative to E_F where it is known; by default all states.

    Returns:
        The files written.
    """
    figure = new_figure((5.2, 4.4))
    axes = figure.subplots()
    zero = spectrum.fermi if np.isfinite(spectrum.fermi) else 0.0
    draw = _bands if len(spectrum.distances) else _density if spectrum.is_mesh else _levels
    draw(axes, run, spectrum, zero)
    if np.isfinite(spectrum.fermi):
        (axes.axvline if draw is _density else axes.axhline)(0.0, color="0.4", linewidth=0.8, linestyle="--")
    label = "E − E$_F$ (eV)" if np.isfinite(spectrum.fermi) else "E (eV)"
    if draw is _density:
        axes.set_xlabel(label)
        axes.set_xlim(window)
    else:
        axes.set_ylabel(label)
        axes.set_ylim(window)
    axes.set_title(run.formula, fontsize="medium")
    return save_figure(figure, directory / draw.__name__[1:].replace("density", "dos"))


def _bands(axes: Axes, run: RunRecord, spectrum: SpectrumRecord, zero: float) -> None:
    levels = spectrum.eigenvalues - zero
    if (spectrum.first >= 0).all():
        low = int(spectrum.first.min())
        high = int((spectrum.first + np.isfinite(levels).sum(axis=1)).max())
        bands = np.full((len(levels), high - low), np.nan)
        for n, first in enumerate(spectrum.first):
            found = levels[n][np.isfinite(levels[n])]
            bands[n, first - low : first - low + len(found)] = found
        for cut in _segments(spectrum.distances):
            axes.plot(spectrum.distances[cut], bands[cut], color="C0", linewidth=1.1)
    else:
        distances = np.broadcast_to(spectrum.distances[:, None], levels.shape)
        axes.plot(distances.ravel(), levels.ravel(), ".", color="C0", markersize=2)
    for tick in spectrum.ticks:
        axes.axvline(tick, color="0.8", linewidth=0.6, zorder=0)
    axes.set_xticks(spectrum.ticks, spectrum.labels)
    axes.set_xlim(spectrum.distances[0], spectrum.distances[-1])


def _segments(distances: np.ndarray) -> list[slice]:
    """Stretches of a path between jumps, where the distance does not grow."""
    jumps = np.flatnonzero(np.diff(distances) <= 0) + 1
    bounds = [0, *jumps.tolist(), len(distances)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def _density(axes: Axes, run: RunRecord, spectrum: SpectrumRecord, zero: float) -> None:
    energies, density = density_of_states(spectrum, run.degeneracy)
    axes.fill_between(energies - zero, density, color="C0", alpha=0.3, linewidth=0)
    axes.plot(energies - zero, density, color="C0", linewidth=1.1)
    axes.set_ylabel("states / eV / cell")
    axes.set_ylim(bottom=0)


def _levels(axes: Axes, run: RunRecord, spectrum: SpectrumRecord, zero: float) -> None:
    for n, levels in enumerate(spectrum.eigenvalues - zero):
        axes.hlines(levels[np.isfinite(levels)], n - 0.35, n + 0.35, color="C0", linewidth=1.0)
    names = ["(" + ", ".join(f"{x:.3g}" for x in k) + ")" for k in spectrum.kpoints]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("k (fractional)")
