"""Density of states from the levels of k-points."""

from __future__ import annotations

import numpy as np

from deeph_mpi.results.record import SpectrumRecord

__all__ = ["density_of_states"]


def density_of_states(
    spectrum: SpectrumRecord, degeneracy: int, width: float = 0.05, shares: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian-broadened density over the interval in which the states of every k-point are complete.

    Args:
        spectrum: on a mesh, or at the few k-points of a large cell.
        degeneracy: electrons per level.
        width: standard deviation of a level in eV.
        shares: (nk, n), how much of every state counts; all of it by default.

    Returns:
        Energies (m,) in eV and density (m,) in states/eV/cell. States outside the interval are missing, so within
        about two widths of its ends the density is too low.
    """
    levels = spectrum.eigenvalues
    known = np.isfinite(levels)
    if not known.any():
        return np.array([spectrum.intervals[:, 0].max(), spectrum.intervals[:, 1].min()]), np.zeros(2)
    low = max(spectrum.intervals[:, 0].max(), np.nanmin(levels) - 4 * width)
    high = min(spectrum.intervals[:, 1].min(), np.nanmax(levels) + 4 * width)
    energies = np.linspace(low, max(high, low), max(2, int((high - low) / (width / 5)) + 1))
    weights = np.broadcast_to(spectrum.weights[:, None], levels.shape)
    if shares is not None:
        weights = weights * shares
    density = np.zeros_like(energies)
    for level, weight in zip(levels[known], weights[known], strict=True):
        density += weight * np.exp(-0.5 * ((energies - level) / width) ** 2)
    return energies, degeneracy * density / (width * np.sqrt(2 * np.pi))
