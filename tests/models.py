"""Models with random weights: big outputs everywhere, so that a broken symmetry shows."""

from __future__ import annotations

import numpy as np
import torch

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.model.model import HamiltonianModel, ModelFacts
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.settings import NetworkSettings
from deeph_mpi.model.tables import TwoCentreTable, spline_knots
from deeph_mpi.structure.structure import Structure

ORBITALS = OrbitalMap.from_symbols({"C": [0, 1, 0, 1, 2], "N": [0, 1]})


def random_model(
    dtype: torch.dtype = torch.float64,
    *,
    r_message: float = 3.2,
    r_pair: float = 4.5,
    seed: int = 0,
    lean: bool = True,
    layers: int = 2,
) -> HamiltonianModel:
    """Two species with different shells (C's not sorted by l), outputs of the order of 0.1 eV, pairs of all zones of distance,
    or without a lean decoder one zone alone."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    settings = NetworkSettings(
        ORBITALS, r_message, r_pair, layers=layers, channels=6, pseudo_channels=4, hidden=6, decoder_hidden=6,
        neighbours=8.0, far_hidden=5 if lean else 0, fade=1.2 if lean else 0.0,
    )  # fmt: skip
    network = HamiltonianNetwork(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.abs().mean())
        network.corrections.scale[:, 0] = 0.0
        network.corrections.scale[:, 1] = -0.4
        network.corrections.scale[:, 2] = -0.05
        if lean:
            network.corrections.near_radius[:] = torch.tensor([0.6, 0.55, 0.55, 0.65]) * r_pair
            network.corrections.radius[:] = torch.tensor([0.9, 0.95, 0.95, 0.8]) * r_pair
        network.onsite_scale += 0.5 * torch.rand_like(network.onsite_scale)
    template = ShellTemplate(ORBITALS)
    for row, z1 in enumerate(ORBITALS.shells):
        for column, z2 in enumerate(ORBITALS.shells):
            a, b = template.layout.shell_pairs.T
            absent = ~(template.mask(z1)[a] & template.mask(z2)[b])
            network.corrections.scale[2 * row + column, 0, torch.tensor(absent)] = -80.0
    knots = spline_knots(0.6, r_pair, 0.3)
    even = template.layout.sectors.even
    swap, sign = template.layout.swap[:even], template.layout.swap_sign[:even]
    tables = []
    for _ in range(2):
        coefficients = rng.normal(size=(2, 2, len(knots) - 6, even)) * np.exp(-0.1 * np.arange(len(knots) - 6))[:, None]
        coefficients = coefficients + (coefficients.transpose(1, 0, 2, 3)[..., swap] * sign)  # Hermitian
        coefficients[..., -3:, :] = 0.0
        onsite = np.zeros((2, template.size, template.size))
        onsite[:] = np.eye(template.size) * 3.0
        tables.append(TwoCentreTable(knots, coefficients.reshape(4, -1, even), onsite))
    facts = ModelFacts(
        {6: 4.0, 7: 5.0}, "vacuum level", {"6-6": 0.8, "6-7": 0.8, "7-7": 0.8}, {"6": [0, 99], "7": [0, 99]}
    )
    return HamiltonianModel(network.to(dtype), tables[0], tables[1], facts).eval()


def chiral_cluster() -> Structure:
    """Seven atoms of two elements without any symmetry, not periodic."""
    rng = np.random.default_rng(3)
    corners = np.array([[x, y, z] for x in (0.0, 1.6) for y in (0.0, 1.6) for z in (0.0, 1.6)])[:7]
    return Structure(
        np.array([6, 7, 6, 6, 7, 7, 6]), corners + rng.uniform(-0.3, 0.3, (7, 3)), 20.0 * np.eye(3), np.zeros(3, bool)
    )


def small_crystal() -> Structure:
    """Two atoms in a skewed cell much smaller than the radii: many images of every pair, i = j included."""
    cell = np.array([[2.5, 0.0, 0.1], [1.2, 2.2, 0.0], [0.0, 0.3, 2.8]])
    return Structure(np.array([6, 7]), np.array([[0.1, 0.0, 0.2], [1.4, 1.0, 1.5]]), cell, np.ones(3, bool))
