"""Eigenpairs distributed by rows: S-orthonormalization, Rayleigh-Ritz and true residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeph_mpi.solvers.pencil import Pencil

__all__ = ["Eigenpairs"]

_INDEPENDENT = 1e-3  # S-norm of what a new unit vector must add to the space to count as new


@dataclass(frozen=True)
class Eigenpairs:
    """S-orthonormal eigenvectors with their energies, ascending.

    Attributes:
        energies: (m,) float64, eV.
        vectors: (local_dimension, m), the rows of this rank; (0, m) once they were dropped.
        residuals: (m,) float64, ‖H x − E S x‖₂ / ‖S x‖₂ in eV.
        populations: (groups of this rank, m) float32, see `mulliken_populations`; None where they were not asked for.
    """

    energies: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    populations: np.ndarray | None = None

    @classmethod
    def none(cls, pencil: Pencil) -> Eigenpairs:
        """An empty set."""
        return cls(np.empty(0), np.empty((pencil.local_dimension, 0), dtype=pencil.dtype), np.empty(0))

    @classmethod
    def joined(cls, parts: Sequence[Eigenpairs]) -> Eigenpairs:
        """Parts of one set in the order of their energies."""
        energies = np.concatenate([part.energies for part in parts])
        populations = [part.populations for part in parts if part.populations is not None]
        return cls(
            energies,
            np.concatenate([part.vectors for part in parts], axis=1),
            np.concatenate([part.residuals for part in parts]),
            np.concatenate(populations, axis=1) if populations else None,
        ).take(np.argsort(energies, kind="stable"))

    def __len__(self) -> int:
        return len(self.energies)

    def take(self, chosen: np.ndarray) -> Eigenpairs:
        """The pairs at indices, or where a mask is true."""
        populations = None if self.populations is None else self.populations[:, chosen]
        return Eigenpairs(self.energies[chosen], self.vectors[:, chosen], self.residuals[chosen], populations)

    def extended(self, pencil: Pencil, candidates: np.ndarray, tolerance: float) -> Eigenpairs:
        """Add what is new in approximate eigenvectors, by S-orthogonalization and Rayleigh-Ritz. Collective.

        Copies, and partners i·x of the doubled real form, add nothing. Pairs whose true residual exceeds `tolerance`
        (eV) are dropped.

        Args:
            pencil: the eigenproblem.
            candidates: (local_dimension, q).
            tolerance: in eV.
        """
        old, s_old = self.vectors, pencil.multiply(pencil.s, self.vectors)
        new, s_new = candidates, pencil.multiply(pencil.s, candidates)
        scale = np.sqrt(np.maximum(pencil.total((new.conj() * s_new).real.sum(axis=0)), 1e-300))
        new, s_new = new / scale, s_new / scale
        for _ in range(2):  # twice is enough
            overlap = pencil.total(old.conj().T @ s_new)
            new, s_new = new - old @ overlap, s_new - s_old @ overlap
        metric, rotation = pencil.eigh(pencil.total(new.conj().T @ s_new))
        independent = metric > _INDEPENDENT**2
        if not independent.any():
            return self
        change = rotation[:, independent] / np.sqrt(metric[independent])
        space, s_space = (np.concatenate([x, y @ change], axis=1) for x, y in ((old, new), (s_old, s_new)))
        h_space = pencil.multiply(pencil.h, space)
        projected = [pencil.total(space.conj().T @ image) for image in (h_space, s_space)]
        energies, ritz = pencil.eigh(*projected)
        vectors, s_vectors = space @ ritz, s_space @ ritz
        difference = pencil.without_removed(h_space @ ritz - s_vectors * energies)
        squares = [pencil.total((x.real**2 + x.imag**2).sum(axis=0)) for x in (difference, s_vectors)]
        residuals = np.sqrt(squares[0] / squares[1])
        return Eigenpairs(energies, vectors, residuals).take(residuals < tolerance)
