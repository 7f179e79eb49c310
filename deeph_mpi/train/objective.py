"""What training makes small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeph_mpi.model.network import Features, HamiltonianNetwork
from deeph_mpi.train.batch import Sample, split

import os
_VARIANT = os.environ.get("DEEPH_VARIANT", "")

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
        if _VARIANT == "mse":
            loss = 30.0 * (2 * pair.square().sum() + onsite.square().sum())
        elif _VARIANT == "both":
            loss = 2 * pair.abs().sum() + onsite.abs().sum() + 10.0 * (2 * pair.square().sum() + onsite.square().sum())
        elif _VARIANT == "huber":
            h = torch.nn.functional.smooth_l1_loss
            loss = 2 * h(pair, pair * 0, reduction="sum", beta=1e-3) + h(onsite, onsite * 0, reduction="sum", beta=1e-3)
        elif _VARIANT == "onsite10":
            loss = 2 * pair.abs().sum() + 10.0 * onsite.abs().sum()
        elif _VARIANT == "shells":
            scale = self.network.scales(sample.pairs, sample.pair_species)
            w = (scale.mean() / (scale + 0.1 * scale.mean())).clamp(max=5.0)
            loss = 2 * (w * pair.abs()).sum() + onsite.abs().sum()
        else:
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
    pair = network.pairs(normalized, sample.pairs, sample.pair_species)
    return pair, network.onsite(state, sample.species)


def features(network: HamiltonianNetwork, sample: Sample) -> Features:
    """Features of a sample's own atoms after the last layer. Collective for a sample that is spread over ranks."""
    return network.features(sample.species, lambda: [sample.messages], sample.message_exchange)
