"""Combinations of orbitals in which H(k) and S(k) of a crystal with inversion or a twofold axis are real at every k it keeps.

Followed by time reversal K, such an operation g maps k to itself: Θ = g K is antiunitary, commutes with H(k), and Θ² = 1.
Let f_i be the Bloch sum of an orbital of atom i whose coefficient is 1 on the copy of i in cell n_i, its home. With the sign s
of the orbital under g, Θ f_i = s f_p for an atom with another partner p, when the home of p is the image of that of i.
Then χ₊ = (f_i + Θ f_i)/√2 and χ₋ = i (f_i − Θ f_i)/√2 are left alone by Θ, and between functions that are, H is real. An
atom that is its own partner, its home moved by d, has Θ f = s e^{−2πi k·d} f, and √s e^{−πi k·d} f is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeph_mpi.assembly.lattice_sum import is_time_reversal_invariant
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.domain.cell import wrap
from deeph_mpi.domain.reversal import Reversal, find_reversals
from deeph_mpi.structure.structure import Structure

__all__ = ["NOISE", "ROUNDING", "RealGauge", "choose_gauge"]

# Elements by which H (eV) and S may differ from their averages with their images under the operation. States are those of the
# averages, which moves levels by their square, of close ones by as much at most.
NOISE = (1e-5, 1e-6)  # of the network's single precision
ROUNDING = (1e-8, 1e-8)  # of files whose H and S stand as they are


@dataclass(frozen=True)
class RealGauge:
    """Which atoms go together, where their homes are, and the signs of their orbitals.

    Homes lie in one cell around the center of the operation, so that only bonds across its sides have phases.

    Attributes:
        reversal: the operation.
        lead: (N,) int64, the one of each pair of partners whose rows stand for both; of a single atom itself.
        home: (N, 3) int64, n.
        moved: (N, 3) int64, d; 0 for atoms with another partner.
        sizes: (N,) int64 orbitals.
        kind: (N,) int64, which row of `signs` is an atom's.
        signs: (elements, most orbitals) float64, s = ±1 of the orbitals of an atom; 1 beyond them.
        complex_along: (3,) bool, directions along which a phase of a k-point asked for may be other than ±1.
        averaged: largest elements by which H (eV) and S may differ from their averages with their images.
    """

    reversal: Reversal
    lead: np.ndarray
    home: np.ndarray
    moved: np.ndarray
    sizes: np.ndarray
    kind: np.ndarray
    signs: np.ndarray
    complex_along: np.ndarray
    averaged: tuple[float, float] = NOISE

    @classmethod
    def of(cls, reversal: Reversal, structure: Structure, orbitals: OrbitalMap, kpoints: np.ndarray) -> RealGauge:
        """For k-points (nk, 3) that the operation keeps."""
        atoms = np.arange(len(structure))
        lower = np.minimum(atoms, reversal.partner)
        # Either may lead: dealt out evenly, so that every rank has rows of about half of its atoms.
        lead = np.where(lower % 2 == 0, lower, np.maximum(atoms, reversal.partner))
        apart = (structure.positions - reversal.translation / 2) @ np.linalg.inv(wrap(structure).cell)
        home = np.where(structure.pbc, -np.round(apart), 0).astype(np.int64)
        image = home @ reversal.lattice + reversal.shift
        follows = np.flatnonzero(lead != atoms)
        home[follows] = image[lead[follows]]
        moved = home @ reversal.lattice + reversal.shift - home[reversal.partner]
        sizes = orbitals.orbitals(structure.numbers)
        elements, kind = np.unique(structure.numbers, return_inverse=True)
        signs = np.ones((len(elements), int(sizes.max())))
        for row, number in zip(signs, elements.tolist(), strict=True):
            known = _signs(orbitals.shells[number], reversal.signs)
            row[: len(known)] = known
        twice = 2 * np.asarray(kpoints)
        complex_along = (np.abs(twice - np.round(twice)) > 1e-12).any(axis=0)
        return cls(
            reversal,
            lead,
            home,
            moved,
            sizes,
            kind.reshape(-1),
            signs,
            complex_along,
        )

    @property
    def single(self) -> np.ndarray:
        """(N,) bool, atoms that are their own partners."""
        return self.reversal.partner == np.arange(len(self.lead))

    @property
    def leads(self) -> np.ndarray:
        """(N,) bool."""
        return self.lead == np.arange(len(self.lead))

    @property
    def parts(self) -> np.ndarray:
        """(N,) int64, real functions per orbital in the rows of an atom: 2 of a leading one, 1 of a single one, else 0."""
        return np.where(self.single, 1, np.where(self.leads, 2, 0))

    def signs_of(self, atoms: np.ndarray, size: int) -> np.ndarray:
        """(m, size) signs of the orbitals of atoms that all have `size` of them."""
        return self.signs[self.kind[atoms], :size]


def choose_gauge(
    structure: Structure, orbitals: OrbitalMap, kpoints: np.ndarray, *, always: bool = False
) -> RealGauge | None:
    """A gauge in which the matrices of all k-points (nk, 3) are real, without spin. Not collective.

    Args:
        structure: the atoms.
        orbitals: their shells.
        kpoints: fractional.
        always: whether one is of use where all matrices are real as they are.

    Returns:
        None where no operation of the structure keeps all k-points, or it is of no use.
    """
    if not always and all(is_time_reversal_invariant(k) for k in kpoints):
        return None
    for reversal in find_reversals(structure):
        if all(reversal.keeps(k) for k in kpoints):
            return RealGauge.of(reversal, structure, orbitals, kpoints)
    return None


def _signs(shells: tuple[int, ...], diagonal: np.ndarray) -> np.ndarray:
    """What real spherical harmonics are multiplied with when x, y, z are with the signs in `diagonal`.

    Y_lm is odd in y for m < 0 (sines), odd in z where l + m is, and (−1)^l under inversion.
    """
    result = []
    for l in shells:  # noqa: E741
        m = np.arange(-l, l + 1)
        y, z = np.where(m < 0, -1, 1), 1 - 2 * ((l + m) % 2)
        x = (1 - 2 * (l % 2)) * y * z
        result.append(np.prod([np.where(diagonal[n] < 0, sign, 1) for n, sign in enumerate((x, y, z))], axis=0))
    return np.concatenate(result).astype(np.float64)
