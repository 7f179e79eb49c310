"""Where states lie: populations of the atoms as extended XYZ and as pictures from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeph_mpi.errors import ConfigError
from deeph_mpi.results.atomfile import write_atom_columns
from deeph_mpi.results.figure import E_F, formula_label, number
from deeph_mpi.results.projections import Projections
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.topview import plot_top_view

__all__ = ["check_states", "check_window", "map_states", "map_window"]


def map_window(
    run: RunRecord, spectrum: SpectrumRecord, projections: Projections, window: tuple[float, float], directory: Path
) -> list[Path]:
    """Map the states of a window: `map.extxyz` with column `ldos`, and `map.png`, `map.pdf`. Not collective.

    `ldos` of an atom is Σ_k weight_k Σ_n w_a of the states in the window, times the electrons per level: over all atoms it
    adds up to the states in the window (Mulliken; of a path or list, the mean over its k-points).

    Args:
        run, spectrum, projections: of the states.
        window: eV, relative to E_F where it is known.
        directory: where the files go; made when absent.

    Returns:
        The files written.

    Raises:
        ConfigError: no states in the window, or it reaches beyond the states computed.
    """
    energies = spectrum.eigenvalues - spectrum.zero
    check_window(spectrum, window)
    inside = (energies >= window[0]) & (energies <= window[1])
    values = np.zeros(len(projections.structure))
    for k in np.flatnonzero(inside.any(axis=1)):
        values += spectrum.weights[k] * projections.on_atoms(int(k))[inside[k]].sum(axis=0)
    values *= run.degeneracy
    write_atom_columns(directory / "map.extxyz", projections.structure, {"ldos": values})
    origin = f" of {E_F}" if np.isfinite(spectrum.fermi) else ""
    count = float(spectrum.weights @ inside.sum(axis=1)) * run.degeneracy
    title = (
        f"{formula_label(run.formula)}: {count:.4g} states within {number(window[0])} … {number(window[1])} eV{origin}"
    )
    pictures = plot_top_view(
        projections.structure,
        values,
        "states on the atom, both spins (Mulliken)" if run.degeneracy == 2 else "states on the atom (Mulliken)",
        title,
        directory / "map",
    )
    return [directory / "map.extxyz", *pictures]


def map_states(
    run: RunRecord,
    spectrum: SpectrumRecord,
    projections: Projections,
    states: Sequence[int],
    kpoint: int,
    directory: Path,
) -> list[Path]:
    """Map single states: `states.extxyz` with a column `state_N` each, and pictures `state_N`. Not collective.

    A column is the Mulliken population of the atoms, adding up to 1; degenerate states share their mean.

    Args:
        run, spectrum, projections: of the states.
        states: indices among all states of the k-point, as the summary prints them.
        kpoint: which k-point, from 0.
        directory: where the files go; made when absent.

    Returns:
        The files written.

    Raises:
        ConfigError: no such k-point or state.
    """
    first = check_states(spectrum, states, kpoint)
    populations = projections.on_atoms(kpoint)
    columns: dict[str, np.ndarray] = {}
    for state in states:
        columns[f"state_{state}"] = populations[state - first]
    path = directory / "states.extxyz"
    write_atom_columns(path, projections.structure, columns)
    written = [path]
    for state, (name, values) in zip(states, columns.items(), strict=True):
        energy = spectrum.eigenvalues[kpoint, state - first] - spectrum.zero
        origin = f"E − {E_F}" if np.isfinite(spectrum.fermi) else "E"
        title = f"{formula_label(run.formula)}: state {state}, {origin} = {number(energy, 4)} eV"
        written += plot_top_view(projections.structure, values, "population (Mulliken)", title, directory / name)
    return written


def check_window(spectrum: SpectrumRecord, window: tuple[float, float]) -> None:
    """Refuse a window without states, or one that reaches beyond those computed.

    Raises:
        ConfigError: such a window.
    """
    energies = spectrum.eigenvalues - spectrum.zero
    if not window[0] < window[1]:
        raise ConfigError(f"--map takes two energies, the lower first, not {window[0]:g} {window[1]:g}")
    if not ((energies >= window[0]) & (energies <= window[1])).any():
        raise ConfigError(f"no states within {window[0]:g} … {window[1]:g} eV")
    counted = spectrum.intervals[spectrum.verified] - spectrum.zero
    low, high = counted[:, 0].max(initial=-np.inf), counted[:, 1].min(initial=np.inf)
    if window[0] < low or window[1] > high:
        raise ConfigError(
            f"the window {window[0]:g} … {window[1]:g} eV reaches beyond the states computed, which are complete within "
            f"{low:.4g} … {high:.4g} eV"
        )


def check_states(spectrum: SpectrumRecord, states: Sequence[int], kpoint: int) -> int:
    """The index of the lowest state computed at a k-point; 0 where states could not be counted.

    Raises:
        ConfigError: there is no such k-point, or one of `states` was not computed there.
    """
    if not 0 <= kpoint < len(spectrum.kpoints):
        raise ConfigError(f"no k-point {kpoint}: there are {len(spectrum.kpoints)}, counted from 0")
    first = max(int(spectrum.first[kpoint]), 0)
    end = first + int(np.isfinite(spectrum.eigenvalues[kpoint]).sum())
    for state in states:
        if not first <= state < end:
            raise ConfigError(f"no state {state} at k-point {kpoint}: those computed are {first} to {end - 1}")
    return first
