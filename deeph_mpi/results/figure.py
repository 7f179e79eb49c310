"""Figures without a display, saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure"]


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
