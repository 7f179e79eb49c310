"""FHI-aims' real-space matrices (`output_rs_matrices plain`) as a DeepH system.

`basis-indices.out` lists the orbitals, `rs_indices.out` where the elements lie, one value a line in `rs_overlap.out` and
`rs_hamiltonian.out` (`_up`, `_dn` of collinear runs), in hartree. Of each pair of transposed elements one is stored.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.bonds import crooked_bond
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.errors import DataError
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["read_aims"]

HARTREE = 27.2113845  # eV, FHI-aims' own
_NO_CELL = 99999999  # of the padding that closes the list of cells


@dataclass(frozen=True)
class _Places:
    """Where the stored elements stand: (n, 3) images, (n,) rows and columns from 0; n is also the number of values."""

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def read_aims(directory: str | os.PathLike[str], *, cutoff: float | None = None) -> DeephSystem:
    """Read one run: unpolarized, or collinear (spinors without ↑↓ parts). Not collective.

    Args:
        directory: with geometry.in, basis-indices.out, rs_indices.out and the matrices.
        cutoff: keep pairs up to this distance, Å; all by default.

    Returns:
        The system with atoms where FHI-aims moved them (it maps them into the centred cell; the overlaps tell).

    Raises:
        DataError: anything missing or inconsistent, by name.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"directory '{directory}' does not exist")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ASE says that its reader will move to a plugin
        structure = read_structure(directory / "geometry.in")
    orbital_map = _shells(directory / "basis-indices.out", structure.numbers)
    total = int(orbital_map.orbitals(structure.numbers).sum())
    places = _places(directory / "rs_indices.out", total)
    overlap = _complete(places, _values(directory / "rs_overlap.out", len(places.rows)))
    spins = ("_up", "_dn") if (directory / "rs_hamiltonian_up.out").is_file() else ("",)
    parts = [_complete(places, _values(directory / f"rs_hamiltonian{spin}.out", len(places.rows))) for spin in spins]
    for number, part in enumerate(parts):
        part.values = part.values * HARTREE
        if len(parts) == 2:
            part.values = part.values.astype(np.complex128)
            part.spins = np.full((len(part.rows), 2), number, dtype=np.int64)
    info = DeephInfo(orbital_map, len(parts) == 2)
    hamiltonian = Elements.join(parts)
    for candidate in _wrapped(structure):
        system = system_of(candidate, info, overlap, hamiltonian, convention="aims", name=str(directory), cutoff=cutoff)
        if crooked_bond(candidate, system.overlap, orbital_map) is None:
            return system
    raise DataError(f"'{directory}': the overlaps do not fit the positions in geometry.in; are they of the same run?")


def _wrapped(structure: Structure) -> Iterator[Structure]:
    """The structure in the centred cell, atoms on its face on either side, and as it was given."""
    fractional = np.linalg.solve(structure.cell.T, structure.positions.T).T
    for shift in (1e-8, -1e-8):
        moved = fractional - np.where(structure.pbc, np.round(fractional + shift), 0)
        yield replace(structure, positions=moved @ structure.cell)
    yield structure


def _shells(path: Path, numbers: np.ndarray) -> OrbitalMap:
    """Shells of the elements from lines of index, type, atom, n, l, m."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        table = [
            [int(word) for word in (words[0], *words[2:6])] for words in lines if len(words) == 6 and words[0].isdigit()
        ]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    shells: dict[int, list[int]] = {}
    expected: list[int] = []
    for number, (index, atom, _, li, m) in enumerate(table, start=1):
        if index != number or not 1 <= atom <= len(numbers):
            raise DataError(f"'{path}': orbital {number} of the list is of atom {atom}, for {len(numbers)} atoms")
        if not expected:
            shells.setdefault(atom, []).append(li)
            expected = list(range(-li, li + 1))
        if shells[atom][-1] != li or expected.pop(0) != m:
            raise DataError(f"'{path}': orbital {number} is not in a shell of m = −l…l")
    by_element: dict[int, tuple[int, ...]] = {}
    for atom, number in enumerate(numbers.tolist(), start=1):
        found = tuple(shells.get(atom, ()))
        if not found or by_element.setdefault(number, found) != found:
            raise DataError(f"'{path}' gives atom {atom} no orbitals, or others than an atom of the same element")
    return OrbitalMap(dict(sorted(by_element.items())))


def _places(path: Path, total: int) -> _Places:
    try:
        with path.open() as file:
            sizes = [re.fullmatch(r"\s*(\S+?):?\s+(\d+)\s*", file.readline()) for _ in range(3)]
            if not all(sizes):
                raise ValueError("its first lines are not three sizes")
            stored, cells, basis = (int(size[2]) for size in sizes if size)
            words = iter(line for line in file if not line.lstrip()[:1].isalpha())
            numbers = np.array(" ".join(words).split(), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    if len(numbers) != 3 * cells + 2 * cells * basis + stored or basis != total:
        raise DataError(f"'{path}' is truncated, or of {basis} orbitals where the atoms have {total}")
    images, bounds, columns = np.split(numbers, [3 * cells, 3 * cells + 2 * cells * basis])
    images, (first, last) = images.reshape(-1, 3), bounds.reshape(2, cells * basis)
    counts = np.where(first > 0, last - first + 1, 0).reshape(cells, basis)
    counts[np.abs(images).max(axis=1) >= _NO_CELL] = 0
    order = np.concatenate([np.arange(a, b + 1) for a, b, n in zip(first, last, counts.ravel(), strict=True) if n]) - 1
    image = np.repeat(np.arange(cells), counts.sum(axis=1))
    rows = np.concatenate([np.repeat(np.arange(basis), row) for row in counts])
    size = len(order)
    if size == 0 or order.min() < 0 or order.max() >= stored or len(np.unique(order)) != size or stored - size > 1:
        raise DataError(f"'{path}' places {size} of {stored} elements")
    # an element in the list is ⟨row in cell R| |column in cell 0⟩
    places = np.empty((stored, 5), dtype=np.int64)
    places[-1] = 0, 0, 0, 0, -1  # padding, when there is any
    places[order] = np.column_stack([-images[image], rows, columns[order] - 1])
    return _Places(places[:, :3], places[:, 3], places[:, 4])


def _values(path: Path, count: int) -> np.ndarray:
    try:
        values = np.array(path.read_text().split(), dtype=float)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(f"'{path}' must hold {count} finite numbers (rs_indices.out), not {len(values)}")
    return values


def _complete(places: _Places, values: np.ndarray) -> Elements:
    """Stored elements with their transposed partners; padding dropped."""
    real = places.columns >= 0
    images, rows, columns, values = places.images[real], places.rows[real], places.columns[real], values[real]
    other = rows != columns
    return Elements(
        np.concatenate([images, -images[other]]),
        np.concatenate([rows, columns[other]]),
        np.concatenate([columns, rows[other]]),
        np.concatenate([values, values[other]]),
    )
