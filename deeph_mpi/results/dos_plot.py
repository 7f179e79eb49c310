"""Pictures of the density of states, whole and by parts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from deeph_mpi.errors import ConfigError
from deeph_mpi.results.dos import density_of_states
from deeph_mpi.results.figure import energy_axis, formula_label, new_figure, save_figure
from deeph_mpi.results.record import RunRecord, SpectrumRecord

__all__ = ["plot_dos"]


def plot_dos(
    run: RunRecord,
    spectrum: SpectrumRecord,
    directory: Path,
    window: tuple[float, float] | None = None,
    width: float = 0.05,
    parts: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Draw the density of states of a mesh, or of the few k-points of a large cell. Not collective.

    Args:
        run, spectrum: what to draw.
        directory: where `dos`, or `pdos` with parts, goes; made when absent.
        window: energy axis in eV, relative to E_F where it is known; by default all states.
        width: standard deviation of a level in eV.
        parts: name → (nk, n) population of every state, each drawn as a line.

    Returns:
        The files written.

    Raises:
        ConfigError: the k-points are those of a path, or no state was found.
    """
    if len(spectrum.distances):
        raise ConfigError("a path does not sample the zone: a density of states needs solve.mesh, or Γ of a large cell")
    if not np.isfinite(spectrum.eigenvalues).any():
        raise ConfigError("no states were found, so there is no density of states to draw")
    figure = new_figure((5.2, 3.8))
    axes = figure.subplots()
    energies, density = density_of_states(spectrum, run.degeneracy, width)
    total = "0.45" if parts else "C0"
    axes.fill_between(energies - spectrum.zero, density, color=total, alpha=0.25, linewidth=0)
    axes.plot(energies - spectrum.zero, density, color=total, linewidth=1.1, label="total")
    for (name, shares), style in zip((parts or {}).items(), cycle(("-", "--", "-.")), strict=False):  # equal ones show
        part = density_of_states(spectrum, run.degeneracy, width, shares)[1]
        axes.plot(energies - spectrum.zero, part, linewidth=1.2, linestyle=style, label=name)
    energy_axis(axes, spectrum, window or (energies[0] - spectrum.zero, energies[-1] - spectrum.zero), vertical=False)
    shown = energies - spectrum.zero
    inside = density[(shown >= axes.get_xlim()[0]) & (shown <= axes.get_xlim()[1])]
    axes.set_ylim(0, 1.08 * inside.max(initial=1e-9))
    axes.set_ylabel("states / eV / cell")
    if parts:
        axes.legend(edgecolor="none", framealpha=0.85, fontsize="small")
    sampling = (
        "mesh" if spectrum.is_mesh else f"{len(spectrum.kpoints)} k-point{'s' if len(spectrum.kpoints) > 1 else ''}"
    )
    axes.set_title(
        f"{formula_label(run.formula)}, {sampling}, Gaussians of σ = {1000 * width:.3g} meV", fontsize="medium"
    )
    return save_figure(figure, directory / ("pdos" if parts else "dos"))
