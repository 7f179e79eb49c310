"""Picture of how localized the states are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi.results.colours import Colouring
from deeph_mpi.results.figure import energy_axis, formula_label, new_figure, save_figure
from deeph_mpi.results.record import RunRecord, SpectrumRecord

__all__ = ["plot_participation"]


def plot_participation(
    run: RunRecord,
    spectrum: SpectrumRecord,
    ratios: np.ndarray,
    directory: Path,
    window: tuple[float, float] | None = None,
    colouring: Colouring | None = None,
) -> list[Path]:
    """Draw the inverse participation ratio of every state against its energy, as `ipr`. Not collective.

    Args:
        run, spectrum: of the states.
        ratios: (nk, n) Σ_a w_a² / (Σ_a w_a)² of the populations of the atoms.
        directory: where the picture goes; made when absent.
        window: energy axis in eV, relative to E_F where it is known; by default all states.
        colouring: of the states.

    Returns:
        The files written.
    """
    figure = new_figure((5.8 if colouring is None else 6.5, 3.6))
    axes = figure.subplots()
    found = np.isfinite(spectrum.eigenvalues)
    energies, heights = (spectrum.eigenvalues - spectrum.zero)[found], ratios[found]
    colours: Any = "C0"
    if colouring is not None:
        order = np.argsort(colouring.values[found], kind="stable")  # the most coloured on top
        energies, heights = energies[order], heights[order]
        colours = colouring.scale(axes).to_rgba(colouring.values[found][order])
    axes.vlines(energies, 0, heights, colors=colours, linewidth=1.1)
    axes.scatter(energies, heights, c=colours, s=16, linewidths=0, zorder=3)
    even = axes.axhline(1 / run.atoms, color="0.5", linewidth=0.9, linestyle=":", zorder=0)
    axes.legend([even], [f"1/{run.atoms}: all atoms alike"], edgecolor="none", framealpha=0.85, fontsize="small")
    energy_axis(axes, spectrum, window, vertical=False)
    axes.set_ylim(0, 1.1 * max(heights.max(initial=0.0), 2 / run.atoms))
    axes.set_ylabel("inverse participation ratio\n" r"$\Sigma_a w_a^2 \,/\, (\Sigma_a w_a)^2$")
    axes.set_title(formula_label(run.formula), fontsize="medium")
    return save_figure(figure, directory / "ipr")
