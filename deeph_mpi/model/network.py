"""The network: species and geometry → node features → pair and onsite blocks of H.

The same code runs on one process and on many: `exchange` completes owned rows by ghost rows before each layer, and is the
identity where there are no ghosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.sectors import SectorLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.model.geometry import BondGeometry, Bonds, envelope
from deeph_mpi.model.message import BondFactors, BondFrame, MessageLayer
from deeph_mpi.model.o2 import BondConvolution, GatedSectors, SectorLinear, swapped_weights
from deeph_mpi.model.o3 import EquivariantLinear, EquivariantNorm, FeedForward
from deeph_mpi.model.settings import NetworkSettings

__all__ = ["Exchange", "Features", "HamiltonianNetwork"]

Features = tuple[Tensor, Tensor]
"""Natural (n, (l_max+1)², channels) and pseudo (n, (l_pseudo+1)²−1, pseudo_channels) features."""

Exchange = Callable[[Features], Features]


class HamiltonianNetwork(nn.Module):
    """Equivariant network whose outputs, scaled by `pair_scale` and `onsite_scale`, are added to the two-centre baseline.

    Args:
        settings: hyperparameters.

    Buffers:
        pair_scale: (species², 3, channels of a pair block) a, b, c of the scale exp(a + b r + c r²), eV.
        pair_radius: (species²,) Å, where blocks of each pair of elements have become zero.
        onsite_scale: (species, onsite channels), eV; one number for all components of an irrep, or O(3) would break.
    """

    pair_scale: Tensor
    pair_radius: Tensor
    onsite_scale: Tensor
    onsite_channel: Tensor
    swap: Tensor
    swap_sign: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        species = len(settings.orbitals.shells)
        template = ShellTemplate(settings.orbitals)
        layout = settings.node_layout()
        self.layout = layout
        self.message_geometry = BondGeometry(settings.node_layout(settings.m_max), settings.r_message, settings.radial)
        self.pair_geometry = BondGeometry(layout, settings.r_pair, settings.radial)
        self.embedding = nn.Embedding(species, settings.channels)
        self.layers = nn.ModuleList(MessageLayer(settings) for _ in range(settings.layers))

        self.pair_layout = template.layout.sectors
        self.register_buffer("swap", torch.tensor(template.layout.swap), persistent=False)
        self.register_buffer("swap_sign", torch.tensor(template.layout.swap_sign), persistent=False)
        hidden: SectorLayout = settings.hidden_layout(settings.decoder_hidden, layout.m_max)
        self.pair_norm = EquivariantNorm(layout)
        self.pair_frame = BondFrame(layout)
        self.pair_convolution = BondConvolution(layout.sectors, hidden)
        self.pair_factors = BondFactors(settings, self.pair_convolution.gate.wide.channels)
        self.pair_gate = GatedSectors(hidden)
        self.pair_hidden = nn.ModuleList(SectorLinear(hidden, self.pair_gate.wide) for _ in range(2))
        self.pair_out = SectorLinear(hidden, self.pair_layout)

        onsite = OnsiteLayout(template.shells)
        self.onsite_norm = EquivariantNorm(layout)
        self.onsite_update = FeedForward(layout, 2 * layout.channels)
        self.onsite_natural = nn.ModuleList(
            EquivariantLinear(degree, degree, layout.channels, count) for degree, count in enumerate(onsite.natural)
        )
        self.onsite_pseudo = nn.ModuleList(
            EquivariantLinear(degree, degree, layout.pseudo_channels, count)
            for degree, count in enumerate(onsite.pseudo, start=1)
        )
        self.register_buffer("pair_scale", torch.zeros(species**2, 3, self.pair_layout.channels))
        self.register_buffer("pair_radius", torch.full((species**2,), settings.r_pair, dtype=torch.float64))
        self.register_buffer("onsite_scale", torch.ones(species, int(onsite.channel.max()) + 1))
        self.register_buffer("onsite_channel", torch.tensor(onsite.channel), persistent=False)
        self._reset()

    def _reset(self) -> None:
        """Start at the baseline: small outputs."""
        with torch.no_grad():
            for weight in self.pair_out.weights:
                weight *= 0.1
            for head in [*self.onsite_natural, *self.onsite_pseudo]:
                head.weight *= 0.1

    def start(self, species: Tensor) -> Features:
        """Initial features of atoms with species (n,)."""
        scalars = self.embedding(species)
        layout = self.layout
        natural = scalars.new_zeros(len(species), (layout.l_max + 1) ** 2, layout.channels)
        natural[:, 0] = scalars  # not concatenated: a copy would be the peak of a large job's memory
        return natural, scalars.new_zeros(len(species), (layout.l_pseudo + 1) ** 2 - 1, layout.pseudo_channels)

    def features(self, species: Tensor, bonds: Callable[[], Iterable[Bonds]], exchange: Exchange) -> Features:
        """Features of the owned atoms after all layers.

        Args:
            species: (owned,) species of the owned atoms.
            bonds: gives, anew for each layer, the message bonds in chunks; rows index owned, then ghost atoms.
            exchange: appends ghost rows to owned ones. Collective when it communicates.
        """
        state = self.start(species)
        for layer in self.layers:
            assert isinstance(layer, MessageLayer)
            natural, pseudo = exchange(layer.norm(*state))
            sums = (torch.zeros_like(natural), torch.zeros_like(pseudo))
            for chunk in bonds():
                layer.messages(natural, pseudo, chunk, sums)
            state = layer.finish(*state, (sums[0][: len(species)], sums[1][: len(species)]))
        return state

    def pairs(self, normalized: Features, bonds: Bonds, pair_species: Tensor) -> Tensor:
        """Correction to pair blocks i→j in the bond frame, packed by sectors, eV.

        Args:
            normalized: features of owned and ghost atoms after `pair_norm`.
            bonds: pairs, each once.
            pair_species: (n,) species_i · n_species + species_j.

        Returns:
            (n, dimension of the pair layout).
        """
        total, difference = self.pair_frame(*normalized, bonds)
        hidden = self.pair_convolution(total, difference, self.pair_factors(normalized[0][:, 0], bonds))
        del total, difference
        for layer in self.pair_hidden:
            hidden = hidden + self.pair_gate(layer(hidden))
        sizes = self.pair_gate.layout.sizes
        there, back = (half.split(sizes, dim=1) for half in hidden.chunk(2))
        runs = []
        first, channel = 0, -1
        for run, (sector, _, _) in enumerate(self.pair_layout.slices):
            weight = self.pair_out.weights[sector]
            if sector != channel:  # the sine part follows its cosine
                stop = first + weight.shape[1]
                swap, sign = self.swap[first:stop] - first, self.swap_sign[first:stop].to(weight.dtype)
                first, channel = stop, sector
            block = there[run] @ weight + back[run] @ swapped_weights(weight, swap, sign)
            if sector == 0 and self.pair_out.bias is not None:
                block = block + (self.pair_out.bias + self.pair_out.bias[swap] * sign)
            runs.append(block)
        return torch.cat(runs, dim=1) * self.scales(bonds, pair_species)

    def scales(self, bonds: Bonds, pair_species: Tensor) -> Tensor:
        """Scale of each packed component, with the envelope of the pair of elements: (n, dimension of the pair layout)."""
        r = bonds.distances
        powers = torch.stack([torch.ones_like(r), r, r * r], dim=1)
        species = pair_species.unique()
        scale = torch.empty(len(bonds), self.pair_layout.channels, dtype=bonds.radial.dtype, device=r.device)
        for kind in species:
            rows = (pair_species == kind).nonzero()[:, 0]
            scale[rows] = torch.exp(powers[rows] @ self.pair_scale[kind].to(powers.dtype)).to(scale.dtype)
        scale = scale * envelope(r, self.pair_radius.to(r.dtype)[pair_species])[:, None].to(scale.dtype)
        layout = self.pair_layout
        runs = [scale[:, : layout.even + layout.odd]]
        start = layout.even + layout.odd
        for count in layout.rings:
            runs += [scale[:, start : start + count]] * 2
            start += count
        return torch.cat(runs, dim=1)

    def onsite(self, state: Features, species: Tensor) -> Tensor:
        """Correction to onsite blocks of the owned atoms in the basis of `OnsiteLayout`: (owned, components), eV."""
        natural, pseudo = self.onsite_norm(*state)
        more = self.onsite_update(natural, pseudo)
        natural, pseudo = natural + more[0], pseudo + more[1]
        flat = []
        for degree, head in enumerate(self.onsite_natural):
            flat.append(head(natural[:, degree**2 : (degree + 1) ** 2]).flatten(1))
        for degree, head in enumerate(self.onsite_pseudo, start=1):
            flat.append(head(pseudo[:, degree**2 - 1 : (degree + 1) ** 2 - 1]).flatten(1))
        return torch.cat(flat, dim=1) * self.onsite_scale[:, self.onsite_channel][species].to(natural.dtype)
