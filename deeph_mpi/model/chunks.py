"""The bonds of a domain in pieces: compact groups of atoms, and chunks that fit the caches and a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.data.ragged import spread
from deeph_mpi.domain.domain import Domain, LocalAtoms
from deeph_mpi.domain.pairs import decoded_from_i
from deeph_mpi.model.geometry import BondGeometry, Bonds
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
    "pair_zones",
]

CACHED = (
    4e7  # bytes of temporaries of the bonds that are worked on at once; more do not fit the caches and are not faster
)
ATOMS = 256  # worked on at a time where nothing but their own features is needed


class BondGroup(NamedTuple):
    """Messages that reach a group of atoms, and the atoms around it that they come from.

    A group is updated when its messages have been summed up. What it was before is kept of those of its atoms from which later
    groups have messages; the surroundings of a group are therefore of three kinds.

    Attributes:
        atoms: (n,) rows of the group.
        within: (n,) int32 rows of `domain.messages`: bonds between owned atoms. Those inside of the group once; those to
            other groups in one direction, as each group sums up its own: bonds between groups are evaluated twice, which
            costs less than to keep the sums of all atoms.
        across: the same to ghosts.
        later: (l,) rows around it of groups that are not updated yet.
        earlier: (e,) rows around it of groups that were; `kept`: (e,) their places among all that is kept.
        ghosts: (g,) rows of ghosts around it.
        own, keep: (k,) those of `atoms`, by their place in it, that are kept for later groups, and their places there.
    """

    atoms: np.ndarray
    within: np.ndarray
    across: np.ndarray
    later: np.ndarray
    earlier: np.ndarray
    kept: np.ndarray
    ghosts: np.ndarray
    own: np.ndarray
    keep: np.ndarray

    @property
    def around(self) -> np.ndarray:
        """(n + l + e + g,) rows of the group and of all around it, in this order."""
        return np.concatenate([self.atoms, self.later, self.earlier, self.ghosts])


def bytes_per_bond(model: HamiltonianModel) -> int:
    """Temporaries of one bond while it is worked on: about 4 arrays of the length of its features (measured)."""
    wide = 2 * model.settings.node_layout().sectors.dimension
    wide += 2 * model.network.corrections.near.convolution.gate.wide.dimension
    return 4 * wide * torch.finfo(model.dtype).bits // 8


def bonds_per_chunk(model: HamiltonianModel, memory_gb: float) -> int:
    """Bonds that are worked on at once so that their temporaries stay within `memory_gb`."""
    return int(max(min(1e9 * memory_gb, CACHED) / bytes_per_bond(model), 16))


def atom_slices(count: int) -> Iterator[slice]:
    """`count` atoms, a bounded number at a time."""
    return (slice(start, min(start + ATOMS, count)) for start in range(0, count, ATOMS))


def bond_groups(domain: Domain | LocalAtoms) -> list[BondGroup]:
    """Message bonds of every group of a domain."""
    edges = domain.messages
    first = np.searchsorted(edges.i, np.arange(domain.n_owned + 1, dtype=edges.i.dtype))  # else all of `i` is copied
    count = np.diff(first)
    turn = np.full(len(domain.atoms), len(domain.groups), dtype=np.int32)  # in which an atom is updated; ghosts never
    for number, atoms in enumerate(domain.groups):
        turn[atoms] = number
    found, needed = [], np.zeros(len(domain.atoms), dtype=bool)
    for number, atoms in enumerate(domain.groups):
        within, across = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int32)]
        near = np.zeros(len(domain.atoms), dtype=bool)
        for some in atom_slices(len(atoms)):
            rows = spread(first[atoms[some]], count[atoms[some]])
            j = edges.j[rows]
            outside = turn[j] != number
            once = decoded_from_i(domain.atoms[edges.i[rows]], domain.atoms[j], edges.R[rows]) | outside
            ghost = j >= domain.n_owned
            within.append(rows[once & ~ghost].astype(np.int32))
            across.append(rows[ghost].astype(np.int32))
            near[j[outside]] = True
        around = np.flatnonzero(near).astype(np.int32)
        needed[around[turn[around] < number]] = True
        found.append((atoms, np.concatenate(within), np.concatenate(across), around))
    place = np.cumsum(needed, dtype=np.int32) - 1
    groups = []
    for number, (atoms, inner, outer, around) in enumerate(found):
        when = turn[around]
        later = around[(when > number) & (when < len(domain.groups))]
        earlier, own = around[when < number], np.flatnonzero(needed[atoms])
        ghosts = around[when == len(domain.groups)]
        groups.append(BondGroup(atoms, inner, outer, later, earlier, place[earlier], ghosts, own, place[atoms[own]]))
    return groups


def bond_chunks(
    model: HamiltonianModel,
    geometry: BondGeometry,
    domain: Domain,
    group: BondGroup,
    rows: np.ndarray,
    chunk: int,
    device: torch.device,
) -> Iterator[tuple[Bonds, tuple[Tensor, Tensor]]]:
    """Some bonds of a group, `chunk` at a time, between rows of its surroundings (`BondGroup.around`), with the rows of its
    sums for their two ends; the last row is for others."""
    edges = domain.messages
    place = np.zeros(domain.n_local, dtype=np.int32)
    around = group.around
    place[around] = np.arange(len(around))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        ends = tuple(place[end[part]].astype(np.int64) for end in (edges.i, edges.j))
        vectors = on_device(edges.vectors(part), device)
        into = (np.minimum(end, len(group.atoms)) for end in ends)
        i, j, into_i, into_j = (on_device(x, device) for x in (*ends, *into))
        distances, directions = torch.linalg.vector_norm(vectors, dim=1), model.directions(vectors)
        yield geometry(i, j, distances, directions, model.dtype), (into_i, into_j)


def pair_zones(model: HamiltonianModel, domain: Domain | LocalAtoms, species: Tensor, rows: np.ndarray) -> np.ndarray:
    """(n,) zones of distance (`deeph_mpi.model.decoder`) of rows (n,) of `domain.pairs`.

    Args:
        species: of the local atoms, on the CPU.
    """
    kinds = species[domain.pairs.i[rows]] * len(model.elements) + species[domain.pairs.j[rows]]
    distances = torch.from_numpy(np.linalg.norm(domain.pairs.vectors(rows), axis=1))
    return model.network.corrections.zones(distances, kinds).numpy()


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
