"""The bonds of a domain in pieces: compact groups of atoms, and chunks that fit the caches and a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.data.ragged import spread
from deeph_mpi.domain.domain import Domain
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.model import HamiltonianModel

__all__ = [
    "BondGroup",
    "atom_slices",
    "bond_chunks",
    "bond_groups",
    "bonds_per_chunk",
    "bytes_per_bond",
    "message_rows",
    "on_device",
]

LARGEST_CHUNK = 768  # bonds; more does not fit the caches and is not faster
ATOMS = 256  # worked on at a time where nothing but their own features is needed


class BondGroup(NamedTuple):
    """Messages that reach a group of atoms.

    Attributes:
        atoms: (n,) rows of the group.
        within: (n,) int32 rows of `domain.messages`: bonds between owned atoms. Those inside of the group once; those to
            other groups in one direction, as each group sums up its own: bonds between groups are evaluated twice, which
            costs less than to keep the sums of all atoms.
        across: the same to ghosts.
    """

    atoms: np.ndarray
    within: np.ndarray
    across: np.ndarray


def bytes_per_bond(model: HamiltonianModel) -> int:
    """Temporaries of one bond while it is worked on: about 4 arrays of the length of its features (measured)."""
    wide = 2 * model.settings.node_layout().sectors.dimension + 2 * model.network.pair_convolution.gate.wide.dimension
    return 4 * wide * torch.finfo(model.dtype).bits // 8


def bonds_per_chunk(model: HamiltonianModel, memory_gb: float) -> int:
    """Bonds that are worked on at once so that their temporaries stay within `memory_gb`."""
    return int(min(max(memory_gb * 1e9 / bytes_per_bond(model), 16), LARGEST_CHUNK))


def atom_slices(count: int) -> Iterator[slice]:
    """`count` atoms, a bounded number at a time."""
    return (slice(start, min(start + ATOMS, count)) for start in range(0, count, ATOMS))


def bond_groups(domain: Domain) -> list[BondGroup]:
    """Message bonds of every group of a domain."""
    edges = domain.messages
    first = np.searchsorted(edges.i, np.arange(domain.n_owned + 1, dtype=edges.i.dtype))  # else all of `i` is copied
    count = np.diff(first)
    groups = []
    for atoms in domain.groups:
        inside = np.zeros(domain.n_local, dtype=bool)
        inside[atoms] = True
        within, across = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int32)]
        for some in atom_slices(len(atoms)):
            rows = spread(first[atoms[some]], count[atoms[some]])
            j = edges.j[rows]
            once = decoded_from_i(domain.atoms[edges.i[rows]], domain.atoms[j], edges.R[rows]) | ~inside[j]
            ghost = j >= domain.n_owned
            within.append(rows[once & ~ghost].astype(np.int32))
            across.append(rows[ghost].astype(np.int32))
        groups.append(BondGroup(atoms, np.concatenate(within), np.concatenate(across)))
    return groups


def bond_chunks(
    model: HamiltonianModel, domain: Domain, group: BondGroup, rows: np.ndarray, chunk: int, device: torch.device
) -> Iterator[tuple[Bonds, tuple[Tensor, Tensor]]]:
    """Some bonds of a group, `chunk` at a time, with the rows of its sums for their two ends; the last row is for others."""
    edges = domain.messages
    place = np.full(domain.n_local, len(group.atoms), dtype=np.int32)
    place[group.atoms] = np.arange(len(group.atoms))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        ends = edges.i[part].astype(np.int64), edges.j[part].astype(np.int64)
        vectors = on_device(edges.vectors(part), device)
        into = (place[end].astype(np.int64) for end in ends)
        i, j, into_i, into_j = (on_device(x, device) for x in (*ends, *into))
        yield model.network.message_geometry(i, j, vectors, model.dtype), (into_i, into_j)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A new array as a tensor; to a GPU through page-locked memory, so that the host goes on before it has got there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def message_rows(domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """Message bonds of a domain, each between owned atoms once, those to ghosts as they are: local rows i, j (n,) int64 and
    vectors (n, 3) float64 Å."""
    edges = domain.messages
    once = decoded_from_i(domain.atoms[edges.i], domain.atoms[edges.j], edges.R) | (edges.j >= domain.n_owned)
    i, j = (torch.tensor(ends[once].astype(np.int64)) for ends in (edges.i, edges.j))
    return i, j, torch.tensor(edges.vectors(once))
