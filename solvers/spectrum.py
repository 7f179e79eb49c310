"""Eigenvalues of a Bloch pencil over k-points, with the Fermi level and what was proved about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.memory import return_freed_memory
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.fermi import BOLTZMANN_EV, FermiLevel, Filling, fermi_level, frontier_states
from deeph_mpi.solvers.pencil import Pencil
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.populations import mulliken_populations
from deeph_mpi.solvers.slicing import CLUSTER, nearest_states, states_in_window
from deeph_mpi.solvers.states import States

__all__ = ["Assembler", "SolveOptions", "Spectrum", "spectrum"]

_TO_FIND_FERMI = 8  # states per k-point around HOMO and LUMO when a window is asked for


class Assembler(Protocol):
    """What `spectrum` needs of the matrices."""

    world: World

    def pencil(self, k: np.ndarray, former: Pencil | None = None) -> Pencil:
        """H(k), S(k), in the matrices of `former` where the pattern is the same."""

    def onsite_levels(self) -> np.ndarray:
        """Eigenvalues of the owned atoms' onsite blocks, eV."""

    def release(self) -> None:
        """No other pencil will be asked for."""


@dataclass(frozen=True)
class SolveOptions:
    """What is asked of a spectrum.

    Attributes:
        target: energy in eV, or "fermi" to compute it from `electrons`.
        states: how many nearest the target (for "fermi": nearest the Fermi level of all k-points together), or None.
            More where a degenerate level would be cut.
        window: (lower, upper) in eV around the target, all states in it; exactly one of both is given.
        electrons: of the cell; None when unknown, then no Fermi level is computed.
        degeneracy: electrons per level, 2 or 1 (spinors).
        guess: of the Fermi level in eV, saves factorizations; None: estimated from the onsite blocks.
        temperature: K, of the occupations that fix the Fermi level of a metal.
        eigenvectors: whether they are kept.
        groups: (rows of this rank,) group of orbitals of every row, for the populations of the states; None: not computed.
        factor: how matrices are factored.
        ill_project: eigenvectors of S with an eigenvalue below this are projected out; 0: none.
        eigensolver: see `ShiftedFactor`.
        prove: whether S ≻ 0 is shown and the states nearest an energy are counted, three factorizations beside the one
            that finds them. Those in a window are always counted.
    """

    target: float | Literal["fermi"] = "fermi"
    states: int | None = 40
    window: tuple[float, float] | None = None
    electrons: float | None = None
    degeneracy: int = 2
    guess: float | None = None
    temperature: float = 300.0
    eigenvectors: bool = False
    groups: np.ndarray | None = None
    factor: FactorOptions = field(default_factory=FactorOptions)
    ill_project: float = 0.0
    eigensolver: Literal["lanczos", "krylov-schur"] = "lanczos"
    prove: bool = True

    @property
    def filling(self) -> Filling | None:
        """How electrons fill levels; None when their number is unknown."""
        return None if self.electrons is None else Filling(self.electrons, self.degeneracy)


@dataclass
class Spectrum:
    """States of all k-points.

    Attributes:
        kpoints: (nk, 3) fractional.
        weights: (nk,) of the k-points in sums over the zone; they sum to 1.
        energies: (nk, n) eV ascending, NaN-padded.
        residuals: (nk, n) ‖H x − E S x‖₂ / ‖S x‖₂ in eV, NaN-padded.
        first: (nk,) int64, index of the lowest state given among all states of the k-point; −1 when not known.
        verified: (nk,) bool, the states given are proved to be all in their interval.
        intervals: (nk, 2) eV, where they are all.
        fermi: the Fermi level, None when not determined.
        vectors: per k-point (rows of this rank, states) S-orthonormal, or None when not kept.
        populations: per k-point (groups of this rank, states) float32, or None when not asked for.
        factorizations: how many were made.
        notes: what a reader must know, one sentence each.
    """

    kpoints: np.ndarray
    weights: np.ndarray
    energies: np.ndarray
    residuals: np.ndarray
    first: np.ndarray
    verified: np.ndarray
    intervals: np.ndarray
    fermi: FermiLevel | None
    vectors: list[np.ndarray] | None
    populations: list[np.ndarray] | None
    factorizations: int
    notes: list[str] = field(default_factory=list)


def spectrum(
    assembler: Assembler,
    kpoints: np.ndarray,
    options: SolveOptions,
    weights: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda message: None,
    *,
    release: bool = False,
    pools: Pools | None = None,
) -> Spectrum:
    """Solve at every k-point (nk, 3). Collective.

    Args:
        assembler: gives the pencil of each k, on the ranks of a pool.
        kpoints: fractional.
        options: what is asked.
        weights: (nk,) of a mesh reduced by symmetry; equal when None.
        progress: called with one line per k-point of the own pool, on every rank.
        release: whether the assembler may let go of its blocks when no other pencil will be asked of it.
        pools: which ranks solve which k-points; None: all ranks all of them. With several, no vectors are kept.

    Raises:
        SolverError: indefinite S, H not Hermitian, no memory, no electron count for target "fermi", or no convergence.
    """
    points = _Points(assembler, np.asarray(kpoints, dtype=np.float64).reshape(-1, 3), options, release, pools)
    share = np.ones(len(points.kpoints)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = share / share.sum()
    try:
        states, fermi = _solve(points, share, options, progress)
    finally:
        points.close()
    notes = sorted({f"not proved at some k-points: {s.note}" for s in states if not s.proved})
    if options.electrons is None:
        notes.append("no Fermi level: the number of electrons is not known")
    elif fermi is None:
        indexed = all(s.first is not None for s in states)
        reason = "the states around it are not among those computed" if indexed else "states could not be counted"
        notes.append(f"no Fermi level: {reason}")
    elif not fermi.certain:
        notes.append("the Fermi level rests on states that were not all proved")
    return _table(points, share, states, fermi, options, notes)


def _solve(
    points: _Points, weights: np.ndarray, options: SolveOptions, progress: Callable[[str], None]
) -> tuple[list[States], FermiLevel | None]:
    filling = options.filling
    if options.target == "fermi":
        if filling is None:
            raise SolverError(
                'target = "fermi" needs the number of electrons, which is not known: add "occupation" to info.json, '
                "or give the target in eV"
            )
        return _at_fermi_level(points, weights, filling, options, progress)
    if options.window is not None:
        states = _windows(points, options.target, options.window, progress)
    else:
        mine = {}
        for n in points.mine:
            mine[n] = _nearest(points, n, options.target, options.states or 1)
            progress(points.report(n, mine[n]))
        states = points.pools.all_states(mine)
    return states, None if filling is None else fermi_level(states, weights, filling, options.temperature)


def _at_fermi_level(
    points: _Points, weights: np.ndarray, filling: Filling, options: SolveOptions, progress: Callable[[str], None]
) -> tuple[list[States], FermiLevel]:
    """First states around HOMO and LUMO of every k-point, which give E_F; then what was asked for around that."""
    window = options.window
    count = options.states if options.states is not None else _TO_FIND_FERMI
    states = _around_fermi(points, filling, count, progress)
    fermi = _certain_fermi_level(points, states, weights, filling, options.temperature)
    if window is not None:
        del states
        return _windows(points, fermi.energy, window, progress), fermi
    mine = {}
    for n in reversed(points.mine):  # the last k-point is still factored
        mine[n] = states[n].nearest(fermi.energy, count, CLUSTER)
        if not _suffices(states[n], mine[n], fermi.energy, count):
            mine[n] = _nearest(points, n, fermi.energy, count)
    return points.pools.all_states(mine), fermi


def _around_fermi(points: _Points, filling: Filling, count: int, progress: Callable[[str], None]) -> list[States]:
    """Some more than `count` states at every k-point with its HOMO and LUMO, near E_F as the k-points so far give it."""
    options = points.options
    guess = options.guess if options.guess is not None else _guess(points.assembler, filling)
    homo, lumo = -np.inf, np.inf
    mine = {}
    for n in points.mine:
        states = frontier_states(
            points.factor(n), filling, guess, count + count // 4 + 2, prove=options.prove
        )
        homo, lumo = max(homo, states.level(filling.homo)), min(lumo, states.level(filling.lumo))
        guess = (homo + lumo) / 2
        mine[n] = points.kept(states, searching=True)
        if options.window is None:
            progress(points.report(n, states))
    return points.pools.all_states(mine)


def _nearest(points: _Points, n: int, target: float, count: int) -> States:
    found = nearest_states(points.factor(n), target, count, prove=points.options.prove)
    return points.kept(found.nearest(target, count, CLUSTER))


def _suffices(states: States, trimmed: States, center: float, count: int) -> bool:
    """Whether `states` are complete as far from `center`, to both sides, as the `count` of them in `trimmed` reach."""
    radius = np.abs(trimmed.energies - center).max() if len(trimmed) >= count else np.inf
    return bool(states.lower <= center - radius and center + radius <= states.upper)


def _certain_fermi_level(
    points: _Points, states: list[States], weights: np.ndarray, filling: Filling, temperature: float
) -> FermiLevel:
    """The Fermi level; where a metal's E_F ± 10 kT leaves the states at hand, those k-points are solved again there."""
    margin = 11 * BOLTZMANN_EV * temperature
    for attempt in range(4):
        fermi = fermi_level(states, weights, filling, temperature)
        if fermi is None:
            raise SolverError("no Fermi level: at some k-point HOMO or LUMO is not among the states found")
        if fermi.certain or attempt == 3 or not points.options.prove:
            break
        mine = {n: states[n] for n in points.mine}
        for n, s in mine.items():
            low, high = min(s.lower, fermi.energy - margin), max(s.upper, fermi.energy + margin)
            if low < s.lower or high > s.upper:
                wider = states_in_window(points.factor(n), low, high)
                if wider.first is not None:  # else states are missing from it: E_F stays uncertain
                    mine[n] = points.kept(wider, searching=True)
        states[:] = points.pools.all_states(mine)
    return fermi


def _windows(
    points: _Points, center: float, window: tuple[float, float], progress: Callable[[str], None]
) -> list[States]:
    mine = {}
    for n in points.mine:
        mine[n] = points.kept(states_in_window(points.factor(n), center + window[0], center + window[1]))
        progress(points.report(n, mine[n]))
    return points.pools.all_states(mine)


def _guess(assembler: Assembler, filling: Filling) -> float:
    """Where the onsite levels of all atoms, filled in order, end: eV, good to some eV."""
    edges = np.linspace(-200.0, 200.0, 8001)
    local, _ = np.histogram(np.clip(assembler.onsite_levels(), edges[0], edges[-1]), edges)
    filled = np.cumsum(assembler.world.comm.allreduce(local))
    return float(edges[1 + min(int(np.searchsorted(filled, filling.levels)), len(edges) - 2)])


class _Points:
    """The pencil and factor of one k-point at a time."""

    def __init__(
        self,
        assembler: Assembler,
        kpoints: np.ndarray,
        options: SolveOptions,
        release: bool,
        pools: Pools | None,
    ) -> None:
        self.assembler, self.kpoints, self.options = assembler, kpoints, options
        self.pools = pools or Pools.single(assembler.world)
        self.mine = self.pools.mine(len(kpoints))
        self._release = release and len(kpoints) == 1
        self.factorizations = 0
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
                factor.renew()
            else:
                self.close()
                factor = ShiftedFactor(pencil, self.options.factor, self.options.eigensolver)
            self._open = index, pencil, factor
            if self.options.prove or self.options.ill_project > 0:
                factor.require_positive_overlap(self.options.ill_project)
        return self._open[2]

    def kept(self, states: States, *, searching: bool = False) -> States:
        """What is kept of a k-point that is still open: vectors and populations only where they may be part of the answer.

        States found while `searching` for E_F are when those nearest it are asked for, and not for a window around it.
        """
        wanted = not (searching and self.options.window is not None)
        if wanted and self.options.groups is not None and self._open is not None:
            found = mulliken_populations(self._open[1], states.pairs, self.options.groups, CLUSTER)
            states = replace(states, pairs=replace(states.pairs, populations=found))
        return states if wanted and self.options.eigenvectors else states.without_vectors()

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
            self._open[2].destroy()
            self._open[1].destroy()
            self._open = None


def _table(
    points: _Points,
    weights: np.ndarray,
    states: list[States],
    fermi: FermiLevel | None,
    options: SolveOptions,
    notes: list[str],
) -> Spectrum:
    width = max(len(s) for s in states)
    energies, residuals = np.full((2, len(states), width), np.nan)
    for n, s in enumerate(states):
        energies[n, : len(s)] = s.energies
        residuals[n, : len(s)] = s.pairs.residuals
    return Spectrum(
        points.kpoints,
        weights,
        energies,
        residuals,
        np.array([-1 if s.first is None else s.first for s in states], dtype=np.int64),
        np.array([s.proved for s in states]),
        np.array([[s.lower, s.upper] for s in states]),
        fermi,
        [s.pairs.vectors for s in states] if options.eigenvectors else None,
        None if options.groups is None else [p for s in states if (p := s.pairs.populations) is not None],
        points.pools.sum(points.factorizations),
        notes,
    )
