"""Hyperparameters of the network: what a checkpoint must hold to rebuild it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.sectors import NodeLayout, SectorLayout
from deeph_mpi.errors import ModelError

__all__ = ["NetworkSettings"]


@dataclass(frozen=True)
class NetworkSettings:
    """Hyperparameters.

    Attributes:
        orbitals: shells of every element; their order numbers the species.
        r_message: radius of the messages, Å.
        r_pair: radius at which Hamiltonian blocks have become zero, Å.
        layers: number of message layers.
        channels: natural channels per l.
        pseudo_channels: pseudo channels per l.
        hidden: width of the hidden features of a message.
        decoder_hidden: width of the hidden features of a pair block.
        far_hidden: the same of blocks of pairs further apart than where corrections are large; 0: all have `decoder_hidden`.
        far_degree: largest l of the node features that those are read from.
        factors: width of the networks of distances and scalars.
        fade: Å over which one gives way to the other and both end; 0: envelopes over the whole radius.
        m_max: sectors kept in messages.
        radial: number of radial basis functions.
        neighbours: average number of neighbours within `r_message` in the training data, which scales the sums.
    """

    orbitals: OrbitalMap
    r_message: float
    r_pair: float
    layers: int = 3
    channels: int = 32
    pseudo_channels: int = 16
    hidden: int = 32
    decoder_hidden: int = 48
    m_max: int = 2
    radial: int = 16
    neighbours: float = 50.0
    far_hidden: int = 0
    far_degree: int = 3
    factors: int = 32
    fade: float = 0.0

    @property
    def l_max(self) -> int:
        """Largest l of node features: what a product of two orbitals needs."""
        return max(2 * self.orbitals.l_max, 1)

    @property
    def l_pseudo(self) -> int:
        """Largest l of pseudo features: antisymmetric products reach l₁ + l₂ − 1."""
        return max(self.l_max - 1, 1)

    def node_layout(self, m_max: int | None = None) -> NodeLayout:
        """Layout of node features, packed with sectors up to `m_max` (all by default)."""
        m_max = self.l_max if m_max is None else min(m_max, self.l_max)
        return NodeLayout(self.l_max, self.channels, self.l_pseudo, self.pseudo_channels, m_max)

    def far_layout(self) -> NodeLayout:
        """Layout of the features that blocks of distant pairs are read from."""
        degree = min(self.far_degree, self.l_max)
        return NodeLayout(degree, self.channels, max(degree - 1, 1), self.pseudo_channels, degree)

    def message_layouts(self, number: int) -> tuple[NodeLayout, NodeLayout]:
        """Layouts of what messages of a layer, counted from 0, are made from and what they change: features are scalars before
        the first, natural before the second."""
        full = self.node_layout(self.m_max)
        natural = replace(full, l_pseudo=0, pseudo_channels=0)
        if number == 0:
            return replace(natural, l_max=0, m_max=0), replace(natural, m_max=0)
        return (natural if number == 1 else full), full

    @staticmethod
    def hidden_layout(width: int, m_max: int, *, odd: bool = True) -> SectorLayout:
        """Hidden sectors: fewer channels for larger M, which matter less."""
        rings = tuple(max(round(1.5 * width / m), 4) for m in range(1, m_max + 1))
        return SectorLayout(2 * width, width // 2 if odd else 0, rings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {**asdict(self), "orbitals": self.orbitals.to_symbols()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetworkSettings:
        """The inverse of `to_dict`.

        Raises:
            ModelError: when keys are missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            wrong = ", ".join(sorted(set(data) ^ names))
            raise ModelError(f"the checkpoint was written by another version: its network settings differ in {wrong}")
        return cls(**{**data, "orbitals": OrbitalMap.from_symbols(data["orbitals"])})
