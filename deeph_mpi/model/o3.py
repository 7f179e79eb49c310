"""Layers on node features: (n, components, channels), natural l = 0…l_max and pseudo l = 1…l_pseudo separately."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import NodeLayout

import os
_VARIANT = os.environ.get("DEEPH_VARIANT", "")


def _grid(l_max):
    from e3nn import o3
    import numpy as np
    n = 110
    k = np.arange(n) + 0.5
    z = 1 - 2 * k / n
    phi = np.pi * (1 + 5**0.5) * k
    xyz = np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], 1)
    xyz = torch.tensor(np.concatenate([xyz, -xyz]))
    y = o3.spherical_harmonics(list(range(l_max + 1)), xyz[:, [1, 2, 0]], True, normalization="integral")
    return y.float(), (torch.linalg.pinv(y)).float()


__all__ = ["EquivariantLinear", "EquivariantNorm", "FeedForward", "degrees"]


def degrees(first: int, last: int) -> Tensor:
    """l of each component of l = first…last, e.g. 0, 1, 1, 1, 2, …"""
    return torch.tensor([degree for degree in range(first, last + 1) for _ in range(2 * degree + 1)], dtype=torch.int64)


class EquivariantLinear(nn.Module):
    """Mixes channels of each l with its own matrix.

    Args:
        first, last: range of l.
        n_in, n_out: channels.
    """

    degrees: Tensor

    def __init__(self, first: int, last: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.register_buffer("degrees", degrees(first, last) - first, persistent=False)
        self.weight = nn.Parameter(torch.randn(max(last - first + 1, 0), n_in, n_out) / max(n_in, 1) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, components, n_in) → (n, components, n_out)."""
        return torch.bmm(x.transpose(0, 1), self.weight[self.degrees]).transpose(0, 1)


class EquivariantNorm(nn.Module):
    """Per-atom normalization: layer norm of the scalars, and one root mean square over all other components.

    Statistics of one atom only: nothing may depend on how atoms are spread over ranks.
    """

    degrees: Tensor
    pseudo_degrees: Tensor
    balance: Tensor

    def __init__(self, layout: NodeLayout) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(layout.channels)
        self.register_buffer("degrees", degrees(1, layout.l_max) - 1, persistent=False)
        self.register_buffer("pseudo_degrees", degrees(1, layout.l_pseudo) - 1, persistent=False)
        self.scale = nn.Parameter(torch.ones(layout.l_max, layout.channels))
        self.pseudo_scale = nn.Parameter(torch.ones(layout.l_pseudo, layout.pseudo_channels))
        balance = 1.0 / (2.0 * (self.degrees + 1) + 1.0)
        self.register_buffer("balance", (balance / balance.sum() / layout.channels)[:, None], persistent=False)

    def forward(self, natural: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, components, channels) of both parities → normalized ones."""
        scalars = self.scalars(natural[:, :1])
        mean_square = (natural[:, 1:].square() * self.balance).sum(dim=(1, 2), keepdim=True)
        inverse = torch.rsqrt(mean_square + 1e-3)
        rest = natural[:, 1:] * (inverse * self.scale[self.degrees])
        return torch.cat([scalars, rest], dim=1), pseudo * (inverse * self.pseudo_scale[self.pseudo_degrees])


class FeedForward(nn.Module):
    """Per-atom nonlinearity: linear, gates from scalars, linear.

    Args:
        layout: of the features in and out.
        width: hidden channels (pseudo ones in proportion).
    """

    degrees: Tensor
    pseudo_degrees: Tensor

    def __init__(self, layout: NodeLayout, width: int) -> None:
        super().__init__()
        self.width, self.l_max, self.l_pseudo = width, layout.l_max, layout.l_pseudo
        self.pseudo_width = width * layout.pseudo_channels // layout.channels
        gates = self.l_max * width + self.l_pseudo * self.pseudo_width
        self.scalars = nn.Linear(layout.channels, width + gates)
        if _VARIANT == "s2":
            a, b = _grid(layout.l_max)
            self.register_buffer("to_grid", a, persistent=False)
            self.register_buffer("from_grid", b, persistent=False)
        self.natural_in = EquivariantLinear(1, layout.l_max, layout.channels, width)
        self.pseudo_in = EquivariantLinear(1, layout.l_pseudo, layout.pseudo_channels, self.pseudo_width)
        self.scalars_out = nn.Linear(width, layout.channels)
        self.natural_out = EquivariantLinear(1, layout.l_max, width, layout.channels)
        self.pseudo_out = EquivariantLinear(1, layout.l_pseudo, self.pseudo_width, layout.pseudo_channels)
        self.register_buffer("degrees", degrees(1, layout.l_max) - 1, persistent=False)
        self.register_buffer("pseudo_degrees", degrees(1, layout.l_pseudo) - 1, persistent=False)

    def forward(self, natural: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, components, channels) of both parities → the same shapes."""
        n, cut = len(natural), self.width + self.l_max * self.width
        scalars = self.scalars(natural[:, 0])
        gates = torch.sigmoid(scalars[:, self.width :])
        natural_gates = gates[:, : self.l_max * self.width].view(n, self.l_max, self.width)
        pseudo_gates = gates[:, cut - self.width :].view(n, self.l_pseudo, self.pseudo_width)
        if _VARIANT == "s2":
            hid = torch.cat([scalars[:, None, : self.width], self.natural_in(natural[:, 1:])], dim=1)
            f = torch.einsum("gc,ncw->ngw", self.to_grid, hid)
            back = torch.einsum("cg,ngw->ncw", self.from_grid, torch.nn.functional.silu(f))
            rest = self.natural_out(back[:, 1:])
            sc = self.scalars_out(back[:, 0] + torch.nn.functional.silu(scalars[:, : self.width]))
            odd = self.pseudo_out(self.pseudo_in(pseudo) * pseudo_gates[:, self.pseudo_degrees])
            return torch.cat([sc[:, None], rest], dim=1), odd
        rest = self.natural_out(self.natural_in(natural[:, 1:]) * natural_gates[:, self.degrees])
        scalars = self.scalars_out(torch.nn.functional.silu(scalars[:, : self.width]))
        odd = self.pseudo_out(self.pseudo_in(pseudo) * pseudo_gates[:, self.pseudo_degrees])
        return torch.cat([scalars[:, None], rest], dim=1), odd
