"""Vacancies and substitutions at random sites of a crystal, reproducible by a seed and kept apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import find_mic
from ase.geometry.minkowski_reduction import minkowski_reduce

from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.errors import ConfigError, StructureError
from deeph_mpi.structure.layers import stacking
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure, element_order

__all__ = ["DefectKind", "DefectiveStructure", "make_defects", "parse_defect", "repeated"]

_ATTEMPTS = 100  # orders of the sites tried before a demand counts as impossible
_VACUUM = 6.0  # Å without an atom: images beyond it are not neighbours
_BONDED = 1.2  # neighbours of a pair are no farther apart than the shortest such distance times this


@dataclass(frozen=True)
class DefectKind:
    """One kind of defect: what stands at one site, or at two neighbouring ones, becomes something else.

    Attributes:
        old: atomic numbers of the host.
        new: those that replace them; 0 for a vacancy.
        amount: a number of defects (int), or a fraction of the sites of `old[0]` (float).
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    amount: int | float

    def __str__(self) -> str:
        old, new = ("-".join(chemical_symbols[z] for z in side) for side in (self.old, self.new))
        return f"vacancy of {old}" if not any(self.new) else f"{new} on {old}"


@dataclass(frozen=True)
class DefectiveStructure:
    """A structure with defects and what was made.

    Attributes:
        structure: atoms grouped by element.
        counts: defects of every kind asked for.
        sites: of each kind (m, 1 or 2) int64, atoms of the host.
        closest: Å, smallest distance between atoms of two defects, or of one and its periodic image; infinite for none.
    """

    structure: Structure
    counts: list[int]
    sites: list[np.ndarray]
    closest: float


def parse_defect(text: str, *, vacancy: bool) -> DefectKind:
    """Read `B:0.01`, `B:3` (vacancies), `N=C:0.02`, or pairs of neighbours `B-N:2`, `B-N=C-C:2` (substitutions).

    After the colon a whole number is a number of defects, one with a decimal point a fraction of the sites of the
    (first) element.

    Raises:
        ConfigError: anything else.
    """
    what, colon, amount = text.partition(":")
    old, equals, new = what.partition("=")
    shape = "ELEMENT:AMOUNT" if vacancy else "OLD=NEW:AMOUNT"
    if not colon or bool(equals) == vacancy:
        raise ConfigError(f"'{text}' is not {shape}, such as {'B:0.01' if vacancy else 'N=C:0.02'}")
    sides = [side.split("-") for side in ((old,) if vacancy else (old, new))]
    for symbol in (symbol for side in sides for symbol in side):
        if atomic_numbers.get(symbol, 0) == 0:
            raise ConfigError(f"'{text}': unknown element '{symbol}'")
    numbers = [tuple(atomic_numbers[symbol] for symbol in side) for side in sides]
    if len(numbers[0]) > 2 or len(numbers[0]) != len(numbers[-1]):
        raise ConfigError(f"'{text}': a defect is one site or two neighbouring ones, with as many elements after '='")
    try:
        value: int | float = int(amount) if amount.isdecimal() else float(amount)
    except ValueError:
        value = 0
    if not 0 < value < np.inf or (isinstance(value, float) and value > 1):
        raise ConfigError(f"'{text}': '{amount}' is neither a number of defects (3) nor a fraction of the sites (0.01)")
    return DefectKind(numbers[0], (0,) * len(numbers[0]) if vacancy else numbers[1], value)


def repeated(structure: Structure, times: tuple[int, int, int]) -> Structure:
    """The supercell of `times` cells along the lattice vectors, atoms grouped by element.

    Raises:
        StructureError: a number that is not positive, or above 1 along a direction that is not periodic.
    """
    counts = np.array(times)
    if (counts < 1).any() or (counts[~structure.pbc] > 1).any():
        raise StructureError(
            f"cannot repeat {' '.join(map(str, times))} times: periodic directions, at least once each"
        )
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in times), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (structure.positions[None] + (grid @ structure.cell)[:, None]).reshape(-1, 3)
    numbers = np.tile(structure.numbers, len(grid))
    order = element_order(numbers)
    return Structure(numbers[order], positions[order], structure.cell * counts[:, None], structure.pbc)


def make_defects(
    host: Structure, kinds: Sequence[DefectKind], min_distance: float = 0.0, seed: int = 0
) -> DefectiveStructure:
    """Put defects at random on a host. The same seed gives the same structure.

    Sites are taken in random order, each one that keeps its distance from those taken (random sequential addition); where
    that leaves defects without a site it is begun anew with another order.

    Args:
        host: the crystal.
        kinds: what to make.
        min_distance: Å, smallest distance between atoms of two defects, periodic images included; not those across a
            vacuum of more than 6 Å.
        seed: of the random numbers.

    Raises:
        StructureError: no such sites, fewer of them than asked for, or no room at this distance.
    """
    candidates = [_candidates(host, kind) for kind in kinds]
    counts = [_count(host, kind, len(sites)) for kind, sites in zip(kinds, candidates, strict=True)]
    field = _without_vacuum(host)
    period, span = _period(field), max(_span(field, sites) for sites in candidates)
    if period < min_distance + span:
        raise StructureError(
            f"the host repeats every {period:.2f} Å, so that a defect meets its own image closer than {min_distance:g} Å: "
            "a larger --repeat"
        )
    rng = np.random.default_rng(seed)
    best = -1
    for _ in range(_ATTEMPTS):
        chosen = _place(field, candidates, counts, min_distance, rng)
        placed = sum(map(len, chosen))
        if placed == sum(counts):
            break
        best = max(best, placed)
    else:
        raise StructureError(
            f"at most {best} of {sum(counts)} defects found room {min_distance:g} Å apart (periodic images included) in "
            f"{_ATTEMPTS} orders of the sites: fewer defects, a smaller --min-distance or a larger host"
        )
    sites = [candidates[n][np.sort(chosen[n])] for n in range(len(kinds))]
    numbers = host.numbers.copy()
    for kind, where in zip(kinds, sites, strict=True):
        numbers[where] = np.array(kind.new)
    kept = np.flatnonzero(numbers)
    if len(kept) == 0:
        raise StructureError("no atoms are left")
    kept = kept[element_order(numbers[kept])]
    made = Structure(numbers[kept], host.positions[kept], host.cell, host.pbc)
    check_structure(made, "structure with defects")
    return DefectiveStructure(made, counts, sites, _closest(field, sites, span, period))


def _candidates(host: Structure, kind: DefectKind) -> np.ndarray:
    """(sites, 1 or 2) int64 of a kind."""
    missing = sorted({chemical_symbols[z] for z in kind.old if z not in host.numbers})
    if missing:
        raise StructureError(f"the host has no {' and no '.join(missing)}, asked for by '{kind}'")
    first = np.flatnonzero(host.numbers == kind.old[0])
    if len(kind.old) == 1:
        return first[:, None]
    for reach in (2.0, 3.0, 4.5, 7.0):
        pairs = neighbour_pairs(host, first, _BONDED * reach)
        pairs = pairs[(host.numbers[pairs.j] == kind.old[1]) & (pairs.i != pairs.j)]
        if len(pairs) and pairs.distances.min() <= reach:
            break
    else:
        raise StructureError(f"no neighbouring atoms for '{kind}' within 7 Å")
    bonded = pairs.distances <= _BONDED * pairs.distances.min()
    if kind.old[0] == kind.old[1] and kind.new[0] == kind.new[1]:
        bonded &= pairs.i < pairs.j  # else each pair would come twice
    return np.unique(np.stack([pairs.i[bonded], pairs.j[bonded]], axis=1), axis=0)


def _count(host: Structure, kind: DefectKind, sites: int) -> int:
    of = int((host.numbers == kind.old[0]).sum())
    count = kind.amount if isinstance(kind.amount, int) else round(kind.amount * of)
    if count == 0:
        raise StructureError(f"{kind.amount:g} of the sites are less than one defect '{kind}': a larger --repeat")
    if count > sites:
        raise StructureError(f"the host has {sites} sites for '{kind}', not {count}")
    return count


def _place(
    host: Structure, candidates: list[np.ndarray], counts: list[int], distance: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Indices of the candidates taken, of every kind; as many as found room."""
    closed = np.zeros(len(host), dtype=bool)
    chosen = []
    for sites, count in zip(candidates, counts, strict=True):
        taken: list[int] = []
        for index in rng.permutation(len(sites)):
            if len(taken) == count:
                break
            site = sites[index]
            if not closed[site].any():
                closed[site] = True
                if distance > 0:
                    closed[neighbour_pairs(host, site, float(np.nextafter(distance, 0.0))).j] = True
                taken.append(int(index))
        chosen.append(np.array(taken, dtype=np.int64))
    return chosen


def _span(host: Structure, sites: np.ndarray) -> float:
    """Å between the two atoms of a site at most, 0 for single ones."""
    if sites.shape[1] == 1 or len(sites) == 0:
        return 0.0
    steps = find_mic(host.positions[sites[:, 1]] - host.positions[sites[:, 0]], host.cell, host.pbc)[1]
    return float(steps.max())


def _without_vacuum(host: Structure) -> Structure:
    """The host, not periodic across a vacuum."""
    stack = stacking(host)
    pbc = host.pbc.copy()
    pbc[stack.axis] &= stack.gap <= _VACUUM
    return replace(host, pbc=pbc)


def _period(host: Structure) -> float:
    """Å, the shortest lattice vector; infinite without periodic directions."""
    if not host.pbc.any():
        return np.inf
    reduced, _ = minkowski_reduce(host.cell, host.pbc)
    return float(np.linalg.norm(reduced[host.pbc], axis=1).min())


def _closest(host: Structure, sites: list[np.ndarray], span: float, period: float) -> float:
    """Å between atoms of two defects, or of one and its image, by a search that widens until it meets one."""
    atoms = np.concatenate([where.ravel() for where in sites])
    members = [where.shape[1] for where in sites for _ in where]
    defect = np.repeat(np.arange(len(members)), members)
    alone = Structure(host.numbers[atoms], host.positions[atoms], host.cell, host.pbc)
    widest = period if np.isfinite(period) else float(np.linalg.norm(np.ptp(host.positions, axis=0))) + 1.0
    reach = 2.0
    while True:
        pairs = neighbour_pairs(alone, np.arange(len(atoms)), min(reach, widest + 1e-6))
        apart = (defect[pairs.i] != defect[pairs.j]) | (pairs.distances > span + 1e-6)
        if apart.any() or reach >= widest:
            return float(pairs.distances[apart].min(initial=np.inf))
        reach *= 1.5
