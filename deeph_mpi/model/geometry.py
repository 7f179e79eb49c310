"""What the network needs to know of a set of bonds: Wigner matrices in packed order, radial functions, envelopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import NodeLayout
from deeph_mpi.basis.wigner import Directions

__all__ = ["BondGeometry", "Bonds", "envelope", "fade", "radial_basis"]


def envelope(distances: Tensor, radius: float | Tensor) -> Tensor:
    """Polynomial 1 → 0 at `radius` with two continuous derivatives (DimeNet's, p = 6: arXiv:2003.03123, eq. 8)."""
    x = (distances / radius).clamp(max=1.0)
    return 1.0 - x**6 * (28.0 - 48.0 * x + 21.0 * x**2)


def fade(distances: Tensor, radius: Tensor, width: float) -> Tensor:
    """1 up to `width` Å before `radius`, 0 beyond it, with two continuous derivatives in between."""
    x = ((radius - distances) / width).clamp(0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def radial_basis(distances: Tensor, radius: float, count: int) -> Tensor:
    """Bessel functions √(2/r_c) sin(n π r / r_c) / r, n = 1…count, of distances (n,): (n, count) (arXiv:2003.03123, eq. 7)."""
    order = torch.arange(1, count + 1, dtype=distances.dtype, device=distances.device)
    argument = order * (torch.pi / radius) * distances[:, None]
    return (2.0 / radius) ** 0.5 * torch.sin(argument) / distances[:, None]


@dataclass
class Bonds:
    """Undirected bonds i–j, each listed once.

    Attributes:
        i, j: (n,) int64 rows of the node features.
        natural: (n, rows, (l_max + 1)²) packed rows of the Wigner matrices into the frame of i→j.
        pseudo: (n, rows', (l_pseudo + 1)² − 1) the same for pseudo features.
        radial: (n, radial) radial basis.
        envelope: (n, 1).
        distances: (n,) float64 Å.
    """

    i: Tensor
    j: Tensor
    natural: Tensor
    pseudo: Tensor
    radial: Tensor
    envelope: Tensor
    distances: Tensor

    def __len__(self) -> int:
        return len(self.i)

    def to(self, device: torch.device) -> Bonds:
        """Copy to a device."""
        return Bonds(*(getattr(self, each.name).to(device) for each in fields(self)))

    def none(self) -> Bonds:
        """The same without bonds."""
        return Bonds(*(getattr(self, each.name)[:0] for each in fields(self)))

    @classmethod
    def join(cls, several: Sequence[Bonds], starts: Sequence[int]) -> Bonds:
        """Those of a disjoint union, whose nodes are counted from `starts`."""
        joined = {each.name: torch.cat([getattr(one, each.name) for one in several]) for each in fields(cls)}
        for end in ("i", "j"):
            joined[end] = torch.cat([getattr(one, end) + first for one, first in zip(several, starts, strict=True)])
        return cls(**joined)


class BondGeometry(nn.Module):
    """Builds `Bonds` for one layout and radius.

    Args:
        layout: of the node features; its `m_max` decides which rows are kept.
        radius: of envelope and radial basis, Å.
        radial: number of radial functions.
    """

    def __init__(self, layout: NodeLayout, radius: float, radial: int) -> None:
        super().__init__()
        self.layout, self.radius, self.radial = layout, radius, radial

    def forward(self, i: Tensor, j: Tensor, distances: Tensor, directions: Directions, dtype: torch.dtype) -> Bonds:
        """Bonds from rows i, j, distances (n,) float64 Å and directions from i to j; float results in `dtype`."""
        natural, pseudo = (wigner.of(directions, dtype) for wigner in (self.layout.natural, self.layout.pseudo))
        radial = radial_basis(distances, self.radius, self.radial).to(dtype)
        fade = envelope(distances, self.radius).to(dtype)[:, None]
        return Bonds(i, j, natural, pseudo, radial, fade, distances)
