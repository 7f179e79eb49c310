"""The states nearest an energy, or in a window, by shift-and-invert, complete because inertia counts them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.journal import Keeper
from deeph_mpi.solvers.krylov import krylov_schur
from deeph_mpi.solvers.lanczos import block_lanczos
from deeph_mpi.solvers.states import States

__all__ = ["CLUSTER", "nearest_states", "states_in_window"]

CLUSTER = 1e-6  # eV: states closer than this belong together and are never separated
_KRYLOV_TOLERANCE = 1e-10
_LANCZOS_TOLERANCE = 1e-8  # of vectors; energies are then exact to its square
_RESIDUAL = 1e-6  # eV: largest true residual of an accepted pair; its energy is then exact to the square of that / gap
_SLICE = 120  # states between two shifts, about, and of one Krylov run at most
_ROUNDS = 12
_SPARE = 2  # states sought beyond those asked for where none are counted


def nearest_states(
    factor: ShiftedFactor, target: float, count: int, shift: float | None = None, *, prove: bool = True
) -> States:
    """The `count` states nearest `target`, and a few more that came with them. Collective.

    States are gathered until two energies in gaps, below and above what was asked for, enclose as many states as the
    difference of their inertias. `States.nearest` trims the result.

    Args:
        factor: of the pencil.
        target: eV.
        count: at least 1; more than the dimension means all.
        shift: where to factor, eV; by default at `target`. One already factored near the target saves a factorization.
        prove: whether two more factorizations, at the ends, count them.

    Raises:
        SolverError: the factorization failed, or no state converged.
    """
    shift = factor.factorize(target if shift is None else shift)
    dimension = factor.pencil.dimension
    count = min(count, dimension)
    # More than asked for: to find gaps to count in, or, where nothing is counted, in case the last came out of order.
    want = min(dimension, count + (max(6, count // 8) if prove else _SPARE))
    pairs = Eigenpairs.none(factor.pencil)
    for _ in range(_ROUNDS):
        pairs, progress = _gather(factor, pairs, want)
        if len(pairs) == dimension:
            # A complete S-orthonormal set is its own proof, of S ≻ 0 too.
            return States(pairs, 0, -np.inf, np.inf, True, "all states of the matrix were found")
        if len(pairs) < count:
            if progress:
                continue
            advice = ": a smaller factorization.drop_tolerance may help" if factor.options.drop > 0 else ""
            raise SolverError(f"only {len(pairs)} of the {count} states near {target:.4f} eV were found{advice}")
        if not prove:
            if progress and len(pairs) < want:
                continue
            return _uncounted(factor, pairs, shift, min(want, len(pairs)))
        ends = _ends_in_gaps(pairs.energies, shift, target, count)
        if ends is None:
            if not progress:
                break
            want = min(dimension, len(pairs) + max(8, count // 3))
            continue
        found, missing = _counted(factor, pairs, *ends)
        if missing == 0 or not progress:
            return found
        factor.factorize(shift)
        want = min(dimension, len(pairs) + max(missing, 0) + 2)
    return States(pairs, None, target, target, False, "no gap found to count in")


def states_in_window(factor: ShiftedFactor, lower: float, upper: float, keeper: Keeper | None = None) -> States:
    """All states with lower ≤ E ≤ upper. Collective.

    Inertia at both ends gives their number. Shifts are placed between them so that about as many states lie between any
    two (interpolated from the inertias so far); each is factored once, which gives the inertia there too, and Krylov runs
    at it until the gap to the former one holds the states that the inertias count (multi-shift spectrum slicing: Campos,
    Roman, Numer. Algorithms 60, 279 (2012)).

    Args:
        factor: of the pencil.
        lower, upper: eV.
        keeper: of the states between two shifts, where there are several.

    Raises:
        SolverError: the factorization failed, or PETSc gives no inertia (complex scalars or no MUMPS).
        StopRequested: see `deeph_mpi.solvers.journal`.
    """
    if not factor.counts_inertia or factor.options.drop > 0:
        raise SolverError(
            "a window needs inertia, that is real PETSc scalars, MUMPS and all blocks; ask for `states` instead"
        )
    known = [] if keeper is None else keeper.known()
    if known:
        past = known[-1].values
        low, below, high, through = (past[name] for name in ("low", "below", "high", "through"))
        left = float(past["shift"]), int(past["count"])
        factor.inertias.update(zip(past["shifts"].tolist(), past["counts"].tolist(), strict=True))
        complete, note = bool(past["complete"]), str(past["note"])
    else:
        (low, below), (high, through) = factor.below(lower, -1.0), factor.below(upper, 1.0)
        left, complete, note = (low, below), True, "inertia at both ends"
    total = through - below
    slices = -(-total // _SLICE)
    pairs = Eigenpairs.none(factor.pencil)
    parts = [record.pairs for record in known]
    for n in range(len(known), slices):
        shift = _energy_at(factor, below + total * (n + 0.5) / slices, left[0], high)
        shift = factor.factorize(shift)
        here = (shift, factor.inertias[shift])
        pairs = _complete(factor, pairs, left, here)
        gaps = [(left, here)]
        if n == slices - 1:
            pairs = _complete(factor, pairs, here, (high, through))
            gaps.append((here, (high, through)))
        for (begin, count), (end, upto) in gaps:
            found = pairs.take((pairs.energies > begin) & (pairs.energies < end))
            if len(found) != upto - count:
                complete = False
                note = f"inertia counts {upto - count} states in {begin:.4f} … {end:.4f} eV, {len(found)} were found"
        found = pairs.take((pairs.energies > left[0]) & (pairs.energies < gaps[-1][1][0]))
        parts.append(found if keeper is None else keeper.reduced(found))
        left, pairs = here, pairs.take(pairs.energies > shift)
        if keeper is not None and slices > 1:
            ends = {"low": low, "below": below, "high": high, "through": through, "shift": shift, "count": here[1]}
            shifts, counts = np.array(list(factor.inertias)), np.array(list(factor.inertias.values()))
            keeper.keep(n, parts[-1], **ends, shifts=shifts, counts=counts, complete=complete, note=note)
    done = Eigenpairs.joined(parts) if parts else pairs
    proved, note = _proof(factor, note) if complete else (False, note)
    states = States(done, below if complete else None, low, high, proved, note)
    return states.between(lower - CLUSTER, upper + CLUSTER)


_NO_INERTIA = "no inertia: complex PETSc scalars or no MUMPS"


def _proof(factor: ShiftedFactor, how: str) -> tuple[bool, str]:
    if not factor.counts_inertia:
        return False, _NO_INERTIA
    if factor.doubt:
        return False, factor.doubt
    return (True, how) if factor.overlap_positive else (False, "S was not shown to be positive definite")


def _counted(factor: ShiftedFactor, pairs: Eigenpairs, lower: float, upper: float) -> tuple[States, int]:
    """The pairs within (lower, upper), with how many more the inertias at both ends ask for."""
    first, missing = None, 0
    if factor.counts_inertia:
        (lower, first), (upper, through) = factor.below(lower, -1.0), factor.below(upper)
    inside = pairs.take((pairs.energies > lower) & (pairs.energies < upper))
    proved, note = _proof(factor, "inertia at both ends")
    if first is not None:
        missing = through - first - len(inside)
    if missing != 0:
        note = (
            f"inertia counts {len(inside) + missing} states in {lower:.4f} … {upper:.4f} eV, {len(inside)} were found"
        )
        first, proved = None, False
    return States(inside, first, lower, upper, proved, note), missing


def _uncounted(factor: ShiftedFactor, pairs: Eigenpairs, shift: float, count: int) -> States:
    """The `count` pairs nearest the shift, taken for all that there are as far as they reach, indexed by its inertia."""
    distance = np.abs(pairs.energies - shift)
    reach = float(np.sort(distance)[count - 1])
    found = pairs.take(distance <= reach)
    first = factor.inertias[shift] - factor.below_among(found) if factor.counts_inertia else None
    note = factor.doubt or "no proof was asked for (solve.prove)"
    return States(found, first, shift - reach, shift + reach, False, note)


def _gather(factor: ShiftedFactor, pairs: Eigenpairs, want: int) -> tuple[Eigenpairs, bool]:
    """One Krylov run for the states near the shift that are missing to `want`; says whether it added any."""
    missing = want - len(pairs)
    if factor.eigensolver == "lanczos":
        new = block_lanczos(factor, missing, pairs.vectors, _LANCZOS_TOLERANCE)
    else:  # rounding brings the second copy of each doubled pair within the same run, so both are asked for
        new = krylov_schur(factor, missing * factor.pencil.multiplicity, pairs.vectors, _KRYLOV_TOLERANCE)
    # where blocks are left out, residuals hold much of states far away, which moves energies by no more than `left_over`
    tolerance = np.inf if factor.options.drop > 0 else _RESIDUAL
    larger = pairs.extended(factor.pencil, factor.corrected(new), tolerance)
    return larger, len(larger) > len(pairs)


def _ends_in_gaps(energies: np.ndarray, shift: float, target: float, count: int) -> tuple[float, float] | None:
    """Energies in gaps below and above the `count` states nearest `target`, within reach of what was found."""
    radius = np.sort(np.abs(energies - target))[count - 1]
    reach = np.abs(energies - shift).max()
    lower = _gap_above(energies, shift - reach, target - radius)
    upper = _gap_above(-energies, -(shift + reach), -(target + radius))
    return None if lower is None or upper is None else (lower, -upper)


def _gap_above(energies: np.ndarray, floor: float, ceiling: float) -> float | None:
    """The point of [floor, ceiling] farthest from all energies; None when it is too close to one."""
    if ceiling <= floor:
        return None
    inside = np.sort(energies[(energies >= floor) & (energies <= ceiling)])
    above = energies[energies > ceiling]
    marks = np.concatenate([[floor], inside, above.min(initial=np.inf, keepdims=True)])
    low, high = marks[:-1], marks[1:]
    points = np.minimum((low + high) / 2, ceiling)
    margins = np.minimum(points - low, high - points)
    best = int(np.argmax(margins))
    return float(points[best]) if margins[best] > 2 * CLUSTER else None


def _energy_at(factor: ShiftedFactor, count: float, lower: float, upper: float) -> float:
    """Where about `count` states lie below, interpolated from the inertias known; well inside (lower, upper)."""
    known = sorted((energy, n) for energy, n in factor.inertias.items() if lower <= energy <= upper)
    for (e0, n0), (e1, n1) in pairwise(known):
        if n0 <= count <= n1 and n1 > n0:
            energy = e0 + (e1 - e0) * (count - n0) / (n1 - n0)
            break
    else:
        energy = (lower + upper) / 2
    margin = 0.05 * (upper - lower)
    return min(max(energy, lower + margin), upper - margin)


def _complete(
    factor: ShiftedFactor, pairs: Eigenpairs, lower: tuple[float, int], upper: tuple[float, int]
) -> Eigenpairs:
    """`pairs` with the states missing between two energies with their inertias, one of them the present shift."""
    idle = 0
    for _ in range(_ROUNDS):
        inside = int(((pairs.energies > lower[0]) & (pairs.energies < upper[0])).sum())
        missing = upper[1] - lower[1] - inside
        if missing <= 0 or idle > 1:
            break
        before = len(pairs)
        # As many come from the other side of the shift, and are of use there.
        want = min(factor.pencil.dimension, before + min(2 * missing, _SLICE) + 2)
        pairs, _ = _gather(factor, pairs, want)
        idle = 0 if len(pairs) > before else idle + 1
    return pairs
