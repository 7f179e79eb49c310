"""What the network needs to know of a set of bonds: Wigner matrices in packed order, radial functions, envelopes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import NodeLayout
from deeph_mpi.basis.wigner import bond_frames, wigner_matrices

__all__ = ["BondGeometry", "Bonds", "envelope", "radial_basis"]


def envelope(distances: Tensor, radius: float | Tensor) -> Tensor:
    """Polynomial 1 → 0 at `radius` with two continuous derivatives (DimeNet's, p = 6: arXiv:2003.03123, eq. 8)."""
    x = (distances / radius).clamp(max=1.0)
    return 1.0 - x**6 * (28.0 - 48.0 * x + 21.0 * x**2)


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


class BondGeometry(nn.Module):
    """Builds `Bonds` from vectors for one layout and radius.

    Args:
        layout: of the node features; its `m_max` decides which rows are kept.
        radius: of envelope and radial basis, Å.
        radial: number of radial functions.
    """

    natural_index: Tensor
    pseudo_index: Tensor
    pseudo_signs: Tensor

    def __init__(self, layout: NodeLayout, radius: float, radial: int) -> None:
        super().__init__()
        self.layout, self.radius, self.radial = layout, radius, radial
        self.register_buffer("natural_index", torch.tensor(layout.natural_rows[0]), persistent=False)
        index, signs = layout.pseudo_rows
        self.register_buffer("pseudo_index", torch.tensor(index) + 1, persistent=False)
        self.register_buffer("pseudo_signs", torch.tensor(signs)[:, None], persistent=False)

    def forward(self, i: Tensor, j: Tensor, vectors: Tensor, dtype: torch.dtype) -> Bonds:
        """Bonds from rows i, j and vectors (n, 3) float64 Å from i to j; float results in `dtype`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        frames = bond_frames(vectors).to(dtype)
        size = (self.layout.l_max + 1) ** 2
        full = frames.new_zeros(len(i), size, size)
        for degree, matrix in enumerate(wigner_matrices(frames, self.layout.l_max)):
            block = slice(degree**2, (degree + 1) ** 2)
            full[:, block, block] = matrix
        stop = (self.layout.l_pseudo + 1) ** 2
        pseudo = full[:, self.pseudo_index, 1:stop] * self.pseudo_signs.to(dtype)
        radial = radial_basis(distances, self.radius, self.radial).to(dtype)
        fade = envelope(distances, self.radius).to(dtype)[:, None]
        return Bonds(i, j, full[:, self.natural_index], pseudo, radial, fade, distances)
