"""The network: species and geometry → node features → pair and onsite blocks of H.

The same code runs on one process and on many: `exchange` completes owned rows by ghost rows before each layer, and is the
identity where there are no ghosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.model.decoder import PairBonds, PairCorrections
from deeph_mpi.model.geometry import BondGeometry, Bonds
from deeph_mpi.model.message import MessageLayer
from deeph_mpi.model.o3 import EquivariantLinear, EquivariantNorm, FeedForward
from deeph_mpi.model.settings import NetworkSettings

__all__ = ["Exchange", "Features", "HamiltonianNetwork"]

Features = tuple[Tensor, Tensor]
"""Natural (n, (l_max+1)², channels) and pseudo (n, (l_pseudo+1)²−1, pseudo_channels) features."""

Exchange = Callable[[Features], Features]


class HamiltonianNetwork(nn.Module):
    """Equivariant network; its outputs, scaled as training data are, are added to the two-centre baseline.

    Args:
        settings: hyperparameters.

    Buffers:
        pair_radius: (species²,) Å, where blocks of each pair of elements have become zero.
        onsite_scale: (species, onsite channels), eV; one number for all components of an irrep, or O(3) would break.
    """

    pair_radius: Tensor
    onsite_scale: Tensor
    onsite_channel: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        species = len(settings.orbitals.shells)
        template = ShellTemplate(settings.orbitals)
        layout = settings.node_layout()
        self.layout = layout
        self.embedding = nn.Embedding(species, settings.channels)
        self.layers = nn.ModuleList(MessageLayer(settings, number) for number in range(settings.layers))

        self.pair_norm = EquivariantNorm(layout)
        self.corrections = PairCorrections(settings, template.layout)

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
        self.register_buffer("pair_radius", torch.full((species**2,), settings.r_pair, dtype=torch.float64))
        self.register_buffer("onsite_scale", torch.ones(species, int(onsite.channel.max()) + 1))
        self.register_buffer("onsite_channel", torch.tensor(onsite.channel), persistent=False)
        self._reset()

    def _reset(self) -> None:
        """Start at the baseline: small outputs."""
        with torch.no_grad():
            for head in [*self.onsite_natural, *self.onsite_pseudo]:
                head.weight *= 0.1

    def start(self, species: Tensor) -> Features:
        """Initial features of atoms with species (n,)."""
        scalars = self.embedding(species)
        layout = self.layout
        natural = scalars.new_zeros(len(species), (layout.l_max + 1) ** 2, layout.channels)
        natural[:, 0] = scalars  # not concatenated: a copy would be the peak of a large job's memory
        return natural, scalars.new_zeros(len(species), (layout.l_pseudo + 1) ** 2 - 1, layout.pseudo_channels)

    @property
    def message_geometry(self) -> BondGeometry:
        """Of messages: of the last layer, whose bonds serve all layers."""
        last = self.layers[-1]
        assert isinstance(last, MessageLayer)
        return last.geometry

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

    def pairs(self, normalized: Features, bonds: PairBonds) -> Tensor:
        """Corrections to pair blocks i→j in the bond frame, packed by sectors, eV: (n, dimension of the pair layout).

        Args:
            normalized: features of owned and ghost atoms after `pair_norm`.
            bonds: pairs, each once.
        """
        return self.corrections(*normalized, bonds)

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
