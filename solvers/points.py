"""The k-points of a spectrum, one open at a time, and what is kept of their states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np

from deeph_mpi.errors import StopRequested
from deeph_mpi.parallel.memory import return_freed_memory
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.journal import Forgetful, Journal, Keeper, Record
from deeph_mpi.solvers.options import SolveOptions
from deeph_mpi.solvers.pencil import Pencil
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.populations import mulliken_populations
from deeph_mpi.solvers.slicing import CLUSTER
from deeph_mpi.solvers.states import States

__all__ = ["Assembler", "Points"]


class Assembler(Protocol):
    """What `spectrum` needs of the matrices."""

    world: World

    def pencil(self, k: np.ndarray, former: Pencil | None = None) -> Pencil:
        """H(k), S(k), in the matrices of `former` where the pattern is the same."""

    def onsite_levels(self) -> np.ndarray:
        """Eigenvalues of the owned atoms' onsite blocks, eV."""

    def release(self) -> None:
        """No other pencil will be asked for."""


class Points:
    """The pencil and factor of one k-point at a time."""

    def __init__(
        self,
        assembler: Assembler,
        kpoints: np.ndarray,
        options: SolveOptions,
        release: bool,
        pools: Pools | None,
        journal: Journal | None,
    ) -> None:
        self.journal: Journal = journal or Forgetful()
        self.assembler, self.kpoints, self.options = assembler, kpoints, options
        self.pools = pools or Pools.single(assembler.world)
        self.mine = self.pools.mine(len(kpoints))
        self._release = release and len(kpoints) == 1
        self.factorizations = 0
        self.left_over = 0.0  # largest of all k-points so far, see `ShiftedFactor`
        self._open: tuple[int, Pencil, ShiftedFactor] | None = None

    def factor(self, index: int) -> ShiftedFactor:
        """Of k-point `index`; where proofs are asked for, with S shown to be positive definite."""
        if self._open is None or self._open[0] != index:
            former = None if self._open is None else self._open[1]
            pencil = self.assembler.pencil(self.kpoints[index], former)
            if self._release:
                self.assembler.release()
                return_freed_memory()
            if pencil is former and self._open is not None:  # the same pattern: its symbolic analysis serves again
                factor = self._open[2]
                self.left_over = max(self.left_over, factor.left_over)
                factor.renew()
            else:
                self.close()
                factor = ShiftedFactor(pencil, self.options.factor, self.options.eigensolver)
            self._open = index, pencil, factor
            if self.options.prove or self.options.ill_project > 0:
                factor.require_positive_overlap(self.options.ill_project)
        return self._open[2]

    def every(
        self,
        unit: str,
        indices: Iterable[int],
        solve: Callable[[int], States],
        note: Callable[[int, States], None] = lambda n, states: None,
        *,
        done: dict[int, States] | None = None,
        searching: bool = False,
        anew: bool = False,
    ) -> list[States]:
        """The states of all k-points: those of this pool that are not `done` from the journal, or solved and kept there.

        Vectors and populations are kept only where they may be part of the answer: states found while `searching` for E_F
        are when those nearest it are asked for, and not for a window around it.

        Args:
            unit: what the journal calls them.
            indices: k-points of this pool that are to be solved.
            solve: gives the states of one.
            note: called with the states of each.
            done: others of this pool, which need nothing.
            searching: see above.
            anew: whatever the journal knows.
        """
        mine, stopped = dict(done or {}), None
        vectors = self.options.eigenvectors and not (searching and self.options.window is not None)
        try:
            for n in indices:
                record = None if anew else self.journal.known(f"{unit}/{n}")
                if record is not None:
                    mine[n] = record.states
                else:
                    found = solve(n)
                    bare = searching and self.options.window is not None
                    mine[n] = found.without_vectors() if bare else replace(found, pairs=self._reduced(found.pairs))
                    kept = Record.of_states(mine[n], vectors=vectors)
                    self.journal.keep(f"{unit}/{n}", kept, instead_of=f"slice/{n}/")
                note(n, mine[n])
        except StopRequested as request:
            stopped = request
        self.pools.agree(stopped)
        return self.pools.all_states(mine)

    def keeper(self, index: int) -> Keeper:
        """Of the slices of k-point `index`."""
        return Keeper(self.journal, f"slice/{index}/", self.options.eigenvectors, self._reduced)

    def _reduced(self, pairs: Eigenpairs) -> Eigenpairs:
        """Eigenpairs of the k-point that is open with their populations, and vectors by orbitals where these are kept."""
        if self.options.groups is not None and self._open is not None and pairs.populations is None:
            found = mulliken_populations(self._open[1], pairs, self.options.groups, CLUSTER)
            pairs = replace(pairs, populations=found)
        if not self.options.eigenvectors:
            return replace(pairs, vectors=np.empty((0, len(pairs))))
        return pairs if self._open is None else replace(pairs, vectors=self._open[1].orbitals(pairs.vectors))

    def report(self, index: int, states: States) -> str:
        """One line about the states of a k-point."""
        k = ", ".join(f"{x:.4f}" for x in self.kpoints[index])
        energies = f" {states.energies[0]:.4f} … {states.energies[-1]:.4f} eV" if len(states) else ""
        proved = "proved" if states.proved else "not proved"
        return f"k-point {index + 1}/{len(self.kpoints)} ({k}): {len(states)} states{energies}, {proved}"

    def close(self) -> None:
        """Free what is open. Collective."""
        if self._open is not None:
            self.factorizations += self._open[2].factorizations
            self.left_over = max(self.left_over, self._open[2].left_over)
            self._open[2].destroy()
            self._open[1].destroy()
            self._open = None
