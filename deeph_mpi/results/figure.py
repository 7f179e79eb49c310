"""Figures without a display, saved whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.results.record import SpectrumRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["E_F", "energy_axis", "formula_label", "new_figure", "number", "save_figure"]

E_F = "E$_\\mathrm{F}$"


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of `size` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save as `path`.png and `path`.pdf, each under a temporary name first; the folder is made when absent.

    Returns:
        The files written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in ("png", "pdf"):
        target = path.with_name(f"{path.name}.{kind}")
        temporary = target.with_name(target.name + ".part")
        figure.savefig(temporary, format=kind, dpi=180)
        temporary.replace(target)
        written.append(target)
    return written


def energy_axis(axes: Axes, spectrum: SpectrumRecord, window: tuple[float, float] | None, *, vertical: bool) -> None:
    """Label and limit the axis of energies, and mark the Fermi level where it is known."""
    known = bool(np.isfinite(spectrum.fermi))
    label = f"E − {E_F} (eV)" if known else "E (eV)"
    if known:
        (axes.axhline if vertical else axes.axvline)(0.0, color="0.4", linewidth=0.8, linestyle="--", zorder=0.5)
    if vertical:
        axes.set_ylabel(label)
        axes.set_ylim(window)
    else:
        axes.set_xlabel(label)
        axes.set_xlim(window)


def formula_label(formula: str) -> str:
    """A chemical formula with its numbers as subscripts."""
    return re.sub(r"(\d+)", r"$_{\1}$", formula)


def number(value: float, digits: int = 6) -> str:
    """A number as a picture writes it, with a proper minus sign."""
    return f"{value:.{digits}g}".replace("-", "−")
