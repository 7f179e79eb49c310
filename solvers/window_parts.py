"""One window divided among pools of ranks: each finds the states of a part, and inertias join the parts without a gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.states import States

__all__ = ["equal_parts", "joined_states"]

_EVEN = 0.05  # share of equal widths in the edges, so that no part is empty where all states lie in one place


def equal_parts(factor: ShiftedFactor, pools: Pools, parts: int, lower: float, upper: float) -> np.ndarray:
    """Edges of parts of [lower, upper] with about equal numbers of states: (parts + 1,) eV. Collective over all pools.

    Each of the `parts` pools of a k-point, which are neighbours, counts the states below one energy; between those the
    counts are interpolated.

    Args:
        factor: of this pool's pencil.
        pools: all of them.
        parts: pools of each k-point.
        lower, upper: eV.
    """
    kpoint, mine = divmod(pools.index, parts)
    energy = float(np.linspace(lower, upper, parts)[mine])
    found = pools.gathered(factor.below(energy, -1.0 if mine == 0 else 1.0))
    energies, counts = np.array(found[kpoint * parts : (kpoint + 1) * parts]).T
    rising = counts + np.linspace(0.0, 1e-3, parts)
    inner = np.interp(np.linspace(rising[0], rising[-1], parts + 1)[1:-1], rising, energies)
    even = np.linspace(lower, upper, parts + 1)
    return (1 - _EVEN) * np.array([lower, *inner, upper]) + _EVEN * even


def joined_states(parts: Sequence[States]) -> States:
    """Neighbouring parts of one window, from below, as one set.

    A level at an edge may be in both parts, or the shifts there may have been moved apart: the indices, which inertia
    gives, tell what is twice and what is missing.
    """
    whole = parts[0]
    for part in parts[1:]:
        if whole.first is None or part.first is None:
            note = next(p.note for p in (whole, part) if p.first is None)
            pairs, first, proved = Eigenpairs.joined([whole.pairs, part.pairs]), None, False
        else:
            twice = whole.first + len(whole) - part.first
            kept = part.pairs.take(np.arange(min(max(twice, 0), len(part)), len(part)))
            pairs, first = Eigenpairs.joined([whole.pairs, kept]), whole.first
            proved, note = whole.proved and part.proved, part.note if whole.proved else whole.note
            if twice < 0:
                first, proved, note = None, False, f"{-twice} states are missing at {part.lower:.4f} eV"
        whole = States(pairs, first, whole.lower, part.upper, proved, note)
    return whole
