"""Pictures of a training run: learning curve, errors by shell pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from deeph_mpi.results.figure import new_figure, save_figure

__all__ = ["plot_error_map", "plot_learning_curve"]


def plot_learning_curve(directory: Path, columns: Mapping[str, np.ndarray]) -> list[Path]:
    """Training loss and validation errors (meV) against the time (min), both logarithmic; files written. Not collective.

    Args:
        directory: where `learning_curve.png` and `.pdf` go.
        columns: of `log.csv`, (epochs,) each; NaN where nothing was computed.
    """
    figure = new_figure((5.2, 3.8))
    axes = figure.subplots()
    minutes = columns["seconds"] / 60
    names = {
        "train_meV": "training loss", "all_meV": "H, validation", "onsite_meV": "onsite blocks",
        "hopping_meV": "hopping blocks", "eigenvalues_meV": "eigenvalues near E$_F$",
    }  # fmt: skip
    for number, (name, label) in enumerate(names.items()):
        have = np.isfinite(columns[name]) & (columns[name] > 0)
        if have.any():
            axes.plot(minutes[have], columns[name][have], color=f"C{number}", linewidth=1.2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("minutes")
    axes.set_ylabel("mean absolute error (meV)")
    axes.grid(True, which="both", color="0.92", linewidth=0.6)
    axes.legend(frameon=False, fontsize="small")
    return save_figure(figure, directory / "learning_curve")


def plot_error_map(directory: Path, shells: list[str], maps: Mapping[str, np.ndarray], title: str) -> list[Path]:
    """Mean absolute errors (meV) by shell pair as colours and numbers, one map for each kind of block. Not collective.

    Args:
        directory: where `error_map.png` and `.pdf` go.
        shells: names of the shells.
        maps: name → (shells, shells) meV; NaN where there are no elements.
        title: of the figure.
    """
    figure: Figure = new_figure((3.6 * len(maps) + 0.4, 3.6))
    for axes, (name, values) in zip(np.atleast_1d(figure.subplots(1, len(maps))), maps.items(), strict=True):
        image = axes.imshow(values, cmap="viridis")
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)]) if np.isfinite(values).any() else 0.0
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize="small")
        axes.set_xticks(range(len(shells)), shells)
        axes.set_yticks(range(len(shells)), shells)
        axes.set_title(f"{name} blocks", fontsize="medium")
        figure.colorbar(image, ax=axes, label="mean absolute error (meV)", shrink=0.85)
    figure.suptitle(title, fontsize="medium")
    return save_figure(figure, directory / "error_map")
