"""Eigenvalues of a Bloch pencil over k-points, with the Fermi level and what was proved about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.fermi import BOLTZMANN_EV, FermiLevel, Filling, fermi_level, frontier_states
from deeph_mpi.solvers.journal import Journal
from deeph_mpi.solvers.options import SolveOptions
from deeph_mpi.solvers.points import Assembler, Points
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.slicing import CLUSTER, nearest_states, states_in_window
from deeph_mpi.solvers.states import States
from deeph_mpi.solvers.window_parts import equal_parts, joined_states

__all__ = ["SolveOptions", "Spectrum", "spectrum"]

_TO_FIND_FERMI = 8  # states per k-point around HOMO and LUMO when a window is asked for


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
    journal: Journal | None = None,
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
        journal: of this pool, keeps its finished k-points and slices; those that it knows are not computed again.

    Raises:
        StopRequested: on all ranks, when the job was asked to stop; what is finished is in the journals.
        SolverError: indefinite S, H not Hermitian, no memory, no electron count for target "fermi", or no convergence.
    """
    points = Points(assembler, np.asarray(kpoints, dtype=np.float64).reshape(-1, 3), options, release, pools, journal)
    share = np.ones(len(points.kpoints)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = share / share.sum()
    try:
        states, fermi = _solve(points, share, options, progress)
    finally:
        points.close()
    notes = sorted({f"not proved at some k-points: {s.note}" for s in states if not s.proved})
    if options.factor.drop > 0:
        left = max(points.pools.gathered(points.left_over))
        notes.append(
            f"second order estimates errors of energies by blocks left out of the factor at {left:.1e} eV at most"
        )
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
    points: Points, weights: np.ndarray, options: SolveOptions, progress: Callable[[str], None]
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
        target, count = options.target, options.states or 1
        states = points.every(
            "states",
            points.mine,
            lambda n: _nearest(points, n, target, count),
            lambda n, found: progress(points.report(n, found)),
        )
    return states, None if filling is None else fermi_level(states, weights, filling, options.temperature)


def _at_fermi_level(
    points: Points, weights: np.ndarray, filling: Filling, options: SolveOptions, progress: Callable[[str], None]
) -> tuple[list[States], FermiLevel]:
    """First states around HOMO and LUMO of every k-point, which give E_F; then what was asked for around that."""
    window = options.window
    count = options.states if options.states is not None else _TO_FIND_FERMI
    states = _around_fermi(points, filling, count, progress)
    fermi = _certain_fermi_level(points, states, weights, filling, options.temperature)
    if window is not None:
        del states
        return _windows(points, fermi.energy, window, progress), fermi
    mine = {n: states[n].nearest(fermi.energy, count, CLUSTER) for n in points.mine}
    short = [n for n in points.mine if not _suffices(states[n], mine[n], fermi.energy, count)]
    again = reversed(short)  # the last k-point is still factored
    return points.every("states", again, lambda n: _nearest(points, n, fermi.energy, count), done=mine), fermi


def _around_fermi(points: Points, filling: Filling, count: int, progress: Callable[[str], None]) -> list[States]:
    """Some more than `count` states at every k-point with its HOMO and LUMO, near E_F as the k-points so far give it."""
    options = points.options
    guess = options.guess if options.guess is not None else _guess(points.assembler, filling)
    homo, lumo = -np.inf, np.inf

    def solve(n: int) -> States:
        at = guess if homo == -np.inf else (homo + lumo) / 2
        return frontier_states(points.factor(n), filling, at, count + count // 4 + 2, prove=options.prove)

    def note(n: int, states: States) -> None:
        nonlocal homo, lumo
        homo, lumo = max(homo, states.level(filling.homo)), min(lumo, states.level(filling.lumo))
        if options.window is None:
            progress(points.report(n, states))

    return points.every("fermi", points.mine, solve, note, searching=True)


def _nearest(points: Points, n: int, target: float, count: int) -> States:
    return nearest_states(points.factor(n), target, count, prove=points.options.prove).nearest(target, count, CLUSTER)


def _suffices(states: States, trimmed: States, center: float, count: int) -> bool:
    """Whether `states` are complete as far from `center`, to both sides, as the `count` of them in `trimmed` reach."""
    radius = np.abs(trimmed.energies - center).max() if len(trimmed) >= count else np.inf
    return bool(states.lower <= center - radius and center + radius <= states.upper)


def _certain_fermi_level(
    points: Points, states: list[States], weights: np.ndarray, filling: Filling, temperature: float
) -> FermiLevel:
    """The Fermi level; where a metal's E_F ± 10 kT leaves the states at hand, those k-points are solved again there."""
    margin = 11 * BOLTZMANN_EV * temperature
    for attempt in range(4):
        fermi = fermi_level(states, weights, filling, temperature)
        if fermi is None:
            raise SolverError("no Fermi level: at some k-point HOMO or LUMO is not among the states found")
        if fermi.certain or attempt == 3 or not points.options.prove:
            break
        low, high = fermi.energy - margin, fermi.energy + margin
        mine = {n: states[n] for n in points.mine}

        def wider(n: int, low: float = low, high: float = high) -> States:
            found = states_in_window(points.factor(n), min(states[n].lower, low), max(states[n].upper, high))
            return states[n] if found.first is None else found  # states are missing from it: E_F stays uncertain

        short = [n for n, s in mine.items() if low < s.lower or high > s.upper]
        states[:] = points.every("fermi", short, wider, done=mine, searching=True, anew=True)
    return fermi


def _windows(
    points: Points, center: float, window: tuple[float, float], progress: Callable[[str], None]
) -> list[States]:
    lower, upper = center + window[0], center + window[1]
    parts = points.pools.parts(len(points.kpoints))
    if parts > 1:
        return _divided_windows(points, parts, lower, upper, progress)

    def solve(n: int) -> States:
        return states_in_window(points.factor(n), lower, upper, points.keeper(n))

    return points.every("states", points.mine, solve, lambda n, states: progress(points.report(n, states)))


def _divided_windows(
    points: Points, parts: int, lower: float, upper: float, progress: Callable[[str], None]
) -> list[States]:
    """The window of every k-point, a part of it by each of the `parts` pools that share the k-point."""
    pools, journal, unit = points.pools, points.journal, f"part of {parts}"
    n, part = divmod(pools.index, parts)
    edges = np.empty(0)
    if not all(pools.gathered(journal.known(f"{unit}/{pools.index}") is not None)):
        edges = equal_parts(points.factor(n), pools, parts, lower, upper)
    found = points.every(
        unit,
        [pools.index],
        lambda _: states_in_window(points.factor(n), edges[part], edges[part + 1]),
        lambda _, states: progress(points.report(n, states)),
    )
    return [joined_states(found[k * parts : (k + 1) * parts]) for k in range(len(points.kpoints))]


def _guess(assembler: Assembler, filling: Filling) -> float:
    """Where the onsite levels of all atoms, filled in order, end: eV, good to some eV."""
    edges = np.linspace(-200.0, 200.0, 8001)
    local, _ = np.histogram(np.clip(assembler.onsite_levels(), edges[0], edges[-1]), edges)
    filled = np.cumsum(assembler.world.comm.allreduce(local))
    return float(edges[1 + min(int(np.searchsorted(filled, filling.levels)), len(edges) - 2)])


def _table(
    points: Points,
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
