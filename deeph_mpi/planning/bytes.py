"""Bytes that follow from the counts of a part."""

from __future__ import annotations

import torch

from deeph_mpi.assembly.lattice_sum import CHUNK
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.planning.counts import PartPlan

__all__ = [
    "assembly_bytes",
    "feature_bytes",
    "halo_bytes",
    "list_bytes",
    "matrix_bytes",
    "network_bytes",
    "row_bytes",
    "transpose_bytes",
]


def feature_bytes(model: HamiltonianModel) -> int:
    """Features of one atom."""
    layout = model.settings.node_layout()
    numbers = (layout.l_max + 1) ** 2 * layout.channels + ((layout.l_pseudo + 1) ** 2 - 1) * layout.pseudo_channels
    return numbers * torch.finfo(model.dtype).bits // 8


def network_bytes(model: HamiltonianModel, part: PartPlan) -> float:
    """Features of atoms and ghosts, and while messages are passed normalized ones and sums of one group, and what is kept for
    others."""
    rows = part.atoms + part.ghosts + part.around + part.kept + part.group
    return float(rows * feature_bytes(model))


def halo_bytes(model: HamiltonianModel, part: PartPlan) -> float:
    """Buffers of the exchanges, kept, for as many rows sent as received: those of messages, those of pairs, and the rows of
    the latter as they are gathered (by kind of feature, then joined)."""
    return float((2 * part.message_ghosts + 4 * part.ghosts) * feature_bytes(model))


def transpose_bytes(part: PartPlan) -> float:
    """What travels when H, then S, gets its blocks from other ranks: as much sent as received, and where each block goes."""
    return 16.0 * part.shared + 32.0 * part.exchanged


def list_bytes(part: PartPlan) -> float:
    """i, j, R of pairs and messages (int32, int32, 3 × int8), which are decoded, which travel (int64), positions and numbers
    of local atoms."""
    pairs = 11.0 * part.pairs + 4.0 * part.decoded + 8.0 * part.exchanged
    return pairs + (11.0 + 2.0) * 2 * part.bonds + 40.0 * (part.atoms + part.ghosts)


def row_bytes(part: PartPlan, itemsize: int = 8, tables: int = 40 + 8) -> float:
    """Entries of H and S, and for each block `tables` bytes, by default pair and offset."""
    return 2.0 * itemsize * part.elements + float(tables) * (part.pairs + part.atoms)


def assembly_bytes(part: PartPlan) -> float:
    """Rows of H and S, the triangles of both sorted beside them, the order of the blocks, and the blocks that are sorted or
    checked at a time: about five arrays of them (measured)."""
    blocks = part.pairs + part.atoms
    chunk = 5 * 8.0 * part.elements * min(CHUNK / max(blocks, 1), 1.0)
    return row_bytes(part) + 16.0 * part.upper + 100.0 * blocks + chunk


def matrix_bytes(part: PartPlan) -> float:
    """Triangles of H and S: their blocks sorted for assembly, and the matrices at Γ; where rows are divided with columns, and
    that of S twice (`deeph_mpi/solvers/triangle.py`)."""
    return 8.0 * part.elements + (18.0 if part.ghosts else 8.0) * part.nonzeros
