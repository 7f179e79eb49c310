"""Layers in a bond frame, where equivariance is that of O(2): see `deeph_mpi.basis.sectors`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import SectorLayout

__all__ = ["BondConvolution", "GatedSectors", "SectorLinear", "swapped_weights"]


class SectorLinear(nn.Module):
    """A linear map of packed vectors that commutes with O(2): one real matrix per sector, the same for cos and sin.

    Args:
        source: layout of the input.
        target: layout of the output; sectors that the input lacks stay zero.
        bias: add a bias to the sector 0+.
    """

    def __init__(self, source: SectorLayout, target: SectorLayout, *, bias: bool = True) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.weights = nn.ParameterList()
        inputs = [source.even, source.odd, *source.rings]
        outputs = [target.even, target.odd, *target.rings]
        inputs += [0] * (len(outputs) - len(inputs))
        for n_in, n_out in zip(inputs, outputs, strict=False):
            self.weights.append(nn.Parameter(torch.randn(n_in, n_out) / max(n_in, 1) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(target.even)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, source.dimension) → (n, target.dimension)."""
        runs = []
        parts = x.split(self.source.sizes, dim=1)
        for run, (sector, start, stop) in enumerate(self.target.slices):
            if run >= len(parts):
                runs.append(x.new_zeros(len(x), stop - start))
            elif sector == 0 and self.bias is not None:
                runs.append(torch.addmm(self.bias, parts[run], self.weights[sector]))
            else:
                runs.append(parts[run] @ self.weights[sector])
        return torch.cat(runs, dim=1)


class GatedSectors(nn.Module):
    """Activation: SiLU on the sector 0+, other sectors multiplied by the sigmoid of scalars; a factor per channel first.

    Attributes:
        layout: of the output; the input carries one more 0+ channel for every channel of the other sectors.
        wide: layout of the input.
    """

    def __init__(self, layout: SectorLayout) -> None:
        super().__init__()
        self.layout = layout
        self.wide = SectorLayout(layout.even + layout.odd + sum(layout.rings), layout.odd, layout.rings)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """(n, wide.dimension), factor (n, wide.channels) → (n, layout.dimension)."""
        layout, wide = self.layout, self.wide
        scalars, rest = x.split([wide.even, wide.dimension - wide.even], dim=1)
        if factor is None:
            even, gates = scalars.split([layout.even, wide.even - layout.even], dim=1)
            gates = torch.sigmoid(gates)
        else:
            first, second = factor.split([wide.even, wide.channels - wide.even], dim=1)
            even, gates = (scalars * first).split([layout.even, wide.even - layout.even], dim=1)
            gates = torch.sigmoid(gates) * second
        odd, *rings = gates.split([layout.odd, *layout.rings], dim=1)
        onto_parts = [odd, *(ring for ring in rings for _ in range(2))]
        return torch.cat([torch.nn.functional.silu(even), rest * torch.cat(onto_parts, dim=1)], dim=1)


class BondConvolution(nn.Module):
    """Features of the two atoms of a bond → hidden features of both its directions, each pair evaluated once.

    Seen outward from either atom, exchanging the atoms exchanges the two inputs. The most general linear map that respects
    this is diagonal in their sum and difference, which halves its cost:
    h(i→j) = P (a + b) + Q (a − b), h(j→i) = P (a + b) − Q (a − b).

    Args:
        source: layout of the packed node features.
        hidden: layout of the output.
    """

    def __init__(self, source: SectorLayout, hidden: SectorLayout) -> None:
        super().__init__()
        self.gate = GatedSectors(hidden)
        self.sum = SectorLinear(source, self.gate.wide)
        self.difference = SectorLinear(source, self.gate.wide, bias=False)

    def forward(self, total: Tensor, difference: Tensor, factors: Tensor) -> Tensor:
        """Sum and difference (n, source.dimension) of both atoms' features in their outward frames, factors (2n, channels)
        for i→j, then j→i → (2n, hidden.dimension), i→j first; the second half is in the outward frame of j."""
        even, odd = self.sum(total), self.difference(difference)
        both = torch.cat([even + odd, even - odd])
        del even, odd  # what is not held while the gates work is less of a job's peak
        return self.gate(both, factors)


def swapped_weights(weight: Tensor, swap: Tensor, sign: Tensor) -> Tensor:
    """Readout of the other direction: columns exchanged as the atoms are, with their signs."""
    return weight[:, swap] * sign
