"""Bytes that follow from the counts of a part."""

from __future__ import annotations

import torch

from deeph_mpi.domain.domain import GROUP
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.planning.counts import PartPlan

__all__ = ["feature_bytes", "list_bytes", "matrix_bytes", "network_bytes", "row_bytes"]


def feature_bytes(model: HamiltonianModel) -> int:
    """Features of one atom."""
    layout = model.settings.node_layout()
    numbers = (layout.l_max + 1) ** 2 * layout.channels + ((layout.l_pseudo + 1) ** 2 - 1) * layout.pseudo_channels
    return numbers * torch.finfo(model.dtype).bits // 8


def network_bytes(model: HamiltonianModel, part: PartPlan) -> float:
    """Features of the atoms, normalized ones with ghosts, and sums of one group, while messages are passed."""
    rows = part.atoms + max(part.atoms + part.message_ghosts, part.ghosts) + min(part.atoms, GROUP)
    return float(rows * feature_bytes(model))


def list_bytes(part: PartPlan) -> float:
    """i, j, R of pairs and messages (int32, int32, 3 × int8), which are decoded, positions and numbers of local atoms."""
    return 11.0 * part.pairs + 4.0 * part.decoded + (11.0 + 2.0) * 2 * part.bonds + 40.0 * (part.atoms + part.ghosts)


def row_bytes(part: PartPlan, itemsize: int = 8, tables: int = 40 + 8) -> float:
    """Entries of H and S, and for each block `tables` bytes, by default pair and offset."""
    return 2.0 * itemsize * part.elements + float(tables) * (part.pairs + part.atoms)


def matrix_bytes(part: PartPlan) -> float:
    """Blocks of H and S sorted for assembly, and the matrices at Γ with their columns."""
    return 2 * (8.0 * part.elements + 20.0 * part.nonzeros)
