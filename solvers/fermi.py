"""The Fermi level from the number of electrons: levels are indexed by inertia, nobody has to guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.slicing import nearest_states, states_in_window
from deeph_mpi.solvers.states import States

__all__ = ["BOLTZMANN_EV", "FermiLevel", "Filling", "fermi_level", "frontier_states", "occupations"]

BOLTZMANN_EV = 8.617333262e-5  # eV/K, CODATA 2018
_SEARCH = 60  # factorizations spent on bracketing a level at most
_METALLIC = 1e-6  # eV: a smaller gap is none
_CLUSTER_WIDTH = 1e-4  # eV: a narrower bracket is not bisected further, however many states it holds


@dataclass(frozen=True)
class Filling:
    """How electrons fill the levels of one k-point at zero temperature.

    Attributes:
        electrons: of the cell.
        degeneracy: electrons a level holds: 2, or 1 for spinors.
    """

    electrons: float
    degeneracy: int

    @property
    def levels(self) -> float:
        """Number of filled levels per k-point, fractional for a partly filled one."""
        return self.electrons / self.degeneracy

    @property
    def homo(self) -> int:
        """Index of the highest level that holds electrons."""
        return int(np.ceil(self.levels - 1e-9)) - 1

    @property
    def lumo(self) -> int:
        """Index of the lowest level with room left; `homo` itself when that is partly filled."""
        return int(np.floor(self.levels + 1e-9))


@dataclass(frozen=True)
class FermiLevel:
    """Result of `fermi_level`.

    Attributes:
        energy: E_F in eV: the middle of the gap, or for a metal where the occupations sum to the electron count.
        homo, lumo: highest occupied and lowest empty energy over all k-points, eV; of a metal the nearest found at or
            below E_F and above it, NaN where the states at hand end before.
        gap: lumo − homo, eV; 0 for a metal.
        certain: every state that was counted for it lies in a proved interval.
    """

    energy: float
    homo: float
    lumo: float
    gap: float
    certain: bool


def frontier_states(factor: ShiftedFactor, filling: Filling, guess: float, count: int, *, prove: bool = True) -> States:
    """States that contain both HOMO and LUMO of this k-point, about `count` of them. Collective.

    Starts at `guess`; inertia there says on which side, and how many levels away, the filling lies. Brackets, then
    bisects and interpolates the counts until the filling is within reach of one Krylov run at the last shift.

    Args:
        factor: of the pencil; must count inertia.
        filling: electrons.
        guess: eV, any finite energy.
        count: states wanted around the Fermi level.
        prove: see `nearest_states`.

    Raises:
        SolverError: no inertia, more electrons than the basis holds, no bracket found, or a state that inertia counts
            between HOMO and LUMO was not found.
    """
    if not factor.counts_inertia:
        raise SolverError(
            'target = "fermi" needs inertia, that is real PETSc scalars and MUMPS; give the target as an energy in eV'
        )
    if not 0 < filling.levels < factor.pencil.dimension:
        raise SolverError(
            f"{filling.electrons:g} electrons do not partly fill {factor.pencil.dimension} levels of "
            f"{filling.degeneracy}: check the electron count, or give the target in eV"
        )
    shift = _shift_near(factor, filling.lumo, guess, max(1, count // 4))
    states = nearest_states(factor, shift, count, shift, prove=prove)
    if states.first is None:
        raise SolverError(f"the states around {shift:.4f} eV could not be indexed: {states.note}")
    homo, lumo = (_level(factor, states, index, count) for index in (filling.homo, filling.lumo))
    if states.energy(filling.homo) is not None and states.energy(filling.lumo) is not None:
        return states
    states = states_in_window(factor, homo - 1e-3, lumo + 1e-3)
    for index in (filling.homo, filling.lumo):
        states.level(index)
    return states


def fermi_level(
    states: Sequence[States], weights: np.ndarray, filling: Filling, temperature: float
) -> FermiLevel | None:
    """Fermi level over k-points; None when the states at hand do not reach it. Local: the same on all ranks.

    An insulator's is the middle of its gap. In a metal the Fermi-Dirac occupations at `temperature` (K), summed with
    `weights` (nk,), make up the electron count; levels below each set of states count as filled, above as empty.
    """
    if any(s.first is None for s in states):
        return None
    homos = [s.energy(filling.homo) for s in states]
    lumos = [s.energy(filling.lumo) for s in states]
    certain = all(s.proved for s in states)
    if any(e is None for e in homos + lumos):
        return None
    homo, lumo = max(e for e in homos if e is not None), min(e for e in lumos if e is not None)
    if lumo - homo > _METALLIC:
        return FermiLevel((homo + lumo) / 2, homo, lumo, lumo - homo, certain)
    kt = BOLTZMANN_EV * temperature
    low = min(float(s.energies[0]) for s in states) - 40 * kt
    high = max(float(s.energies[-1]) for s in states) + 40 * kt
    for _ in range(200):
        middle = (low + high) / 2
        if _filled(states, weights, middle, temperature) < filling.levels:
            low = middle
        else:
            high = middle
    energy = (low + high) / 2
    reach = all(s.lower < energy - 10 * kt and s.upper > energy + 10 * kt for s in states)
    every = np.concatenate([s.energies for s in states])
    below, above = every[every <= energy], every[every > energy]
    return FermiLevel(
        energy,
        float(below.max()) if len(below) else float("nan"),
        float(above.min()) if len(above) else float("nan"),
        0.0,
        certain and reach,
    )


def occupations(energies: np.ndarray, fermi: float, temperature: float) -> np.ndarray:
    """Fermi-Dirac occupations, 0 … 1, of `energies` (eV) at `temperature` (K); shape of `energies`."""
    return 0.5 * (1 - np.tanh((energies - fermi) / (2 * BOLTZMANN_EV * temperature)))


def _filled(states: Sequence[States], weights: np.ndarray, energy: float, temperature: float) -> float:
    total = 0.0
    for s, weight in zip(states, weights, strict=True):
        total += weight * ((s.first or 0) + occupations(s.energies, energy, temperature).sum())
    return total / float(np.sum(weights))


def _shift_near(factor: ShiftedFactor, index: int, guess: float, within: int) -> float:
    """A factored shift with `index` ± `within` states below it, by bracketing, then interpolation and bisection."""
    shift, count = factor.below(guess)
    low: tuple[float, int] | None = None
    high: tuple[float, int] | None = None
    step = 0.5
    for attempt in range(_SEARCH):
        if abs(count - index) <= within:
            return shift
        if count < index:
            low = (shift, count)
        else:
            high = (shift, count)
        if low is None or high is None:
            shift += step if high is None else -step
            step *= 2
        else:
            fraction = 0.5 if attempt % 2 else (index - low[1]) / (high[1] - low[1])
            shift = low[0] + min(max(fraction, 0.05), 0.95) * (high[0] - low[0])
            if high[0] - low[0] < _CLUSTER_WIDTH:  # more states in a cluster than are wanted: start from its edge
                return factor.factorize(low[0])
        shift, count = factor.below(shift)
    raise SolverError(f"no energy with {index} states below it was found near {guess:.3f} eV: check the electron count")


def _level(factor: ShiftedFactor, states: States, index: int, count: int) -> float:
    """Energy of the state with this index, wherever it is: outward from `states` until inertia has passed it."""
    energy = states.energy(index)
    if energy is not None:
        return energy
    upward = index >= (states.first or 0) + len(states)
    inner = states.upper if upward else states.lower
    step = 0.5
    outer, below = factor.below(inner + (step if upward else -step))
    while (below <= index) if upward else (below > index):
        step *= 2
        if step > 1e4:
            raise SolverError(f"state {index} was not found beyond {inner:.3f} eV")
        outer, below = factor.below(inner + (step if upward else -step))
    while abs(below - index) > max(count, 2) and abs(outer - inner) > _CLUSTER_WIDTH:
        middle, here = factor.below((inner + outer) / 2)
        if (here > index) == upward:
            outer, below = middle, here
        else:
            inner = middle
    return states_in_window(factor, min(inner, outer), max(inner, outer)).level(index)
