"""What training makes small."""

from __future__ import annotations

from torch import Tensor, nn

from deeph_mpi.model.network import Features, HamiltonianNetwork
from deeph_mpi.train.batch import Sample, split

__all__ = ["Objective", "features", "predict"]


class Objective(nn.Module):
    """Sum of absolute errors of all matrix elements of a batch, eV, and as many times the error that eigenstates feel.

    Attributes:
        band_weight: factor of the latter, see `BandReference.error`.
        turn: which of the k-points is taken.
    """

    def __init__(self, network: HamiltonianNetwork, band_weight: float = 0.0) -> None:
        super().__init__()
        self.network, self.band_weight, self.turn = network, band_weight, 0

    def forward(self, sample: Sample) -> Tensor:
        """Each undirected pair stands for two blocks of the matrix. Collective for a sample that is spread over ranks."""
        pair, onsite = predict(self.network, sample)
        pair, onsite = pair - sample.pair_target, onsite - sample.onsite_target
        loss = 2 * pair.abs().sum() + onsite.abs().sum()
        for bands, own_pair, own_onsite in split(sample.bands, pair, onsite):
            elements = 2 * own_pair.numel() + own_onsite.numel()
            loss = loss + self.band_weight * elements * bands.error(own_pair, own_onsite, self.turn)
        return loss


def predict(network: HamiltonianNetwork, sample: Sample) -> tuple[Tensor, Tensor]:
    """What the network adds to the baseline: packed pair blocks and onsite components of a sample.

    Collective for a sample that is spread over ranks: one halo exchange per layer and one for the pairs.
    """
    state = features(network, sample)
    normalized = sample.pair_exchange(network.pair_norm(*state))
    pair = network.pairs(normalized, sample.pairs)
    return pair, network.onsite(state, sample.species)


def features(network: HamiltonianNetwork, sample: Sample) -> Features:
    """Features of a sample's own atoms after the last layer. Collective for a sample that is spread over ranks."""
    return network.features(sample.species, lambda: [sample.messages], sample.message_exchange)
