"""States coloured by how much of them lies on chosen shells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = ["Colouring"]


@dataclass(frozen=True)
class Colouring:
    """What colours the states.

    Attributes:
        name: of the shells chosen.
        values: (nk, n) population of every state on them; NaN or 0 where there is no state.
    """

    name: str
    values: np.ndarray

    def scale(self, axes: Axes) -> ScalarMappable:
        """From grey at none to red at the largest population; adds the colour bar beside `axes`."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize

        top = float(np.nanmax(self.values, initial=0.0))
        colours = LinearSegmentedColormap.from_list("share", ["#b9c3cd", "#d9a25f", "#c2262d", "#5e0b15"])
        mappable = ScalarMappable(Normalize(0.0, top if top > 0 else 1.0), colours)
        figure = axes.figure
        figure.colorbar(mappable, ax=axes, label=f"population on {self.name}", pad=0.02, aspect=30)
        return mappable
