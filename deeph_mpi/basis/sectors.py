"""What is left of O(3) once a bond is the polar axis: the sectors of O(2).

Turns about the bond and mirror planes that contain it form O(2). Its irreps, called sectors here, are

- `0+` (invariant), `0-` (changes sign under a mirror): one component each;
- `M` = 1, 2, …: two components (cos, sin), turning with angle M; a mirror changes the sign of the sine.

A linear map that respects O(3) as seen from the bond mixes channels within one sector with real weights, the same for
cos and sin (Schur's lemma). This replaces O(L⁶) tensor products by plain matrix products (eSCN: Passaro & Zitnick,
arXiv:2302.03655, who treat SO(2); the mirror adds parity).

Packed vectors order their entries [0+ | 0- | cos 1 | sin 1 | cos 2 | sin 2 | …], every sector with its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.constant import Constant
from deeph_mpi.basis.wigner import BondWigner, Component, flip_signs

__all__ = ["NodeLayout", "PairBlockLayout", "SectorLayout"]


@dataclass(frozen=True)
class SectorLayout:
    """Channels of a packed vector.

    Attributes:
        even: channels of the sector 0+.
        odd: channels of the sector 0-.
        rings: channels of the sectors 1, 2, …, each counted once for its cos and sin parts.
    """

    even: int
    odd: int
    rings: tuple[int, ...]

    @property
    def dimension(self) -> int:
        """Length of the packed vector."""
        return self.even + self.odd + 2 * sum(self.rings)

    @property
    def channels(self) -> int:
        """Number of channels over all sectors."""
        return self.even + self.odd + sum(self.rings)

    @property
    def slices(self) -> list[tuple[int, int, int]]:
        """(sector, start, stop) for every contiguous run: sectors 0 (0+), 1 (0-), then 2, 2, 3, 3, … (cos, sin)."""
        sizes = [(0, self.even), (1, self.odd)]
        sizes += [(ring, count) for ring, count in enumerate(self.rings, start=2) for _ in range(2)]
        runs, start = [], 0
        for sector, size in sizes:
            runs.append((sector, start, start + size))
            start += size
        return runs

    @property
    def sizes(self) -> list[int]:
        """Lengths of the runs of `slices`."""
        return [stop - start for _, start, stop in self.slices]

    def spread(self, per_channel: np.ndarray) -> np.ndarray:
        """Copy one number per channel (even, odd, ring 1, …) onto cos and sin: (channels,) → (dimension,)."""
        bounds = np.cumsum([0, self.even, self.odd, *self.rings])
        return np.concatenate([per_channel[bounds[sector] : bounds[sector + 1]] for sector, _, _ in self.slices])


@dataclass(frozen=True)
class NodeLayout:
    """Node features with both parities: natural (parity (−1)^l) for l ≤ l_max, pseudo (−(−1)^l) for 1 ≤ l ≤ l_pseudo.

    Attributes:
        l_max: largest l of the natural features.
        channels: natural channels, the same for every l.
        l_pseudo: largest l of the pseudo features; 0 for none.
        pseudo_channels: their channels.
        m_max: sectors kept in the bond frame (l_max for all).
    """

    l_max: int
    channels: int
    l_pseudo: int
    pseudo_channels: int
    m_max: int

    @cached_property
    def sectors(self) -> SectorLayout:
        """Layout of a node's features packed in a bond frame; in a sector, natural channels precede pseudo ones."""
        rings = tuple(
            (self.l_max - m + 1) * self.channels + max(self.l_pseudo - m + 1, 0) * self.pseudo_channels
            for m in range(1, self.m_max + 1)
        )
        return SectorLayout((self.l_max + 1) * self.channels, self.l_pseudo * self.pseudo_channels, rings)

    def _rows(self, l_first: int, l_last: int) -> list[tuple[int, int, int]]:
        """(M, part, l) in packed order, part 0 for cos (or M = 0), 1 for sin."""
        rows = [(0, 0, degree) for degree in range(l_first, l_last + 1)]
        for m in range(1, self.m_max + 1):
            rows += [(m, part, degree) for part in range(2) for degree in range(max(m, l_first), l_last + 1)]
        return rows

    @cached_property
    def natural(self) -> BondWigner:
        """Wigner matrices of the natural features, with rows in packed order."""
        rows = [(degree, degree, m if part == 0 else -m, 1.0) for m, part, degree in self._rows(0, self.l_max)]
        return BondWigner(rows, _components(0, self.l_max))

    @cached_property
    def pseudo(self) -> BondWigner:
        """The same for pseudo features (l from 1): (cos, sin) is read as (−sin, cos), which mirrors as a natural pair."""
        rows = [
            (degree, degree, -m if part == 0 else m, -1.0 if m > 0 and part == 0 else 1.0)
            for m, part, degree in self._rows(1, self.l_pseudo)
        ]
        return BondWigner(rows, _components(1, self.l_pseudo))

    @cached_property
    def packing(self) -> list[tuple[int, int, int]]:
        """(source, start, stop) runs that interleave natural (source 0) and pseudo (1) rows into the packed order."""
        runs = []
        starts = [0, 0]
        for part in [(0, 0), (0, 1), *[(m, p) for m in range(1, self.m_max + 1) for p in range(2)]]:
            m, second = part
            for source in range(2):
                if m == 0 and second != source:
                    continue  # natural m = 0 rows are 0+, pseudo ones 0-
                first, last = (max(m, 0), self.l_max) if source == 0 else (max(m, 1), self.l_pseudo)
                count = max(last - first + 1, 0)
                if count:
                    runs.append((source, starts[source], starts[source] + count))
                starts[source] += count
        return runs

    @cached_property
    def swap_signs(self) -> np.ndarray:
        """(dimension of `sectors`,) signs Σ that bring the partner's features into its own outward frame.

        With F the half turn that reverses the bond and f the mirror signs (+ on 0+ and cos, − on 0- and sin), F = Σ f:
        (−1)^{l+M} on natural channels and its negative on pseudo ones.
        """
        signs = []
        for m, odd in [(0, False), (0, True), *[(m, False) for m in range(1, self.m_max + 1)]]:
            if m > 0 or not odd:
                for degree in range(m, self.l_max + 1):
                    signs += [(-1.0) ** (degree + m)] * self.channels
            if m > 0 or odd:
                for degree in range(max(m, 1), self.l_pseudo + 1):
                    signs += [-((-1.0) ** (degree + m))] * self.pseudo_channels
        return self.sectors.spread(np.array(signs))


def _components(first: int, last: int) -> list[Component]:
    """All components of l from `first` to `last`, one shell of each."""
    return [(degree, degree, m, 1.0) for degree in range(first, last + 1) for m in range(-degree, degree + 1)]


class PairBlockLayout:
    """How the elements of an orbital block, seen in the frame of its bond, fall into sectors.

    Its sector 0+ holds what a two-centre integral can be: (a, b, |m|) with both orbitals turning alike, in the order of
    the shell pairs (a, b), then |m| (Slater-Koster).

    The product of two orbitals (l₁, ±μ) ⊗ (l₂, ±ν) turns with angles μ+ν and |μ−ν|; combined with weights ±1/√2 these are
    orthonormal components of sectors, so `block = Q · packed` with Q orthogonal and at most two entries in a row.

    Attributes:
        shells: l of the shells of both atoms (the template that holds every element's shells).
        size: orbitals n of the template.
        sectors: layout of the packed block, n² numbers.
        matrix: Q, (n², n²).
        swap: (channels,) for each channel (even, odd, ring 1, …) the channel that holds the same combination with the
            atoms exchanged.
        swap_sign: (channels,) its sign; see `NodeLayout.swap_signs`.
        shell_pairs: (channels, 2) the shells (a, b) of each channel.
    """

    def __init__(self, shells: Sequence[int]) -> None:
        self.shells = tuple(shells)
        first = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in shells])])
        self.size = n = int(first[-1])
        half = np.sqrt(0.5)
        sectors: dict[int, list[tuple[list[dict[int, float]], tuple[int, int]]]] = {}

        for a, la in enumerate(shells):
            for b, lb in enumerate(shells):

                def at(ma: int, mb: int, a: int = a, b: int = b) -> int:
                    return int((first[a] + shells[a] + ma) * n + first[b] + shells[b] + mb)

                def add(sector: int, *parts: dict[int, float], pair: tuple[int, int] = (a, b)) -> None:
                    sectors.setdefault(sector, []).append((list(parts), pair))

                add(0, {at(0, 0): 1.0})
                for mu in range(1, la + 1):
                    add(1 + mu, {at(mu, 0): 1.0}, {at(-mu, 0): 1.0})
                for nu in range(1, lb + 1):
                    add(1 + nu, {at(0, nu): 1.0}, {at(0, -nu): 1.0})
                for mu in range(1, la + 1):
                    for nu in range(1, lb + 1):
                        cc, ss, sc, cs = at(mu, nu), at(-mu, -nu), at(-mu, nu), at(mu, -nu)
                        add(1 + mu + nu, {cc: half, ss: -half}, {sc: half, cs: half})
                        sign = 1.0 if mu >= nu else -1.0
                        if mu == nu:
                            add(0, {cc: half, ss: half})
                            add(1, {sc: half, cs: -half})
                        else:
                            add(1 + abs(mu - nu), {cc: half, ss: half}, {sc: sign * half, cs: -sign * half})

        rings = tuple(len(sectors.get(ring, [])) for ring in range(2, 2 + 2 * max(shells)))
        self.sectors = SectorLayout(len(sectors[0]), len(sectors.get(1, [])), rings)
        self.matrix = np.zeros((n * n, n * n))
        for run, (sector, start, _) in enumerate(self.sectors.slices):
            part = 1 if run >= 2 and run % 2 else 0  # cos or sin
            for channel, (parts, _) in enumerate(sectors.get(sector, [])):
                for element, weight in parts[part].items():
                    self.matrix[element, start + channel] = weight
        self.shell_pairs = np.array([pair for sector in sorted(sectors) for _, pair in sectors[sector]])
        self._find_swap(first)

    def _find_swap(self, first: np.ndarray) -> None:
        n = self.size
        flip = np.concatenate([flip_signs(degree) for degree in self.shells])
        # seen from the other atom: block'[b, a] = flip_b flip_a block[a, b]
        exchange = np.zeros((n * n, n * n))
        rows, columns = np.divmod(np.arange(n * n), n)
        exchange[np.arange(n * n), columns * n + rows] = flip[rows] * flip[columns]
        packed = np.rint(self.matrix.T @ exchange @ self.matrix)
        swap, sign, start_channel = [], [], 0
        seen = -1
        for sector, start, stop in self.sectors.slices:
            if sector == seen or start == stop:
                continue  # the sine part follows its cosine; s shells alone have no 0-
            seen = sector
            corner = packed[start:stop, start:stop] * (-1.0 if sector == 1 else 1.0)
            index = np.abs(corner).argmax(axis=1)
            swap.append(start_channel + index)
            sign.append(corner[np.arange(stop - start), index])
            start_channel += stop - start
        self.swap = np.concatenate(swap).astype(np.int64)
        self.swap_sign = np.concatenate(sign)

    def unpack(self, packed: Tensor) -> Tensor:
        """Q: packed vectors (n, size²) → blocks (n, size, size), both in frames of bonds."""
        return _two_terms(packed, self._to_block).view(-1, self.size, self.size)

    def pack(self, blocks: Tensor) -> Tensor:
        """Qᵀ, the inverse of `unpack`."""
        return _two_terms(blocks.flatten(1), self._to_packed)

    @cached_property
    def _to_block(self) -> _Terms:
        return _terms(self.matrix)

    @cached_property
    def _to_packed(self) -> _Terms:
        return _terms(self.matrix.T)


_Terms = list[tuple[Constant, Constant]]


def _terms(matrix: np.ndarray) -> _Terms:
    """The entries of a matrix with at most two in a row, as columns and values of the first and of the second."""
    order = np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :2]
    values = np.take_along_axis(matrix, order, axis=1)
    if order.shape[1] == 1:  # of one s orbital
        order, values = np.repeat(order, 2, axis=1), np.concatenate([values, np.zeros_like(values)], axis=1)
    return [
        (Constant(np.ascontiguousarray(order[:, k])), Constant(np.ascontiguousarray(values[:, k]))) for k in range(2)
    ]


def _two_terms(vectors: Tensor, terms: _Terms) -> Tensor:
    (first, weight), (second, other) = terms
    # indexing takes five times as long as index_select
    largest = vectors.index_select(1, first.on(vectors.device)) * weight.like(vectors)
    return torch.addcmul(largest, vectors.index_select(1, second.on(vectors.device)), other.like(vectors))
