"""What a long computation tells whoever keeps its finished units, and asks of them when it begins again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.states import States

__all__ = ["Forgetful", "Journal", "Keeper", "Record"]


@dataclass(frozen=True)
class Record:
    """A finished unit.

    Attributes:
        values: numbers, texts and arrays, the same on all ranks.
        vectors: (rows of this rank, m) real or complex; None without.
        populations: (groups of this rank, m) float32; None without.
    """

    values: dict[str, Any] = field(default_factory=dict)
    vectors: np.ndarray | None = None
    populations: np.ndarray | None = None

    @classmethod
    def of_pairs(cls, pairs: Eigenpairs, *, vectors: bool, **values: Any) -> Record:
        """Eigenpairs, with their `vectors` or without."""
        values |= {"energies": pairs.energies, "residuals": pairs.residuals}
        return cls(values, pairs.vectors if vectors else None, pairs.populations)

    @property
    def pairs(self) -> Eigenpairs:
        """The inverse of `of_pairs`."""
        energies = self.values["energies"]
        vectors = np.empty((0, len(energies))) if self.vectors is None else self.vectors
        return Eigenpairs(energies, vectors, self.values["residuals"], self.populations)

    @classmethod
    def of_states(cls, states: States, *, vectors: bool) -> Record:
        """The states of a k-point, with their `vectors` or without."""
        first = -1 if states.first is None else states.first
        interval = {"first": first, "lower": states.lower, "upper": states.upper}
        return cls.of_pairs(states.pairs, vectors=vectors, **interval, proved=states.proved, note=states.note)

    @property
    def states(self) -> States:
        """The inverse of `of_states`."""
        v = self.values
        first = None if v["first"] < 0 else int(v["first"])
        return States(self.pairs, first, float(v["lower"]), float(v["upper"]), bool(v["proved"]), str(v["note"]))


class Journal(Protocol):
    """Keeps units by name, such as "states/3" or "slice/3/7". All methods are collective over the ranks that share a unit."""

    def known(self, unit: str) -> Record | None:
        """What an earlier run has kept of a unit; None when it is still to be done."""

    def keep(self, unit: str, record: Record, *, instead_of: str = "") -> None:
        """Keep a finished unit, and drop those whose names begin with `instead_of`.

        Raises:
            StopRequested: on all ranks that share the unit, when the job was asked to stop; the unit is kept.
        """


class Forgetful:
    """A journal that keeps nothing."""

    def known(self, unit: str) -> Record | None:
        """Nothing."""
        return None

    def keep(self, unit: str, record: Record, *, instead_of: str = "") -> None:
        """Nothing is done."""


@dataclass(frozen=True)
class Keeper:
    """How the parts of one k-point's states are kept.

    Attributes:
        journal: where.
        unit: beginning of their names.
        vectors: whether with their vectors.
        reduced: what is kept of eigenpairs while the k-point is open.
    """

    journal: Journal
    unit: str
    vectors: bool
    reduced: Callable[[Eigenpairs], Eigenpairs]

    def known(self) -> list[Record]:
        """The first parts, as far as they were kept without a gap."""
        found: list[Record] = []
        while (record := self.journal.known(f"{self.unit}{len(found)}")) is not None:
            found.append(record)
        return found

    def keep(self, number: int, pairs: Eigenpairs, **values: Any) -> None:
        """Keep a part; see `Journal.keep`."""
        self.journal.keep(f"{self.unit}{number}", Record.of_pairs(pairs, vectors=self.vectors, **values))
