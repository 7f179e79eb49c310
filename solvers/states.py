"""A set of eigenpairs of one pencil with the index of its first and what was proved about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.eigenpairs import Eigenpairs

__all__ = ["States"]


@dataclass(frozen=True)
class States:
    """Consecutive states of one pencil.

    Attributes:
        pairs: the states, energies ascending.
        first: index of the lowest of them among all states of the pencil (0 is the lowest); None without inertia.
        lower, upper: energies in eV between which `pairs` are all the states there are (when proved); may be infinite.
        proved: inertia at both ends accounts for every state, and S is positive definite.
        note: why it is not proved, else what proves it.
    """

    pairs: Eigenpairs
    first: int | None
    lower: float
    upper: float
    proved: bool
    note: str

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def energies(self) -> np.ndarray:
        """(m,) eV, ascending."""
        return self.pairs.energies

    def energy(self, index: int) -> float | None:
        """Energy of the state with this index of the whole spectrum; None when it is not among these."""
        if self.first is None or not 0 <= index - self.first < len(self):
            return None
        return float(self.energies[index - self.first])

    def level(self, index: int) -> float:
        """Energy of the state with this index of the whole spectrum.

        Raises:
            SolverError: it is not among these, with the reason.
        """
        energy = self.energy(index)
        if energy is None:
            around = f" between {self.energies[0]:.4f} and {self.energies[-1]:.4f} eV" if len(self) else ""
            raise SolverError(f"state {index} is not among the {len(self)} states found{around} ({self.note})")
        return energy

    def without_vectors(self) -> States:
        """The same energies, residuals and populations; the eigenvectors are let go."""
        return replace(self, pairs=replace(self.pairs, vectors=np.empty((0, len(self)))))

    def between(self, lower: float, upper: float) -> States:
        """Those with lower ≤ E ≤ upper, themselves complete within the narrower interval."""
        inside = (self.energies >= lower) & (self.energies <= upper)
        first = None if self.first is None else self.first + int((self.energies < lower).sum())
        return States(
            self.pairs.take(inside), first, max(lower, self.lower), min(upper, self.upper), self.proved, self.note
        )

    def nearest(self, target: float, count: int, cluster: float) -> States:
        """The `count` nearest to `target`, with what lies within `cluster` (eV) of the farthest of them."""
        distance = np.abs(self.energies - target)
        if count >= len(self):
            return self
        reach = np.sort(distance)[count - 1] + cluster
        inside = np.flatnonzero(distance <= reach)
        low, high = int(inside[0]), int(inside[-1]) + 1
        while low > 0 and self.energies[low] - self.energies[low - 1] <= cluster:
            low -= 1
        while high < len(self) and self.energies[high] - self.energies[high - 1] <= cluster:
            high += 1
        first = None if self.first is None else self.first + low
        return States(
            self.pairs.take(np.arange(low, high)),
            first,
            max(self.lower, target - reach),
            min(self.upper, target + reach),
            self.proved,
            self.note,
        )
