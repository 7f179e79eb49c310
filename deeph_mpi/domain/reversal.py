"""Inversions and twofold rotations of a crystal, found from its atoms: with time reversal they leave k where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

from deeph_mpi.domain.cell import WrappedAtoms, wrap
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.structure.structure import Structure

__all__ = ["TOLERANCE", "Reversal", "find_reversals"]

TOLERANCE = 1e-3  # Å between an image and the atom it falls on
_OPERATIONS = {"inversion": (-1, -1, -1), "C2z": (-1, -1, 1), "C2y": (-1, 1, -1), "C2x": (1, -1, -1)}
_SURROUNDINGS = 5.0  # Å around an atom, by which unlike atoms are told apart
_SLOPE = (
    5.0  # 1/Å: what moving a neighbour changes in an atom's surroundings, per unit of atomic number, is a tenth of that
)
_TESTS = 24  # atoms on which all centres are tried
_FULL = 16  # centres that are tried on all atoms
_GROUP = 8192  # atoms whose surroundings are looked at together: the pairs of all would not fit a rank


@dataclass(frozen=True)
class Reversal:
    """An operation r → W r + t of order two that maps the crystal onto itself; W is diagonal.

    With W (R·cell) = (R M)·cell it takes the copy of atom i in cell R to that of `partner[i]` in cell R M + `shift[i]`.

    Attributes:
        name: "inversion", "C2z", "C2y" or "C2x" (axes are Cartesian).
        signs: (3,) float64, the diagonal of W.
        translation: (3,) float64, t in Å.
        lattice: (3, 3) int64, M.
        partner: (N,) int64.
        shift: (N, 3) int64.
    """

    name: str
    signs: np.ndarray
    translation: np.ndarray
    lattice: np.ndarray
    partner: np.ndarray
    shift: np.ndarray

    def keeps(self, k: np.ndarray) -> bool:
        """Whether followed by time reversal it maps k (3,), fractional, to k or to an equivalent point."""
        moved = self.lattice @ k + k
        return bool(np.all(np.abs(moved - np.round(moved)) < 1e-9))


def find_reversals(structure: Structure) -> list[Reversal]:
    """One of each kind of operation that the structure has, to within `TOLERANCE`. Not collective, O(N log N).

    Candidates for t map one atom, whose surroundings few others share, to each of these; those that fail for some other atoms
    are dropped, and the rest is tried on all. In a large cell with thousands of equivalent positions and a defect that only a
    few of them suit, the search may end before it finds these.
    """
    wrapped = wrap(structure)
    surroundings = _surroundings(structure, wrapped)
    spread = _SLOPE * TOLERANCE * int(structure.numbers.max(initial=1))
    tree = _Tree(structure, wrapped)
    found = (_find(structure, wrapped, tree, surroundings, spread, *item) for item in _OPERATIONS.items())
    return [reversal for reversal in found if reversal is not None]


class _Tree:
    """Which atom lies at a position, periodic images included."""

    def __init__(self, structure: Structure, wrapped: WrappedAtoms) -> None:
        self.cell, self.periodic, self.positions = wrapped.cell, wrapped.pbc, structure.positions
        self.inverse = np.linalg.inv(wrapped.cell)
        self.lengths = np.linalg.norm(wrapped.cell, axis=1)
        kinds = 1e3 * structure.numbers  # Å: atoms of other elements are far away
        box = np.append(np.where(wrapped.pbc, self.lengths, 0.0), 0.0)
        self.tree = cKDTree(np.column_stack([self._inside(structure.positions), kinds]), boxsize=box)
        self.reach = 10 * TOLERANCE / float(np.linalg.svd(wrapped.cell / self.lengths[:, None], compute_uv=False)[-1])

    def at(self, points: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atoms (n,) at the points (n, 3), cells (n, 3) of their copies there, and whether there is one (n,)."""
        query = np.column_stack([self._inside(points), np.broadcast_to(1e3 * numbers, len(points))])
        _, atoms = self.tree.query(query, distance_upper_bound=self.reach)
        known = atoms < len(self.positions)
        atoms = np.where(known, atoms, 0)
        difference = (points - self.positions[atoms]) @ self.inverse
        cells = np.where(self.periodic, np.round(difference), 0.0)
        rest = np.linalg.norm((difference - cells) @ self.cell, axis=1)
        return atoms, cells.astype(np.int64), known & (rest <= TOLERANCE)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        fractional = points @ self.inverse
        inside = np.where(self.periodic, fractional - np.floor(fractional), fractional)
        return np.where(self.periodic & (inside >= 1), 0.0, inside) * self.lengths


def _find(
    structure: Structure,
    wrapped: WrappedAtoms,
    tree: _Tree,
    surroundings: np.ndarray,
    spread: float,
    name: str,
    diagonal: tuple[int, int, int],
) -> Reversal | None:
    signs = np.array(diagonal, dtype=np.float64)
    mapped = (wrapped.cell * signs) @ np.linalg.inv(wrapped.cell)
    lattice = np.round(mapped).astype(np.int64)
    if np.abs((mapped - lattice) @ wrapped.cell).max() > TOLERANCE:
        return None
    flat = ~np.asarray(wrapped.pbc)
    if (lattice[flat][:, wrapped.pbc] != 0).any() or (lattice[wrapped.pbc][:, flat] != 0).any():
        return None
    positions, numbers = structure.positions, structure.numbers
    order = np.argsort(surroundings)
    low, high = (np.searchsorted(surroundings[order], surroundings + x) for x in (-spread, spread))
    first = int(np.argmin(high - low))
    alike = order[low[first] : high[first]]
    alike = alike[numbers[alike] == numbers[first]]
    candidates = positions[alike] - signs * positions[first]
    tests = np.random.default_rng(3).permutation(len(numbers))[:_TESTS]
    for atom in tests:
        candidates = candidates[tree.at(signs * positions[atom] + candidates, numbers[atom])[2]]
    for translation in candidates[:_FULL]:
        partner, shift, good = tree.at(signs * positions + translation, numbers)
        if not good.all() or (partner[partner] != np.arange(len(partner))).any():
            continue
        taken_off = _half(shift[0] @ lattice + shift[partner[0]], lattice)
        if taken_off is not None:
            return Reversal(name, signs, translation - taken_off @ wrapped.cell, lattice, partner, shift - taken_off)
    return None


def _half(square: np.ndarray, lattice: np.ndarray) -> np.ndarray | None:
    """The lattice vector m with m + m M = square, without which a rotation squares to 1; None for a screw axis."""
    for m in square // 2 + np.stack(np.meshgrid(*[(0, 1, -1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3):
        if (m + m @ lattice == square).all():
            return m
    return None


def _surroundings(structure: Structure, wrapped: WrappedAtoms) -> np.ndarray:
    """(N,) a number for each atom that depends on the elements and distances of its neighbours only, and smoothly."""
    result = len(chemical_symbols) * structure.numbers.astype(np.float64)
    fractional = wrapped.fractional
    longest = int(np.argmax(np.ptp(fractional, axis=0) * wrapped.heights))
    along = np.argsort(fractional[:, longest], kind="stable")
    for some in np.array_split(along, -(-len(along) // _GROUP)):
        atoms = np.sort(some)
        pairs = neighbour_pairs(structure, atoms, _SURROUNDINGS, wrapped)
        weight = (1 - (pairs.distances / _SURROUNDINGS) ** 2) ** 3 * structure.numbers[pairs.j]
        result[atoms] += np.bincount(np.searchsorted(atoms, pairs.i), weight, len(atoms))
    return result
