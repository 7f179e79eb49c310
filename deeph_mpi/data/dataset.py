"""Structures of a dataset together: what disagrees, what repeats, how far H reaches, how they divide."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeph_mpi.data.members import member_names
from deeph_mpi.data.survey import BIN, Survey, survey
from deeph_mpi.errors import ConfigError, DataError

__all__ = ["Report", "combine_decay", "examine", "reaches", "split_names", "structures_in", "survey_all"]

_SCATTER = 1.0  # eV: zeros of energy that differ by more than this have no common reference
_FEW = 1e-4  # smallest eigenvalue of S below which rounding in float32 may make it negative


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Attributes:
        errors: what makes a structure or the set unusable, one line each.
        warnings: what deserves a look.
    """

    errors: list[str]
    warnings: list[str]


def structures_in(dataset: Path) -> list[Path]:
    """Structures of a folder of folders with an info.json, or of a packed file, by name.

    Raises:
        DataError: when there are none.
    """
    if not dataset.exists():
        raise DataError(f"'{dataset}' does not exist")
    found = [dataset / name for name in member_names(dataset)]
    if not found:
        raise DataError(f"'{dataset}' holds no folders in the DeepH layout (none with an info.json)")
    return found


def survey_all(directories: list[Path], jobs: int = 1) -> list[Survey]:
    """Survey every structure, on `jobs` processes."""
    if jobs <= 1:
        return [survey(directory) for directory in directories]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(survey, directories))


def examine(surveys: list[Survey]) -> Report:
    """Check structures one by one and against each other."""
    errors = [f"{one.name}: {one.error}" for one in surveys if one.error]
    warnings: list[str] = []
    good = [one for one in surveys if not one.error]
    for one in good:
        if one.smallest is not None and one.smallest <= 0:
            errors.append(f"{one.name}: S is not positive definite (smallest eigenvalue {one.smallest:.2g})")
        elif one.smallest is not None and one.smallest < _FEW:
            warnings.append(f"{one.name}: S is nearly singular (smallest eigenvalue {one.smallest:.2g})")
        if one.complete_to < one.range - 1e-6:
            warnings.append(
                f"{one.name}: pairs reach {one.range:.2f} Å, but are complete to {one.complete_to:.2f} Å only"
            )
    maps: dict[str, dict[tuple[int, ...], list[str]]] = {}
    for one in good:
        for element, shells in one.shells.items():
            maps.setdefault(element, {}).setdefault(tuple(shells), []).append(one.name)
    for element, kinds in maps.items():
        if len(kinds) > 1:
            parts = "; ".join(f"{list(shells)} in {_some(names)}" for shells, names in kinds.items())
            errors.append(f"{element} has different orbitals: {parts}")
    alike: dict[str, list[str]] = {}
    for one in good:
        alike.setdefault(one.fingerprint, []).append(one.name)
    warnings += [f"the same structure: {_some(names)}" for names in alike.values() if len(names) > 1]
    warnings += _zero_of_energy(good)
    reach = [one.range for one in good]
    if reach and max(reach) - min(reach) > 1.0:
        near, far = min(good, key=lambda one: one.range), max(good, key=lambda one: one.range)
        warnings.append(f"pairs reach from {near.range:.1f} Å ({near.name}) to {far.range:.1f} Å ({far.name})")
    return Report(errors, warnings)


def _zero_of_energy(good: list[Survey]) -> list[str]:
    known = [one for one in good if one.vacuum is not None]
    if known and len(known) < len(good):
        without = [one.name for one in good if one.vacuum is None]
        return [f"no vacuum_level_eV in {_some(without)}, but in others ({len(known)}): they have no common zero"]
    by_composition: dict[tuple[tuple[int, int], ...], list[float]] = {}
    for one in good:
        parts = Counter(one.numbers.tolist())
        smallest = np.gcd.reduce(list(parts.values()))
        key = tuple(sorted((z, int(count // smallest)) for z, count in parts.items()))
        by_composition.setdefault(key, []).append(one.zero - (one.vacuum or 0.0))
    widest = max((float(np.ptp(values)) for values in by_composition.values()), default=0.0)
    if widest <= _SCATTER:
        return []
    what = "after vacuum_level_eV" if known else "without vacuum_level_eV"
    return [f"zeros of energy differ by {widest:.2f} eV between structures of one composition, {what}"]


def combine_decay(surveys: list[Survey]) -> dict[str, np.ndarray]:
    """ "A-B" → (bins, 2) largest |S| and |H| (eV) over all structures, in intervals of `BIN` Å."""
    combined: dict[str, np.ndarray] = {}
    for one in surveys:
        for kind, table in one.decay.items():
            old = combined.get(kind, np.zeros((0, 2)))
            size = max(len(old), len(table))
            both = [np.pad(part, ((0, size - len(part)), (0, 0))) for part in (old, table)]
            combined[kind] = np.maximum(*both)
    return dict(sorted(combined.items()))


def reaches(decay: np.ndarray, threshold: float) -> float:
    """Distance (Å) beyond which |H| stays below `threshold` (eV)."""
    above = np.flatnonzero(decay[:, 1] >= threshold)
    return float((above[-1] + 1) * BIN) if len(above) else 0.0


def split_names(surveys: list[Survey], fractions: tuple[float, float, float], seed: int) -> dict[str, list[str]]:
    """Divide usable structures at random into train, validation and test; repeated structures stay together.

    Raises:
        ConfigError: fractions that are not shares of 1, or so few structures that a wanted part stays empty.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"fractions must be shares of 1, not {list(fractions)}")
    groups: dict[str, list[str]] = {}
    for one in surveys:
        if not one.error:
            groups.setdefault(one.fingerprint, []).append(one.name)
    order = list(groups.values())
    np.random.default_rng(seed).shuffle(order)
    total = sum(map(len, order))
    ends = np.cumsum(fractions) * total
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    done = 0
    for names in order:
        part = list(parts)[int(np.searchsorted(ends - 1e-9, done + len(names) / 2))]
        parts[part] += names
        done += len(names)
    for (part, names), share in zip(parts.items(), fractions, strict=True):
        if share > 0 and not names:
            raise ConfigError(f"{total} structures leave none for {part} with fractions {list(fractions)}")
        names.sort()
    return parts


def _some(names: list[str]) -> str:
    """Up to five names, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
