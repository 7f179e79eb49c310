"""From node features to bond frames and back, and one layer of message passing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import NodeLayout, SectorLayout
from deeph_mpi.model.geometry import BondGeometry, Bonds
from deeph_mpi.model.o2 import BondConvolution, SectorLinear
from deeph_mpi.model.o3 import EquivariantLinear, EquivariantNorm, FeedForward
from deeph_mpi.model.settings import NetworkSettings

__all__ = ["BondFactors", "BondFrame", "MessageLayer"]

NARROW = 12  # channels; products of small matrices with fewer columns than that take longer than with twice as many


class BondFrame(nn.Module):
    """Rotates node features of both ends of bonds into their outward frames, packs them by sector, and back.

    Args:
        layout: of what is read or written; node features, and the rows of Wigner matrices that `Bonds` hold, may go on to
            larger l and |m|, which are left alone.
    """

    natural_signs: Tensor
    pseudo_signs: Tensor

    def __init__(self, layout: NodeLayout) -> None:
        super().__init__()
        self.layout = layout
        self.sources = [0, 1] if layout.l_pseudo else [0]
        self.components = ((layout.l_max + 1) ** 2, (layout.l_pseudo + 1) ** 2 - 1)
        signs = torch.tensor(layout.swap_signs)
        runs: tuple[list[Tensor], list[Tensor]] = ([], [])
        start = 0
        for source, first, last in layout.packing:
            channels = layout.channels if source == 0 else layout.pseudo_channels
            runs[source].append(signs[start : start + (last - first) * channels : channels])
            start += (last - first) * channels
        none = signs[:0]
        self.register_buffer("natural_signs", torch.cat([none, *runs[0]])[:, None], persistent=False)
        self.register_buffer("pseudo_signs", torch.cat([none, *runs[1]])[:, None], persistent=False)

    def pack(self, rows: list[Tensor]) -> Tensor:
        """Rows (n, rows, channels) of natural and, where there are any, pseudo features → packed (n, dimension)."""
        return torch.cat([rows[source][:, first:last].flatten(1) for source, first, last in self.layout.packing], dim=1)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """The inverse of `pack`."""
        runs: tuple[list[Tensor], list[Tensor]] = ([], [])
        counts = (self.layout.channels, self.layout.pseudo_channels)
        sizes = [(last - first) * counts[source] for source, first, last in self.layout.packing]
        for part, (source, first, last) in zip(packed.split(sizes, dim=1), self.layout.packing, strict=True):
            runs[source].append(part.unflatten(1, (last - first, counts[source])))
        return [torch.cat(runs[source], dim=1) for source in self.sources]

    def forward(self, natural: Tensor, pseudo: Tensor, bonds: Bonds) -> tuple[Tensor, Tensor]:
        """Sum and difference of the ends' features, each in its own outward frame: two packed (n, dimension)."""
        sums, differences = [], []
        for source in self.sources:
            features = (natural, pseudo)[source][:, : self.components[source]]
            rotation, signs = self._rotation(source, bonds)
            ends = features.index_select(0, bonds.i), features.index_select(0, bonds.j)
            if features.shape[2] < NARROW:
                near, far = torch.bmm(rotation, torch.cat(ends, dim=2)).chunk(2, dim=2)
            else:  # side by side they would be gathered and summed row by row, not in one piece
                near, far = torch.bmm(rotation, ends[0]), torch.bmm(rotation, ends[1])
            signs = signs.to(features.dtype)
            sums.append(torch.addcmul(near, far, signs))
            differences.append(torch.addcmul(near, far, signs, value=-1.0))
        return self.pack(sums), self.pack(differences)

    def _rotation(self, source: int, bonds: Bonds) -> tuple[Tensor, Tensor]:
        """Wigner matrices of natural (0) or pseudo features (1), (n, rows, components), and signs of the rows, (rows, 1)."""
        signs = (self.natural_signs, self.pseudo_signs)[source]
        return (bonds.natural, bonds.pseudo)[source][:, : len(signs), : self.components[source]], signs

    def add_to_atoms(
        self, ends: list[Tensor], bonds: Bonds, into: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor]
    ) -> None:
        """Turn features of both directions (2n, rows, channels), see `unpack`, from their outward frames into the lab frame,
        and add those of either half to their `rows`, (n,) each, of natural and pseudo sums."""
        for source, features in zip(self.sources, ends, strict=True):
            near, far = features.chunk(2)
            rotation, signs = self._rotation(source, bonds)
            back, target = rotation.transpose(1, 2), into[source]
            target.index_add_(0, rows[0], torch.bmm(back, near))
            target.index_add_(0, rows[1], torch.bmm(back, far * signs.to(far.dtype)))


class BondFactors(nn.Module):
    """Channel factors from distance and from the scalars of both ends, for either direction.

    Args:
        settings: of the network.
        count: number of factors.
    """

    def __init__(self, settings: NetworkSettings, count: int) -> None:
        super().__init__()
        width = settings.factors
        self.radial = nn.Linear(settings.radial, width)
        self.centre = nn.Linear(settings.channels, width, bias=False)
        self.partner = nn.Linear(settings.channels, width, bias=False)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, count)

    def forward(self, scalars: Tensor, bonds: Bonds) -> Tensor:
        """Scalars (nodes, channels) → (2n, count): for i→j, then j→i."""
        i, j, radial = bonds.i, bonds.j, self.radial(bonds.radial)
        if len(scalars) > 2 * len(bonds):  # few bonds of many nodes: the work must not grow with the nodes
            scalars = scalars[torch.cat([i, j])]
            i, j = torch.arange(2 * len(bonds), device=i.device).chunk(2)
        centre, partner = self.centre(scalars), self.partner(scalars)
        there = radial + centre.index_select(0, i) + partner.index_select(0, j)
        back = radial + centre.index_select(0, j) + partner.index_select(0, i)
        hidden = torch.nn.functional.silu(torch.cat([there, back]))
        return self.out(torch.nn.functional.silu(self.hidden(hidden)))


class MessageLayer(nn.Module):
    """One layer: messages over bonds, summed on atoms, then a per-atom nonlinearity; both added to the features.

    In the first layer features are scalars, and messages have m = 0 about their bond; in the second they are natural ones.
    What would be zero there is neither read nor written.

    Args:
        settings: of the network.
        number: of the layer, from 0.
    """

    def __init__(self, settings: NetworkSettings, number: int) -> None:
        super().__init__()
        layout = settings.node_layout()
        source, target = settings.message_layouts(number)
        hidden: SectorLayout = settings.hidden_layout(settings.hidden, source.m_max, odd=number > 0)
        self.geometry = BondGeometry(target, settings.r_message, settings.radial)
        self.norm = EquivariantNorm(layout)
        self.frame, self.back = BondFrame(source), BondFrame(target)
        self.convolution = BondConvolution(source.sectors, hidden)
        self.factors = BondFactors(settings, self.convolution.gate.wide.channels)
        self.readout = SectorLinear(hidden, target.sectors, bias=False)
        self.natural = EquivariantLinear(0, layout.l_max, layout.channels, layout.channels)
        self.pseudo = EquivariantLinear(1, layout.l_pseudo, layout.pseudo_channels, layout.pseudo_channels)
        self.update_norm = EquivariantNorm(layout)
        self.update = FeedForward(layout, 2 * layout.channels)
        self.scale = settings.neighbours**-0.5

    def messages(
        self,
        natural: Tensor,
        pseudo: Tensor,
        bonds: Bonds,
        into: tuple[Tensor, Tensor],
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add the messages of `bonds` between normalized features to the sums `into`, to the rows `bonds.i` and `bonds.j` or
        to other `rows` of theirs."""
        total, difference = self.frame(natural, pseudo, bonds)
        hidden = self.convolution(total, difference, self.factors(natural[:, 0], bonds))
        del total, difference  # the peak of a job's memory is in what follows
        hidden = hidden * (bonds.envelope * self.scale).repeat(2, 1)
        packed = self.readout(hidden)
        del hidden
        ends = self.back.unpack(packed)
        del packed
        self.back.add_to_atoms(ends, bonds, into, rows or (bonds.i, bonds.j))

    def finish(self, natural: Tensor, pseudo: Tensor, sums: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Update features of owned atoms from their summed messages."""
        natural = natural + self.natural(sums[0])
        pseudo = pseudo + self.pseudo(sums[1])
        more = self.update(*self.update_norm(natural, pseudo))
        return natural + more[0], pseudo + more[1]
