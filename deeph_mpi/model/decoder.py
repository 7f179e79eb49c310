"""From the features of two atoms to the block of H between them: what the network adds to the two-centre baseline.

That correction falls by orders of magnitude with the distance. Near pairs, a quarter or so, have a wide network; those
further out a lean one, which reads features of small l only; those beyond a third distance the baseline alone. All three
follow from the training data (`deeph_mpi.train.fit.tolerance_radii`), for every pair of elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deeph_mpi.basis.sectors import NodeLayout, PairBlockLayout, SectorLayout
from deeph_mpi.basis.wigner import Directions
from deeph_mpi.model.geometry import BondGeometry, Bonds, envelope, fade
from deeph_mpi.model.message import BondFactors, BondFrame
from deeph_mpi.model.o2 import BondConvolution, GatedSectors, SectorLinear, swapped_weights
from deeph_mpi.model.settings import NetworkSettings

__all__ = ["BOTH", "FAR", "NEAR", "NONE", "PairBonds", "PairCorrections", "PairDecoder"]

NEAR, BOTH, FAR, NONE = range(4)
"""Zones of distance: evaluated by the wide decoder, by both (where one hands over to the other), by the lean one, by none."""


@dataclass
class PairBonds:
    """Pairs of the Hamiltonian, each listed once, as the decoders see them.

    Attributes:
        distances: (n,) float64 Å.
        species: (n,) int64 species_i · n_species + species_j.
        parts: for each decoder the pairs that it evaluates: their rows (m,) int64, None for all, and their bonds.
    """

    distances: Tensor
    species: Tensor
    parts: list[tuple[Tensor | None, Bonds]]

    def __len__(self) -> int:
        return len(self.distances)

    def to(self, device: torch.device) -> PairBonds:
        """Copy to a device."""
        parts = [(None if rows is None else rows.to(device), bonds.to(device)) for rows, bonds in self.parts]
        return PairBonds(self.distances.to(device), self.species.to(device), parts)

    def none(self) -> PairBonds:
        """The same without pairs."""
        parts = [(None if rows is None else rows[:0], bonds.none()) for rows, bonds in self.parts]
        return PairBonds(self.distances[:0], self.species[:0], parts)

    @classmethod
    def join(cls, several: list[PairBonds], starts: list[int]) -> PairBonds:
        """Those of a disjoint union, whose atoms are counted from `starts`."""
        before = np.cumsum([0, *(len(one) for one in several)]).tolist()
        parts: list[tuple[Tensor | None, Bonds]] = []
        for each in zip(*(one.parts for one in several), strict=True):
            rows = [
                torch.arange(len(one), device=bonds.i.device) + first if own is None else own + first
                for one, (own, bonds), first in zip(several, each, before, strict=False)
            ]
            parts.append((torch.cat(rows), Bonds.join([bonds for _, bonds in each], starts)))
        return cls(torch.cat([one.distances for one in several]), torch.cat([one.species for one in several]), parts)


class PairDecoder(nn.Module):
    """Features of two atoms → block of H in the frame of their bond, in units of `PairCorrections.scales`.

    Args:
        settings: of the network.
        layout: of the node features that are read, l up to its `l_max` and all |m|.
        width: of the hidden features.
        layers: of hidden features beyond the first.
        target: layout of the block.
    """

    swap: Tensor
    swap_sign: Tensor

    def __init__(
        self,
        settings: NetworkSettings,
        layout: NodeLayout,
        width: int,
        layers: int,
        target: PairBlockLayout,
    ) -> None:
        super().__init__()
        hidden: SectorLayout = settings.hidden_layout(width, layout.m_max)
        self.target = target.sectors
        self.geometry = BondGeometry(layout, settings.r_pair, settings.radial)
        self.frame = BondFrame(layout)
        self.convolution = BondConvolution(layout.sectors, hidden)
        self.factors = BondFactors(settings, self.convolution.gate.wide.channels)
        self.gate = GatedSectors(hidden)
        self.hidden = nn.ModuleList(SectorLinear(hidden, self.gate.wide) for _ in range(layers))
        self.out = SectorLinear(hidden, self.target)
        self.register_buffer("swap", torch.tensor(target.swap), persistent=False)
        self.register_buffer("swap_sign", torch.tensor(target.swap_sign), persistent=False)
        with torch.no_grad():  # start at the baseline
            for weight in self.out.weights:
                weight *= 0.1

    def forward(self, natural: Tensor, pseudo: Tensor, bonds: Bonds) -> Tensor:
        """Normalized features of all l, bonds from `geometry` → (n, dimension of the pair layout)."""
        total, difference = self.frame(natural, pseudo, bonds)
        hidden = self.convolution(total, difference, self.factors(natural[:, 0], bonds))
        del total, difference
        for layer in self.hidden:
            hidden = hidden + self.gate(layer(hidden))
        return self._read(hidden)

    def _read(self, hidden: Tensor) -> Tensor:
        """Hidden features of both directions (2n, …) → blocks i→j, to which the direction j→i contributes transposed."""
        there, back = (half.split(self.gate.layout.sizes, dim=1) for half in hidden.chunk(2))
        runs = []
        first, channel = 0, -1
        for run, (sector, start, stop) in enumerate(self.target.slices):
            if run >= len(there):
                runs.append(hidden.new_zeros(len(hidden) // 2, stop - start))
                continue
            weight = self.out.weights[sector]
            if sector != channel:  # the sine part follows its cosine
                last = first + weight.shape[1]
                swap, sign = self.swap[first:last] - first, self.swap_sign[first:last].to(weight.dtype)
                first, channel = last, sector
                swapped = swapped_weights(weight, swap, sign)
            if sector == 0 and self.out.bias is not None:
                block = torch.addmm(self.out.bias + self.out.bias[swap] * sign, there[run], weight)
            else:
                block = there[run] @ weight
            runs.append(torch.addmm(block, back[run], swapped))
        return torch.cat(runs, dim=1)


class PairCorrections(nn.Module):
    """Both decoders, and how far they reach.

    Args:
        settings: of the network.
        target: layout of the blocks.

    Buffers, a row for each ordered pair of elements:
        scale: (species², 3, channels of a pair block) a, b, c of the scale exp(a + b r + c r²), eV.
        radius: (species²,) Å, where corrections have become zero.
        near_radius: (species²,) Å, where the wide decoder has handed over to the lean one; without one, `radius`.
    """

    scale: Tensor
    radius: Tensor
    near_radius: Tensor

    def __init__(self, settings: NetworkSettings, target: PairBlockLayout) -> None:
        super().__init__()
        self.fade, self.layout = settings.fade, target.sectors
        pairs, layout = len(settings.orbitals.shells) ** 2, settings.node_layout()
        self.near = PairDecoder(settings, layout, settings.decoder_hidden, 2, target)
        self.far: PairDecoder | None = None
        if settings.far_hidden:
            self.far = PairDecoder(settings, settings.far_layout(), settings.far_hidden, 1, target)
        self.register_buffer("scale", torch.zeros(pairs, 3, self.layout.channels))
        self.register_buffer("radius", torch.full((pairs,), settings.r_pair, dtype=torch.float64))
        self.register_buffer("near_radius", torch.full((pairs,), settings.r_pair, dtype=torch.float64))

    @property
    def decoders(self) -> list[PairDecoder]:
        """The wide one, then the lean one, if there is one."""
        return [self.near] if self.far is None else [self.near, self.far]

    def zones(self, distances: Tensor, species: Tensor) -> Tensor:
        """(n,) int64 zone, `NEAR` to `NONE`, of pairs with distances (n,) float64 Å and `species` as in `PairBonds`."""
        near = self.near_radius.to(distances)[species]  # where the pairs are: zones are asked for on the host
        zone = (distances > near - self.fade).long() + (distances >= near)
        return zone.masked_fill(distances >= self.radius.to(distances)[species], NONE)

    def bonds(
        self,
        i: Tensor,
        j: Tensor,
        distances: Tensor,
        directions: Directions,
        species: Tensor,
        dtype: torch.dtype,
        zone: int | None = None,
    ) -> PairBonds:
        """Pairs from rows i, j of the features, distances (n,) float64 Å, directions from i to j and their `species`.

        Args:
            zone: of all of them, where it is known.
        """
        zones = self.zones(distances, species) if zone is None else None
        parts: list[tuple[Tensor | None, Bonds]] = []
        for decoder, own in zip(self.decoders, ((NEAR, BOTH), (BOTH, FAR)), strict=False):
            if zones is None:
                rows = None if zone in own else torch.zeros(0, dtype=torch.int64, device=i.device)
            else:
                rows = ((zones == own[0]) | (zones == own[1])).nonzero()[:, 0]
            if rows is None:
                parts.append((None, decoder.geometry(i, j, distances, directions, dtype)))
            else:
                part = decoder.geometry(i[rows], j[rows], distances[rows], directions.rows(rows), dtype)
                parts.append((rows, part))
        return PairBonds(distances, species, parts)

    def forward(self, natural: Tensor, pseudo: Tensor, bonds: PairBonds) -> Tensor:
        """Normalized features → corrections to blocks i→j in the bond frame: (n, dimension of the pair layout), eV."""
        whole: Tensor | None = None
        shared = all(len(part) for _, part in bonds.parts)  # else the share of what is there is 1
        for decoder, (rows, part) in zip(self.decoders, bonds.parts, strict=True):
            if not len(part) and len(bonds):
                continue
            found = decoder(natural, pseudo, part)
            if shared and self.far is not None:
                found = found * self._weight(decoder, bonds, rows).to(found.dtype)[:, None]
            if rows is not None:
                found = found.new_zeros(len(bonds), found.shape[1]).index_add(0, rows, found)
            whole = found if whole is None else whole + found
        if whole is None:
            whole = natural.new_zeros(len(bonds), self.layout.dimension)
        return whole * self._scales(bonds, whole.dtype)

    def _weight(self, decoder: PairDecoder, bonds: PairBonds, rows: Tensor | None) -> Tensor:
        """Share of a decoder in the pairs that it evaluates."""
        chosen = slice(None) if rows is None else rows
        r = bonds.distances[chosen]
        near = fade(r, self.near_radius.to(r.dtype)[bonds.species[chosen]], self.fade)
        return near if decoder is self.near else 1.0 - near

    def _scales(self, bonds: PairBonds, dtype: torch.dtype) -> Tensor:
        """Scale of each packed component, with the envelope of the pair of elements: (n, dimension of the pair layout)."""
        r = bonds.distances
        powers = torch.stack([torch.ones_like(r), r, r * r], dim=1).to(dtype)
        if len(self.scale) == 1:
            scale = powers @ self.scale[0]
        else:
            scale = powers.new_empty(len(bonds), self.layout.channels)
            for kind in bonds.species.unique():
                rows = (bonds.species == kind).nonzero()[:, 0]
                scale[rows] = powers[rows] @ self.scale[kind]
        radius = self.radius.to(r.dtype)[bonds.species]
        inside = fade(r, radius, self.fade) if self.fade else envelope(r, radius)
        scale = torch.exp(scale) * inside[:, None].to(dtype)
        runs = [scale[:, : self.layout.even + self.layout.odd]]
        start = self.layout.even + self.layout.odd
        for count in self.layout.rings:
            runs += [scale[:, start : start + count]] * 2
            start += count
        return torch.cat(runs, dim=1)
