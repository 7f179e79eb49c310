"""Pictures of densities of states with their error bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deeph_mpi.results.density import DensityRecord
from deeph_mpi.results.figure import new_figure, save_figure

__all__ = ["plot_density"]

_LINES = 6  # local densities drawn; of more atoms, the first


def plot_density(
    record: DensityRecord, formula: str, directory: Path, window: tuple[float, float] | None = None
) -> list[Path]:
    """Draw the density with a band of two standard deviations, and local densities below it. Not collective.

    Args:
        record: what to draw.
        formula: of the cell, the title.
        directory: where `density` goes; made when absent.
        window: energy axis in eV, relative to E_F where it is known; by default all energies.

    Returns:
        The files written.
    """
    local = len(record.atoms) > 0
    figure = new_figure((5.2, 5.6 if local else 3.8))
    panels = figure.subplots(2 if local else 1, sharex=True, squeeze=False)[:, 0]
    zero = record.fermi if np.isfinite(record.fermi) else 0.0
    axes = panels[0]
    if record.method == "inertia":
        axes.stairs(record.density, record.edges - zero, color="C0", fill=True, alpha=0.3)
        axes.stairs(record.density, record.edges - zero, color="C0", linewidth=1.1)
    else:
        low, high = record.density - 2 * record.error, record.density + 2 * record.error
        label = f"±2 standard deviations, {record.vectors} random vectors"
        axes.fill_between(record.energies - zero, low, high, color="C0", alpha=0.3, linewidth=0, label=label)
        axes.plot(record.energies - zero, record.density, color="C0", linewidth=1.1)
        axes.legend(fontsize="small", frameon=False)
    axes.set_ylabel("states / eV / cell")
    axes.set_title(
        f"{formula}, levels {'counted every' if record.vectors == 0 else 'broadened by'} "
        f"{1000 * record.resolution:.3g} meV",
        fontsize="medium",
    )
    if local:
        for atom, density in list(zip(record.atoms, record.local, strict=True))[:_LINES]:
            panels[1].plot(record.energies - zero, density, linewidth=1.1, label=f"atom {atom}")
        panels[1].legend(fontsize="small", frameon=False)
        panels[1].set_ylabel(f"states / eV, {record.projection.capitalize()}")
    for axes in panels:
        axes.set_ylim(bottom=0)
        if np.isfinite(record.fermi):
            axes.axvline(0.0, color="0.4", linewidth=0.8, linestyle="--")
    panels[-1].set_xlabel("E − E$_F$ (eV)" if np.isfinite(record.fermi) else "E (eV)")
    panels[-1].set_xlim(window or (record.energies[0] - zero, record.energies[-1] - zero))
    return save_figure(figure, directory / "density")
