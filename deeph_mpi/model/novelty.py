"""How far an atom's environment lies from those of the training structures.

The invariants of an atom's features after the last layer (scalars, and the length of every channel of every l) are compared
with those of the training atoms of its element: novelty is the root mean square of their deviations in units of the training
atoms' standard deviations along the principal axes (a Mahalanobis distance over the root of its dimension), about 1 for atoms
like those of the training set. A power law, fitted to held-out structures, turns it into an expected error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Novelty", "invariants"]

AXES = 48  # principal axes that are kept; what lies outside of them counts with one common deviation
SHRINKAGE = 0.02  # of the mean variance, added to each: axes along which the training atoms do not vary


def invariants(natural: Tensor, pseudo: Tensor) -> Tensor:
    """Features of atoms, natural (n, (l_max+1)², c) and pseudo (n, (l_pseudo+1)²−1, c') → (n, d) float64."""
    parts = [natural[:, 0]]
    for features, first in ((natural, 1), (pseudo, 1)):
        skipped = 0 if features is pseudo else 1
        for degree in range(first, int((features.shape[1] + 1 - skipped) ** 0.5)):
            start = degree**2 - 1 + skipped
            parts.append(features[:, start : start + 2 * degree + 1].square().mean(dim=1).add(1e-12).sqrt())
    return torch.cat(parts, dim=1).double()


class Novelty:
    """Statistics of the training atoms of each species.

    Attributes:
        mean: (species, d) of the invariants.
        axes: (species, d, k) leading principal axes.
        deviations: (species, k + 1) standard deviations along them, and along any axis beyond them.
        law: (2,) a, b of the expected error exp(a + b log novelty) in meV; None before it was fitted.
    """

    def __init__(self, mean: Tensor, axes: Tensor, deviations: Tensor, law: Tensor | None = None) -> None:
        self.mean, self.axes, self.deviations, self.law = mean, axes, deviations, law

    @classmethod
    def of_training(cls, values: Tensor, species: Tensor, count: int) -> Novelty:
        """Statistics of training atoms with invariants (n, d) and species (n,) among `count`.

        A species without atoms gets those of all.
        """
        means, axes, deviations = [], [], []
        kept = min(AXES, values.shape[1] - 1)
        for kind in range(count):
            own = values[species == kind]
            own = own if len(own) > 1 else values
            mean = own.mean(dim=0)
            variances, vectors = torch.linalg.eigh(torch.cov((own - mean).T, correction=0))
            variances = variances.clamp(min=0.0).flip(0)
            shrunk = torch.cat([variances[:kept], variances[kept:].mean()[None]]) + SHRINKAGE * variances.mean() + 1e-12
            means.append(mean)
            axes.append(vectors.flip(1)[:, :kept])
            deviations.append(shrunk.sqrt())
        return cls(torch.stack(means), torch.stack(axes), torch.stack(deviations))

    def __call__(self, natural: Tensor, pseudo: Tensor, species: Tensor) -> np.ndarray:
        """Novelty (n,) of atoms with features as in `invariants` and species (n,)."""
        values, species = invariants(natural, pseudo).cpu(), species.cpu()
        found = values.new_zeros(len(values))
        for kind in species.unique().tolist():
            own = species == kind
            offset = values[own] - self.mean[kind]
            along = offset @ self.axes[kind]
            beyond = (offset.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0.0)
            scaled = (along / self.deviations[kind, :-1]).square().sum(dim=1)
            found[own] = ((scaled + beyond / self.deviations[kind, -1] ** 2) / values.shape[1]).sqrt()
        return found.numpy()

    def fit_law(self, novelty: np.ndarray, errors: np.ndarray) -> None:
        """Fit the expected error to atoms with known novelty (n,) and errors (n,) in meV: logarithmic least squares, b ≥ 0."""
        x, y = np.log(novelty), np.log(np.maximum(errors, 1e-6))
        spread = x - x.mean()
        slope = max(float(spread @ (y - y.mean()) / max(spread @ spread, 1e-12)), 0.0)
        offset = float(y.mean() - slope * x.mean())  # of the typical error: as many are larger as smaller
        self.law = torch.tensor([offset, slope], dtype=torch.float64)

    def expected_error(self, novelty: np.ndarray) -> np.ndarray | None:
        """Expected mean absolute error in meV of the elements in the rows of atoms, (n,); None without a fitted law."""
        if self.law is None:
            return None
        offset, slope = self.law.tolist()
        return np.exp(offset + slope * np.log(np.maximum(novelty, 1e-12)))

    def to_plain(self) -> dict[str, Any]:
        """Tensors for a checkpoint, of no more precision than they deserve."""
        return {
            "mean": self.mean.float(), "axes": self.axes.half(), "deviations": self.deviations.float(),
            "law": None if self.law is None else self.law.clone(),
        }  # fmt: skip

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Novelty:
        """The inverse of `to_plain`."""
        mean, axes, deviations = (content[name].double() for name in ("mean", "axes", "deviations"))
        return cls(mean, axes, deviations, content["law"])
