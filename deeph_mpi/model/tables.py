"""Two-centre tables: radial splines fitted to the training set's own matrices.

Seen from the bond, an overlap block of two atoms vanishes off m = m' and depends on the distance alone (Slater & Koster,
Phys. Rev. 94, 1498 (1954)), so that splines per ordered element pair, shell pair and |m| reproduce S. The same kind of
table fitted to H is the baseline from which the network starts. One constant matrix per element stands for the atom itself.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor, nn

from deeph_mpi.basis.constant import Constant
from deeph_mpi.errors import ModelError

__all__ = ["TwoCentreTable", "fit_splines", "spline_knots"]

DEGREE = 5


def spline_knots(r_min: float, r_max: float, spacing: float) -> np.ndarray:
    """Clamped knot vector with equal intervals of about `spacing` Å on [r_min, r_max]."""
    inner = np.linspace(r_min, r_max, max(round((r_max - r_min) / spacing), 1) + 1)
    return np.concatenate([np.full(DEGREE, r_min), inner, np.full(DEGREE, r_max)])


def fit_splines(
    distances: np.ndarray,
    values: np.ndarray,
    knots: np.ndarray,
    *,
    stiffness: float = 1e-7,
    smoothness: float | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """Least-squares spline coefficients of `values` (n, c) at `distances` (n,), zero with two derivatives at the last knot.

    Args:
        smoothness: for values that scatter about a smooth function, instead of `stiffness`: their deviation from it over the
            usual size of the fourth differences of its coefficients, which are held down accordingly.
        radius: exactly zero from the last knot within this distance on; by default from the last knot of all.
        stiffness: weight of the sixth differences of the coefficients, which decide where there are no data.

    Returns:
        (len(knots) − DEGREE − 1, c) float64.
    """
    count = len(knots) - DEGREE - 1
    free = count - 3
    if radius is not None and radius < knots[-1] - 1e-9:
        free = int(np.count_nonzero(knots[DEGREE + 1 :] <= radius + 1e-9))  # functions whose support ends within it
    design = BSpline.design_matrix(distances, knots, DEGREE, extrapolate=False).toarray()[:, :free]
    order = DEGREE + 1 if smoothness is None else 4
    differences = np.diff(np.eye(count), n=order, axis=0)[:, :free]
    # a row of data at every bond: the penalty is scaled so that it does not depend on how many there are
    weight = stiffness * np.sqrt(max(len(distances), 1)) if smoothness is None else smoothness
    system = np.concatenate([design, weight * differences])
    right = np.concatenate([values, np.zeros((len(differences), values.shape[1]))])
    coefficients = np.zeros((count, values.shape[1]))
    coefficients[:free] = np.linalg.lstsq(system, right, rcond=None)[0]
    return coefficients


class TwoCentreTable(nn.Module):
    """Splines for every ordered pair of elements and a matrix per element; float64 always.

    Buffers (all saved):
        knots: (k,) Å.
        coefficients: (pairs of elements, k − DEGREE − 1, channels of the sector 0+), pairs numbered
            species_i · n_species + species_j.
        onsite: (species, n, n) in template order.
    """

    knots: Tensor
    coefficients: Tensor
    onsite: Tensor

    def __init__(self, knots: np.ndarray, coefficients: np.ndarray, onsite: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("knots", torch.as_tensor(knots, dtype=torch.float64))
        self.register_buffer("coefficients", torch.as_tensor(coefficients, dtype=torch.float64))
        self.register_buffer("onsite", torch.as_tensor(onsite, dtype=torch.float64))
        spline = BSpline(np.asarray(knots), np.moveaxis(np.asarray(coefficients), 1, 0), DEGREE)
        starts = np.asarray(knots)[DEGREE : -DEGREE - 1]
        taylor = [spline(starts, nu=power) / factorial(power) for power in range(DEGREE, -1, -1)]
        pieces = torch.tensor(np.stack(taylor)).permute(2, 1, 0, 3).contiguous()
        self._pieces = Constant(pieces.flatten(0, 1).numpy())  # (pairs · intervals, DEGREE + 1, channels)

    @property
    def r_min(self) -> float:
        """Shortest distance of the table, Å."""
        return float(self.knots[0])

    @property
    def r_max(self) -> float:
        """Distance at which it has become zero, Å."""
        return float(self.knots[-1])

    def forward(self, distances: Tensor, pair_species: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Values in the sector 0+ for distances (n,) float64 Å and element pairs (n,) int64: (n, channels) in `dtype`.

        Raises:
            ModelError: for a distance below the table's first knot: the training data hold no such bond.
        """
        if len(distances) and float(distances.min()) < self.r_min:
            raise ModelError(
                f"a bond of {float(distances.min()):.3f} Å is shorter than any in the training data "
                f"(shortest: {self.r_min:.3f} Å); the model does not extrapolate there"
            )
        breaks = self.knots[DEGREE : len(self.knots) - DEGREE]
        interval = (torch.searchsorted(breaks, distances, right=True) - 1).clamp(0, len(breaks) - 2)
        # index_select: indexing takes five times as long
        rows = pair_species * (len(breaks) - 1) + interval
        pieces = self._pieces.on(rows.device, dtype).index_select(0, rows)  # (n, DEGREE + 1, channels)
        x = (distances - breaks.index_select(0, interval)).to(dtype)[:, None]
        value = pieces[:, 0]
        for power in range(1, DEGREE + 1):
            value = torch.addcmul(pieces[:, power], value, x)
        return torch.where((distances < self.r_max)[:, None], value, 0.0)
