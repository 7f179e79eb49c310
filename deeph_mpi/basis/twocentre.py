"""Overlaps of atom-centred orbitals from their radial functions alone.

Along the polar axis, with F the Bessel transforms and G the integral of three real spherical harmonics,

    S_m(d) = 8 Σ_L i^{l₁−l₂−L} √((2L+1)/4π) G(l₁m, l₂m, L0) ∫ k² F₁(k) F₂(k) j_L(kd) dk

(Fourier transform of the product, Sankey & Niklewski, Phys. Rev. B 40, 3979 (1989)). Splines of S_m(d) serve all bonds; each
block is turned back from its bond's frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import factorial

import numpy as np
import torch
from scipy.interpolate import BSpline, make_interp_spline
from scipy.special import lpmv, spherical_jn

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.radial import Shell, quadrature
from deeph_mpi.basis.wigner import bond_frames, wigner_matrices
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.structure.structure import Structure

__all__ = ["OverlapTable", "overlap_blocks"]

_SPACING = 0.02  # Å, of the table
_PIECE = 20000  # bonds turned at a time
_BESSEL = 2**22  # values of Bessel functions at a time

_Term = tuple[tuple[int, int], tuple[int, int], int]


class OverlapTable:
    """S between any two shells of a basis, by distance.

    Attributes:
        basis: atomic number → shells, in the order of the orbitals.
        orbital_map: their l.
        negligible: pairs whose elements all stay below this are left out.
    """

    def __init__(self, basis: Mapping[int, Sequence[Shell]], negligible: float = 1e-8) -> None:
        self.basis = {number: tuple(shells) for number, shells in basis.items()}
        self.orbital_map = OrbitalMap(
            {z: tuple(shell.l for shell in shells) for z, shells in sorted(self.basis.items())}
        )
        self.negligible = negligible
        everything = [shell for shells in self.basis.values() for shell in shells]
        longest = 2 * max(shell.radius for shell in everything)
        k_max = max(shell.k_max for shell in everything)
        self._distances = np.arange(0.0, longest + 6 * _SPACING, _SPACING)
        integrals = self._integrals(*quadrature(0.0, k_max, int(k_max * longest) + 400))
        numbers = sorted(self.basis)
        self._splines = {(z1, z2): self._pair(z1, z2, integrals) for z1 in numbers for z2 in numbers}
        self.radii = {pair: self._radius(*pair) for pair in self._splines if pair[0] <= pair[1]}

    def _integrals(self, k: np.ndarray, weights: np.ndarray) -> dict[_Term, np.ndarray]:
        """∫ k² F₁ F₂ j_L(kd) dk at all distances, for every two shells (z₁, a) ≤ (z₂, b) and every L they couple to."""
        transforms = {(z, a): shell.transform(k) for z, shells in self.basis.items() for a, shell in enumerate(shells)}
        degrees = {(z, a): shell.l for z, shells in self.basis.items() for a, shell in enumerate(shells)}
        found: dict[_Term, np.ndarray] = {}
        for total in range(2 * self.orbital_map.l_max + 1):
            terms = [
                (one, two, total)
                for one in transforms
                for two in transforms
                if one <= two
                and abs(degrees[one] - degrees[two]) <= total <= degrees[one] + degrees[two]
                and (degrees[one] + degrees[two] + total) % 2 == 0
            ]
            table = np.zeros((len(self._distances), len(terms)))
            for part in np.array_split(np.arange(len(k)), len(k) * len(self._distances) // _BESSEL + 1):
                bessel = spherical_jn(total, np.outer(self._distances, k[part]))
                products = [transforms[one][part] * transforms[two][part] for one, two, _ in terms]
                table += bessel @ (
                    (weights[part] * k[part] ** 2)[:, None] * np.array(products).reshape(-1, len(part)).T
                )
            found |= dict(zip(terms, table.T, strict=True))
        return found

    def _pair(self, z1: int, z2: int, integrals: dict[_Term, np.ndarray]) -> BSpline:
        """(n₁, n₂) block in the bond's frame as a spline of the distance."""
        first, second = (np.concatenate([[0], np.cumsum([2 * s.l + 1 for s in self.basis[z]])]) for z in (z1, z2))
        table = np.zeros((len(self._distances), first[-1], second[-1]))
        for a, shell_a in enumerate(self.basis[z1]):
            for b, shell_b in enumerate(self.basis[z2]):
                one, two = sorted([(z1, a), (z2, b)])
                for total in range(abs(shell_a.l - shell_b.l), shell_a.l + shell_b.l + 1, 2):
                    sign = (-1) ** ((shell_a.l - shell_b.l - total) // 2)
                    radial = 8 * sign * np.sqrt((2 * total + 1) / (4 * np.pi)) * integrals[one, two, total]
                    for m in range(-min(shell_a.l, shell_b.l), min(shell_a.l, shell_b.l) + 1):
                        gaunt = _gaunt(shell_a.l, shell_b.l, total, abs(m))
                        table[:, first[a] + shell_a.l + m, second[b] + shell_b.l + m] += gaunt * radial
        return make_interp_spline(self._distances, table, k=5)

    def _radius(self, z1: int, z2: int) -> float:
        """Distance from which on every element is negligible."""
        size = np.abs(self._splines[z1, z2](self._distances)).reshape(len(self._distances), -1).max(axis=1)
        longest = max(s.radius for s in self.basis[z1]) + max(s.radius for s in self.basis[z2])
        above = np.flatnonzero((size > self.negligible) & (self._distances <= longest))
        return float(min(self._distances[above[-1]] + _SPACING, longest))

    def onsite(self, number: int) -> np.ndarray:
        """(n, n) overlaps of one atom's orbitals."""
        block: np.ndarray = self._splines[number, number](0.0)
        return block

    def in_frame(self, z1: int, z2: int, distances: np.ndarray) -> np.ndarray:
        """(n, n₁, n₂) blocks with the bond from the first to the second atom as the polar axis, at distances in Å."""
        blocks: np.ndarray = self._splines[z1, z2](distances)
        return blocks


def overlap_blocks(table: OverlapTable, structure: Structure, cutoff: float | None = None) -> BlockSet:
    """All blocks of S, sorted by (i, j, R). Not collective.

    Args:
        table: of the structure's elements.
        structure: the atoms.
        cutoff: keep pairs up to this distance, Å; all that are not negligible by default.

    Raises:
        DataError: an element that the basis lacks.
        StructureError: atoms too close.
    """
    orbitals = table.orbital_map.orbitals(structure.numbers)
    radii = {pair: radius if cutoff is None else min(radius, cutoff) for pair, radius in table.radii.items()}
    near = neighbour_pairs(structure, np.arange(len(structure)), radii)
    onsite = np.zeros((len(structure), 5), dtype=np.int64)
    onsite[:, 3] = onsite[:, 4] = np.arange(len(structure))
    pairs = np.concatenate([onsite, np.column_stack([near.R, near.i, near.j])]).astype(np.int64)
    vectors = np.concatenate([np.zeros((len(structure), 3)), near.vectors])
    order = np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0], pairs[:, 4], pairs[:, 3]))
    pairs, vectors = pairs[order], vectors[order]
    blocks = BlockSet.allocate(pairs, orbitals, np.float64)
    kinds = structure.numbers[pairs[:, 3]] * 1000 + structure.numbers[pairs[:, 4]]
    own = (pairs[:, :3] == 0).all(axis=1) & (pairs[:, 3] == pairs[:, 4])
    for kind in np.unique(kinds).tolist():
        z1, z2 = divmod(kind, 1000)
        members = np.flatnonzero((kinds == kind) & ~own)
        for piece in np.array_split(members, len(members) // _PIECE + 1):
            _store(blocks, piece, _turned(table, z1, z2, vectors[piece]))
        alone = np.flatnonzero((kinds == kind) & own)
        if len(alone):
            _store(blocks, alone, np.broadcast_to(table.onsite(z1), (len(alone), *table.onsite(z1).shape)))
    return blocks


def _store(blocks: BlockSet, members: np.ndarray, values: np.ndarray) -> None:
    flat = values.reshape(len(members), -1) if len(members) else values.reshape(0, 0)
    blocks.entries[blocks.offsets[members, None] + np.arange(flat.shape[1])] = flat


def _turned(table: OverlapTable, z1: int, z2: int, vectors: np.ndarray) -> np.ndarray:
    """(n, n₁, n₂) blocks of bonds `vectors` (n, 3): Dᵀ S D, shell by shell."""
    blocks = table.in_frame(z1, z2, np.linalg.norm(vectors, axis=1))
    if not len(vectors):
        return blocks
    wigner = [d.numpy() for d in wigner_matrices(bond_frames(torch.from_numpy(vectors)), table.orbital_map.l_max)]
    for axis, number in ((1, z1), (2, z2)):
        start = 0
        for li in table.orbital_map.shells[number]:
            part = [slice(None), slice(None), slice(None)]
            part[axis] = slice(start, start + 2 * li + 1)
            chosen = tuple(part)
            equation = "nba,nbc->nac" if axis == 1 else "ncb,nba->nca"
            operands = (wigner[li], blocks[chosen]) if axis == 1 else (blocks[chosen], wigner[li])
            blocks[chosen] = np.einsum(equation, *operands)
            start += 2 * li + 1
    return blocks


@cache
def _gaunt(l1: int, l2: int, l3: int, m: int) -> float:
    """∫ Y_{l₁m} Y_{l₂m} Y_{l₃0} over the sphere, real harmonics of the same m."""
    x, weights = np.polynomial.legendre.leggauss(l1 + l2 + l3 + 2)
    product = _theta(l1, m, x) * _theta(l2, m, x) * _theta(l3, 0, x)
    return float(2 * np.pi * (weights @ product))


def _theta(li: int, m: int, x: np.ndarray) -> np.ndarray:
    """Y_lm of complex harmonics at azimuth 0 (the phase (−1)^m cancels in products of equal m)."""
    norm = np.sqrt((2 * li + 1) / (4 * np.pi) * factorial(li - m) / factorial(li + m))
    value: np.ndarray = norm * lpmv(m, li, x)
    return value
