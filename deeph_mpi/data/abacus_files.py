"""Parsers of ABACUS's files: H(R) and S(R) in CSR, and what the log says of cell, atoms, orbitals and electrons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from ase.data import atomic_numbers

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.elements import PIECE
from deeph_mpi.data.mapped import mapped, release
from deeph_mpi.data.textnumbers import bounded_lines, numbers
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["BOHR", "RYDBERG", "AbacusLog", "CsrPiece", "parse_log", "read_csr"]

BOHR = 0.529177  # Å, ABACUS's
RYDBERG = 13.605698  # eV, ABACUS's: its printed eigenvalues agree to all digits only with this one

_BRACKETS = str.maketrans("(),", "   ")


@dataclass(frozen=True)
class AbacusLog:
    """What `running_*.log` says.

    Attributes:
        cell: (3, 3) Å.
        numbers: (N,) int64.
        positions: (N, 3) Å, as ABACUS wrapped them: images count from here.
        shells: of the elements, in ABACUS's order (l ascending).
        spins: nspin, 1, 2 or 4.
        electrons: or None.
        fermi_energy_eV: of the last iteration; None when it prints none.
    """

    cell: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    shells: OrbitalMap
    spins: int
    electrons: float | None
    fermi_energy_eV: float | None


def parse_log(path: Path) -> AbacusLog:
    """Read a log.

    Raises:
        DataError: something is missing, by name.
    """
    with reading(path, "not a log of ABACUS, or one of an unknown version"):
        return _parse_log(path.read_text(errors="replace"), path)


def _parse_log(text: str, path: Path) -> AbacusLog:
    constant = float(_first(text, r"lattice constant \(Bohr\) *= *(\S+)", path)) * BOHR
    number = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"
    vectors = re.search(rf"Lattice vectors: \(Cartesian[^\n]*\n((?:\s*{number}\s+{number}\s+{number}\s*\n){{3}})", text)
    if vectors is None:
        raise DataError(f"'{path}' prints no lattice vectors")
    cell = np.array(vectors[1].split(), dtype=float).reshape(3, 3) * constant
    rows = re.findall(rf"^\s*tau([cd])_([A-Za-z]+)\d*\s+({number})\s+({number})\s+({number})", text, re.MULTILINE)
    kind = rows[0][0] if rows else ""
    shells = _shells(text, path)
    count = sum(atoms for _, _, atoms in shells)
    if len(rows) < count:
        raise DataError(f"'{path}' lists {len(rows)} of {count} atoms (tauc_ or taud_ lines)")
    first = [row for row in rows if row[0] == kind][:count]
    places = np.array([row[2:] for row in first], dtype=float)
    labels = [label for label, _, atoms in shells for _ in range(atoms)]
    numbers = np.array([_element(label, path) for label in labels], dtype=np.int64)
    table: dict[str, list[int]] = {}
    for label, ls, _ in shells:
        symbol = next(name for name, z in atomic_numbers.items() if z == _element(label, path))
        if table.setdefault(symbol, ls) != ls:
            raise DataError(f"'{path}' gives {symbol} two basis sets; one element must have one orbital map")
    spins = re.search(r"^\s*nspin\s*=\s*(\d)", text, re.MULTILINE)
    electrons = re.search(r"(?:AUTOSET number of electrons: *|nelec *)= *(\S+)", text)
    fermi = re.findall(r"^\s*(?:E_Fermi\s+\S+|EFERMI\s*=)\s+(\S+)", text, re.MULTILINE)
    return AbacusLog(
        cell,
        numbers,
        places @ cell if kind == "d" else places * constant,
        OrbitalMap.from_symbols(table),
        int(spins[1]) if spins else 1,
        float(electrons[1]) if electrons else None,
        float(fermi[-1]) if fermi else None,
    )


@dataclass(frozen=True)
class CsrPiece:
    """Some elements of one image.

    Attributes:
        image: R.
        rows, columns: (n,) from 0.
        values: (n,) real or complex, in the file's unit.
    """

    image: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def read_csr(path: Path, size: int, scratch: Path | None = None) -> Iterator[CsrPiece]:
    """Read one matrix, in the layout of versions up to 3.10 (`STEP`, `Matrix Dimension`) or the annotated one after it.

    Args:
        path: of the file.
        size: dimension that it must have.
        scratch: folder for unnamed files: values and columns of an image follow one another, and either may be long.

    Raises:
        DataError: truncated, of several ionic steps, of another dimension, or not in either layout.
    """
    if not path.is_file():
        raise DataError(f"file '{path}' does not exist")
    empty = True
    with reading(path, "truncated, or not ABACUS's CSR"), path.open() as file:
        lines = _content(file)
        found, blocks = _header(lines, path)
        if found != size:
            raise DataError(f"'{path}' is of dimension {found}, but the orbitals of the log give {size}")
        for _ in range(blocks):
            line = next(text for comment, text in lines if "CSR " not in comment)  # not the zeros of an empty block
            *image, count = (int(word) for word in line.split())
            if len(image) != 3:
                raise DataError(f"'{path}': expected a line of R and the number of elements")
            for values, columns, rows in _block(lines, count, size, scratch):
                empty = False
                if columns.max() >= size or columns.min() < 0:
                    raise DataError(f"'{path}' has columns outside 0…{size - 1}")
                yield CsrPiece(np.array(image, dtype=np.int64), rows, columns, values)
        rest = next((text for comment, text in lines if "CSR " not in comment), None)
    if rest is not None:
        raise DataError(f"'{path}' goes on after its {blocks} blocks: matrices of several ionic steps are not read")
    if empty:
        raise DataError(f"'{path}' holds no elements")


def _content(file: IO[str]) -> Iterator[tuple[str, str]]:
    """(last comment before it, line) for every line that is neither blank nor a comment."""
    comment = ""
    for line in bounded_lines(file):
        stripped = line.strip()
        if stripped.startswith("#"):
            comment = stripped
        elif stripped:
            yield comment, stripped
            comment = ""


def _header(lines: Iterator[tuple[str, str]], path: Path) -> tuple[int, int]:
    """Dimension and number of blocks; `lines` stand at the first block afterwards."""
    size = blocks = 0
    for _, line in lines:
        if line.startswith(("STEP", "---")):
            continue
        old = re.match(r"Matrix (Dimension|number) of \S+ *:? *(\d+)", line)
        new = re.match(r"(\d+) *# *number of (localized basis|Bravais lattice vector R)", line)
        if old:
            size, blocks = (int(old[2]), blocks) if old[1] == "Dimension" else (size, int(old[2]))
            if blocks:
                return size, blocks
        elif new:
            size, blocks = (int(new[1]), blocks) if new[2] == "localized basis" else (size, int(new[1]))
            if blocks:
                _skip_cell(lines)
                return size, blocks
    raise DataError(f"'{path}' is not ABACUS's CSR: no dimension and number of matrices")


def _skip_cell(lines: Iterator[tuple[str, str]]) -> None:
    """Pass the description of the cell: name, constant, three vectors, labels, counts, kind, a line per atom."""
    for _ in range(5):
        next(lines)
    next(lines)
    atoms = sum(int(word) for word in next(lines)[1].split())
    for _ in range(atoms + 1):
        next(lines)


def _block(
    lines: Iterator[tuple[str, str]], count: int, size: int, scratch: Path | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Values, columns and rows of one block, some at a time; nothing when it is empty."""
    if count == 0:
        return
    values = _words(lines, count, np.float64, scratch)
    columns = _words(lines, count, np.int32, scratch)
    pointers = _words(lines, size + 1, np.int64, None)
    if pointers[0] != 0 or pointers[-1] != count or (np.diff(pointers) < 0).any():
        raise ValueError(f"row pointers from {pointers[0]} to {pointers[-1]} for {count} elements")
    for start in range(0, count, PIECE):
        part = slice(start, min(start + PIECE, count))
        rows = np.searchsorted(pointers, np.arange(part.start, part.stop), side="right") - 1
        yield np.array(values[part]), np.array(columns[part]), rows
        release(values)
        release(columns)


def _words(lines: Iterator[tuple[str, str]], count: int, dtype: np.dtype | type, scratch: Path | None) -> np.ndarray:
    """`count` numbers from one or more lines; complex when they are written (a,b)."""
    made = np.zeros(0)
    length = 0
    while length < count:
        line = next(lines)[1]
        if "(" in line:
            line = line.translate(_BRACKETS)
            if not length:
                count, dtype = 2 * count, np.complex128
        if not length:
            shape = (count if dtype != np.complex128 else count // 2,)
            made = np.zeros(shape, dtype) if scratch is None or count < PIECE else mapped(scratch, shape, dtype)
            flat = made.view(np.float64) if dtype == np.complex128 else made
        words = numbers(line.split())
        if length + len(words) > count:
            raise ValueError(f"more than {count} numbers")
        flat[length : length + len(words)] = words
        length += len(words)
        if length // PIECE > (length - len(words)) // PIECE:
            release(made)
    return made


def _shells(text: str, path: Path) -> list[tuple[str, list[int], int]]:
    """(label, shells, atoms) of every type."""
    types = []
    for part in re.split(r"READING ATOM TYPE \d+", text)[1:]:
        atoms = re.search(r"number of atom for this type *= *(\d+)", part)
        label = re.search(r"atom label *= *(\S+)", part)
        if not atoms or not label:
            raise DataError(f"'{path}' does not say label and number of every type of atoms")
        zetas = re.findall(r"L=(\d+), number of zeta *= *(\d+)", part[: atoms.start()])
        types.append((label[1], [int(li) for li, zeta in zetas for _ in range(int(zeta))], int(atoms[1])))
    if not types or not all(ls for _, ls, _ in types):
        raise DataError(f"'{path}' does not list the orbitals of its atoms; is it an LCAO run?")
    return types


def _element(label: str, path: Path) -> int:
    symbol = re.sub(r"[^A-Za-z].*", "", label).capitalize()
    if atomic_numbers.get(symbol, 0) == 0:
        raise DataError(f"'{path}': the atom label '{label}' is no element")
    return int(atomic_numbers[symbol])


def _first(text: str, pattern: str, path: Path) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise DataError(f"'{path}' is no log of ABACUS, or one of an unknown version (no '{pattern.split(' *')[0]}')")
    return found[1]
