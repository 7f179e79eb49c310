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
from typing import IO

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.bonds import crooked_bond
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.mapped import mapped, release
from deeph_mpi.data.spool import Spool
from deeph_mpi.data.textnumbers import tables
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["read_aims"]

HARTREE = 27.2113845  # eV, FHI-aims' own
_NO_CELL = 99999999  # of the padding that closes the list of cells
_CHARACTERS = 2**20  # read at a time


@dataclass(frozen=True)
class _Places:
    """Where the stored elements stand: runs of consecutive ones that share cell and row.

    Attributes:
        first, last: (m,) of the elements of every run, from 0, ascending.
        images: (m, 3) R of ⟨row in cell 0| |column in cell R⟩.
        rows: (m,) orbital.
        columns: orbital of every element.
    """

    first: np.ndarray
    last: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def complete(self, start: int, values: np.ndarray) -> Elements:
        """Elements start… with their transposed partners; padding dropped."""
        index = np.arange(start, start + len(values))
        run = np.searchsorted(self.first, index, side="right") - 1
        real = (run >= 0) & (index <= self.last[run])
        run, values, columns = run[real], values[real], np.array(self.columns[index[real]], dtype=np.int64) - 1
        images, rows = self.images[run], self.rows[run]
        other = rows != columns
        release(self.columns)
        return Elements(
            np.concatenate([images, -images[other]]),
            np.concatenate([rows, columns[other]]),
            np.concatenate([columns, rows[other]]),
            np.concatenate([values, values[other]]),
        )


def read_aims(
    directory: str | os.PathLike[str], *, cutoff: float | None = None, scratch: Path | None = None
) -> DeephSystem:
    """Read one run: unpolarized, or collinear (spinors without ↑↓ parts). Not collective.

    Args:
        directory: with geometry.in, basis-indices.out, rs_indices.out and the matrices.
        cutoff: keep pairs up to this distance, Å; all by default.
        scratch: folder for unnamed files that hold the matrices; memory by default.

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
    places = _places(directory / "rs_indices.out", total, scratch)
    overlap = Spool(scratch)
    _read_matrix(overlap, directory / "rs_overlap.out", places)
    endings = ("_up", "_dn") if (directory / "rs_hamiltonian_up.out").is_file() else ("",)
    spinful = len(endings) == 2
    hamiltonian = Spool(scratch, np.complex128 if spinful else np.float64, spinful=spinful)
    for spin, ending in enumerate(endings):
        _read_matrix(hamiltonian, directory / f"rs_hamiltonian{ending}.out", places, HARTREE, spin)
    info = DeephInfo(orbital_map, spinful)
    for candidate in _wrapped(structure):
        system = system_of(
            candidate,
            info,
            overlap,
            hamiltonian,
            convention="aims",
            name=str(directory),
            cutoff=cutoff,
            scratch=scratch,
        )
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


def _places(path: Path, total: int, scratch: Path | None) -> _Places:
    with reading(path), path.open() as file:
        sizes = [re.fullmatch(r"\s*(\S+?):?\s+(\d+)\s*", file.readline()) for _ in range(3)]
        if not all(sizes):
            raise ValueError("its first lines are not three sizes")
        stored, cells, basis = (int(size[2]) for size in sizes if size)
        if basis != total:
            raise DataError(f"'{path}' is of {basis} orbitals where the atoms have {total}")
        if 8 * (3 * cells + 2 * cells * basis + stored) > 64 * path.stat().st_size:
            raise DataError(f"'{path}' is truncated")
        columns = np.zeros(stored, np.int32) if scratch is None else mapped(scratch, (stored,), np.int32)
        images, bounds = np.zeros(3 * cells, np.int64), np.zeros(2 * cells * basis, np.int64)
        _fill((images, bounds, columns), file, path)
    cell, (first, last) = images.reshape(cells, 3), bounds.reshape(2, cells * basis)
    filled = (first > 0) & np.repeat(np.abs(cell).max(axis=1) < _NO_CELL, basis)
    where = np.flatnonzero(filled)
    where = where[np.argsort(first[where])]
    first, last = first[where] - 1, last[where] - 1
    size = int((last - first + 1).sum())
    apart = (last >= first).all() and (first[1:] > last[:-1]).all()
    if size == 0 or not apart or last[-1] >= stored or stored - size > 1:
        raise DataError(f"'{path}' places {size} of {stored} elements")
    # an element in the list is ⟨row in cell R| |column in cell 0⟩
    return _Places(first, last, -cell[where // basis], where % basis, columns)


def _fill(arrays: tuple[np.ndarray, ...], file: IO[str], path: Path) -> None:
    """Fill flat arrays one after the other with the integers of a file; lines that begin with a letter are titles."""
    number = done = 0
    while lines := file.readlines(_CHARACTERS):
        words = "".join(line for line in lines if not line.lstrip()[:1].isalpha()).split()
        values = np.fromiter(map(int, words), np.int64, len(words))
        while len(values):
            if number == len(arrays):
                raise DataError(f"'{path}' goes on after its tables")
            part = values[: len(arrays[number]) - done]
            arrays[number][done : done + len(part)] = part
            done, values = done + len(part), values[len(part) :]
            release(arrays[number])
            if done == len(arrays[number]):
                number, done = number + 1, 0
    if number != len(arrays):
        raise DataError(f"'{path}' is truncated")


def _read_matrix(spool: Spool, path: Path, places: _Places, unit: float = 1.0, spin: int = 0) -> None:
    """Add the elements of a file to a spool, in this unit and of this spin when it has spins."""
    count = len(places.columns)
    done = 0
    with reading(path), path.open() as file:
        for table in tables(file, 1):
            values = table[:, 0]
            if done + len(values) > count or not np.isfinite(values).all():
                raise DataError(f"'{path}' must hold {count} finite numbers (rs_indices.out)")
            elements = places.complete(done, values * unit)
            if spool.spinful:
                elements.spins = np.full((len(elements.rows), 2), spin)
            spool.add(elements)
            done += len(values)
    if done != count:
        raise DataError(f"'{path}' must hold {count} finite numbers (rs_indices.out), not {done}")
