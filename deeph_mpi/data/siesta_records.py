"""Whether SIESTA's `.HSX` and `.TSHS` files are whole, before sisl reads them.

They are records of Fortran: a length, the bytes, the length again. sisl's reader, in Fortran too, takes every count on trust:
a damaged one makes it run for ever, or write beyond its arrays.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeph_mpi.data.mapped import release
from deeph_mpi.reading import reading

__all__ = ["Records", "check_hsx", "check_tshs"]

_MARK = struct.Struct("<i")
_SPINS = (1, 2, 4, 8)
_SPECIES = 32  # bytes of one: 20 characters, its charge, the number of its orbitals


@dataclass(frozen=True)
class Records:
    """The records of a file.

    Attributes:
        path: of the file.
        starts: (n,) first byte of every record.
        lengths: (n,) its bytes.
    """

    path: Path
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Records:
        """Find the records of a file.

        Raises:
            DataError: a file that does not consist of records, to its last byte.
        """
        starts, lengths = array("q"), array("q")
        with reading(path, "truncated, or not of SIESTA"), path.open("rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            while at < size:
                head = file.read(4)
                length = _MARK.unpack(head)[0]
                if not 0 <= length <= size - at - 8:
                    raise ValueError(f"a record of {length} bytes at byte {at} of {size}")
                file.seek(length, os.SEEK_CUR)
                if file.read(4) != head:
                    raise ValueError(f"the record at byte {at} does not end with its length")
                starts.append(at + 4)
                lengths.append(length)
                at += length + 8
        return cls(path, np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64))

    def read(self, number: int, kind: type = np.int32) -> np.ndarray:
        """A record as numbers of a kind.

        Raises:
            ValueError: no such record, or bytes left over.
        """
        if number >= len(self.lengths):
            raise ValueError(f"it ends after {len(self.lengths)} records")
        with self.path.open("rb") as file:
            file.seek(int(self.starts[number]))
            return np.frombuffer(file.read(int(self.lengths[number])), dtype=kind)


def check_hsx(records: Records) -> None:
    """Compare an `.HSX`, of any version, with the counts that it states.

    Raises:
        DataError: they contradict each other.
    """
    with reading(records.path, "damaged, or of another layout"):
        if records.lengths[0] == 16:
            _check_version_0(records)
        else:
            _check_version_1(records)


def check_tshs(records: Records) -> None:
    """The same of a `.TSHS`.

    Raises:
        DataError: they contradict each other.
    """
    with reading(records.path, "damaged, or of another layout"):
        atoms, orbitals, everywhere, spins, total = records.read(1).tolist()
        cells = int(np.prod(records.read(2).astype(np.int64)))
        if cells * orbitals != everywhere:
            raise ValueError(f"{everywhere} orbitals in {cells} cells of {orbitals}")
        if records.read(4)[2] != 0:
            raise ValueError("it holds S alone")
        fixed = {0: 4, 2: 12, 3: 72 + 24 * atoms, 4: 12, 5: 60, 6: 24, 7: 8, 8: 4 * (atoms + 1)}
        _check_lengths(records, fixed)
        last = records.read(8)
        if last[0] != 0 or last[-1] != orbitals or (np.diff(last) < 0).any():
            raise ValueError(f"its atoms end with orbital {last[-1]} of {orbitals}")
        after = _check_rows(records, 9, orbitals, everywhere, (8,) * (_known(spins) + 1))
        if records.read(9).sum() != total:
            raise ValueError(f"its rows do not hold {total} elements")
        _check_lengths(records, {after: 12 * cells})


def _check_version_1(records: Records) -> None:
    """Versions 1 and 2: sizes, cell, images and atoms, species, (k-points,) rows."""
    version = records.read(0).tolist()
    if version not in ([1], [2]):
        raise ValueError(f"version {version}")
    atoms, orbitals, spins, species, *cells = records.read(2).astype(np.int64).tolist()
    images = int(np.prod(cells))
    if min(atoms, orbitals, species, *cells) < 1:
        raise ValueError(f"{atoms} atoms, {orbitals} orbitals, {species} species, {cells} cells")
    _check_lengths(records, {1: 4, 3: 96, 5: _SPECIES * species})
    if records.lengths[4] - 12 * images - 32 * atoms not in (0, 4):  # with or without the end of atom 0
        raise ValueError(f"{records.lengths[4]} bytes for {atoms} atoms and {images} images")
    listed = records.read(4, np.int8)
    offsets = np.frombuffer(listed[: 12 * images].tobytes(), dtype=np.int32).reshape(-1, 3)
    if (np.abs(offsets) > np.array(cells) // 2).any():
        raise ValueError(f"images beyond {cells} cells")
    kinds = np.frombuffer(listed[12 * images + 24 * atoms :].tobytes(), dtype=np.int32)[:atoms]
    counts = _orbitals_of_species(records, 5)
    if kinds.min() < 1 or kinds.max() > species or counts[kinds - 1].sum() != orbitals:
        raise ValueError(f"its atoms do not have {orbitals} orbitals")
    _check_lengths(records, {6 + number: 12 * count for number, count in enumerate(counts.tolist())})
    first = 6 + species
    if version == [2]:
        _check_lengths(records, {first: 60})
        first += 1
    width = 8 if records.read(1)[0] else 4
    _check_rows(records, first, orbitals, images * orbitals, (width,) * (_known(spins) + 1))


def _check_version_0(records: Records) -> None:
    """Version 0, of SIESTA to 4.0: rows, then the distances of their elements and the species."""
    orbitals, everywhere, spins, total = records.read(0).tolist()
    periodic = records.read(1)[0] == 0
    first = 3 if periodic else 2
    _check_lengths(records, {1: 4, 2: 4 * everywhere} if periodic else {1: 4})
    after = _check_rows(records, first, orbitals, everywhere, (4,) * (_known(spins) + 1)) + 1
    counts = records.read(first).astype(np.int64)
    if counts.sum() != total:
        raise ValueError(f"its rows do not hold {total} elements")
    if periodic:
        if not np.array_equal(records.lengths[after : after + orbitals], 12 * counts):
            raise ValueError("the distances are not those of its elements")
        after += orbitals
    species = int(records.read(after)[0])
    _check_lengths(records, {after: 4, after + 1: _SPECIES * species})
    last = after + 2 + int(_orbitals_of_species(records, after + 1).sum())
    _check_lengths(records, dict.fromkeys(range(after + 2, last), 12) | {last: 4})


def _known(spins: int) -> int:
    if spins not in _SPINS:
        raise ValueError(f"{spins} spins")
    return spins


def _orbitals_of_species(records: Records, number: int) -> np.ndarray:
    """(n,) from the record of labels, charges and counts."""
    table = records.read(number, np.dtype("S20, f8, i4"))  # type: ignore[arg-type]
    counts: np.ndarray = table["f2"].astype(np.int64)
    if counts.min(initial=0) < 0:
        raise ValueError(f"species with {counts.tolist()} orbitals")
    return counts


def _check_lengths(records: Records, expected: dict[int, int]) -> None:
    for number, length in expected.items():
        if number >= len(records.lengths) or records.lengths[number] != length:
            found = records.lengths[number] if number < len(records.lengths) else "no"
            raise ValueError(f"record {number} has {found} bytes, should have {length}")


def _check_rows(records: Records, first: int, orbitals: int, everywhere: int, widths: tuple[int, ...]) -> int:
    """Counts of the rows, their columns, and their values in as many tables as there are widths; the record after them."""
    counts = records.read(first).astype(np.int64)
    if orbitals < 1 or len(counts) != orbitals or counts.min() < 0 or not orbitals <= everywhere < 2**31:
        raise ValueError(f"{len(counts)} rows for {orbitals} orbitals of {everywhere}")
    after = first + 1
    for width in (4, *widths):
        if not np.array_equal(records.lengths[after : after + orbitals], width * counts):
            raise ValueError(f"the rows that begin with record {after} are not of {width} bytes an element")
        after += orbitals
    data = np.memmap(records.path, np.uint8, "r")
    for number in range(first + 1, first + 1 + orbitals):
        row = data[records.starts[number] : records.starts[number] + records.lengths[number]].view(np.int32)
        if len(row) and (row.min() < 1 or row.max() > everywhere):
            raise ValueError(f"record {number} has columns outside 1…{everywhere}")
    release(data)
    return after
