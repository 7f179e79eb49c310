"""Basis sets as DFT codes keep them: CP2K's Gaussians, SIESTA's `.ion.xml` and `.ion.nc`, OpenMX's `.pao`, ABACUS's `.orb`.

Overlaps made of them against the codes' own S, largest difference of any element: CP2K 5e-8 (hBN; its print threshold), SIESTA
5e-7 (Si), ABACUS 3e-7 (Si, to d; outside the tests), OpenMX 7e-6 (C and N, to d; outside the tests; it integrates on a mesh).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_numbers
from scipy.io import netcdf_file

from deeph_mpi.basis.radial import GaussianShell, NumericShell, Shell
from deeph_mpi.errors import DataError

__all__ = ["read_basis"]

_BOHR = 0.529177210903  # Å; the radii of the older codes differ from it in the seventh digit
_LETTERS = "spdfgh"


def read_basis(path: Path, elements: list[str], name: str | None = None) -> dict[int, list[Shell]]:
    """Shells of those `elements` that a file describes, in the order of the code's orbitals.

    Args:
        path: `.ion.xml`, `.ion.nc`, `.pao` and `.orb` hold one element; everything else is taken for a CP2K basis-set file.
        elements: symbols that are wanted.
        name: CP2K: of the basis set, such as DZVP-MOLOPT-SR-GTH; OpenMX: of the shells, such as s2p2d1.

    Returns:
        Atomic number → shells; empty when the file is for other elements.

    Raises:
        DataError: unreadable, or a name that is missing or unknown.
    """
    if not path.is_file():
        raise DataError(f"basis file '{path}' does not exist")
    try:
        if path.name.endswith(".ion.xml"):
            found = _siesta(path)
        elif path.name.endswith(".ion.nc"):
            found = _siesta_nc(path)
        elif path.suffix == ".pao":
            found = _openmx(path, name)
        elif path.suffix == ".orb":
            found = _abacus(path)
        else:
            return {
                atomic_numbers[symbol]: shells
                for symbol in elements
                if (shells := _cp2k(path, symbol, name)) is not None
            }
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        ET.ParseError,
        UnicodeDecodeError,
    ) as error:
        raise DataError(f"cannot read '{path}' as a basis: {type(error).__name__}: {error}") from None
    return {atomic_numbers[found[0]]: found[1]} if found[0] in elements else {}


def _cp2k(path: Path, symbol: str, name: str | None) -> list[Shell] | None:
    """A set of one element; None when the file has none for it."""
    lines = [line.split("#")[0].split() for line in path.read_text().splitlines()]
    lines = [words for words in lines if words]
    heads = [n for n, words in enumerate(lines) if words[0][0].isalpha() and words[0].upper() == symbol.upper()]
    if not heads:
        return None
    known = {alias: n for n in heads for alias in lines[n][1:]}
    if name is None and len(heads) > 1:
        raise DataError(f"'{path}' has several sets for {symbol}: name one with --set ({', '.join(sorted(known))})")
    if name is not None and name not in known:
        raise DataError(f"'{path}' has no set '{name}' for {symbol} (it has: {', '.join(sorted(known))})")
    row = heads[0] if name is None else known[name]
    shells: list[Shell] = []
    sets, row = int(lines[row + 1][0]), row + 2
    for _ in range(sets):
        _, l_min, l_max, count, *contractions = map(int, lines[row])
        table = np.array(lines[row + 1 : row + 1 + count], dtype=float)
        column = 1
        for li, number in zip(range(l_min, l_max + 1), contractions, strict=True):
            for _ in range(number):
                shells.append(GaussianShell(li, table[:, 0] / _BOHR**2, table[:, column]))
                column += 1
        row += 1 + count
    return shells


def _siesta(path: Path) -> tuple[str, list[Shell]]:
    """SIESTA keeps R(r) / r^l in bohr; orbitals follow one another as listed."""
    root = ET.parse(path).getroot()
    symbol = (root.findtext("symbol") or "").strip()
    shells: list[Shell] = []
    for orbital in root.iterfind("paos/orbital"):
        li = int(orbital.attrib["l"])
        table = np.array((orbital.findtext("radfunc/data") or "").split(), dtype=float).reshape(-1, 2)
        shells.append(NumericShell(li, table[:, 0] * _BOHR, table[:, 1] * table[:, 0] ** li))
    if symbol not in atomic_numbers or not shells:
        raise ValueError("no symbol, or no orbitals")
    return symbol, shells


def _siesta_nc(path: Path) -> tuple[str, list[Shell]]:
    """The same in netCDF: classic files through SciPy, newer ones are HDF5."""
    if path.read_bytes()[:3] == b"CDF":
        with netcdf_file(path, "r", mmap=False) as file:
            symbol = file.Element.decode().strip()
            degrees, steps, values = (np.array(file.variables[key][:]) for key in ("orbnl_l", "delta", "orb"))
    else:
        with h5py.File(path, "r", locking=False) as file:
            symbol = np.atleast_1d(file.attrs["Element"])[0]
            symbol = (symbol.decode() if isinstance(symbol, bytes) else str(symbol)).strip()
            degrees, steps, values = (np.array(file[key]) for key in ("orbnl_l", "delta", "orb"))
    shells: list[Shell] = []
    for li, step, row in zip(degrees.tolist(), steps.tolist(), values.astype(np.float64), strict=True):
        r = np.arange(len(row)) * step
        shells.append(NumericShell(int(li), r * _BOHR, row * r**li))
    return symbol, shells


def _openmx(path: Path, name: str | None) -> tuple[str, list[Shell]]:
    """OpenMX lists more functions of each l than a calculation uses; `name` says how many."""
    text = path.read_text()
    atomic = re.search(r"AtomSpecies\s+(\d+)", text)
    if atomic is None:
        raise ValueError("no AtomSpecies")
    symbol = next(key for key, z in atomic_numbers.items() if z == int(atomic[1]))
    wanted = re.findall(r"([spdf])(\d)", name or "")
    if not wanted:
        raise DataError(f"'{path}': name the shells with --set, such as s2p2d1")
    shells: list[Shell] = []
    for letter, count in wanted:
        li = _LETTERS.index(letter)
        part = re.search(rf"<pseudo.atomic.orbitals.L={li}\n(.*?)pseudo.atomic.orbitals.L={li}>", text, re.DOTALL)
        if part is None:
            raise ValueError(f"no functions of l = {li}")
        table = np.array([line.split() for line in part[1].strip().splitlines()], dtype=float)
        if table.shape[1] < 2 + int(count):
            raise DataError(f"'{path}' has {table.shape[1] - 2} functions of l = {li}, not {count}")
        r = table[:, 1] * _BOHR
        for column in range(2, 2 + int(count)):
            start = [0.0 if li else table[0, column]]
            shells.append(NumericShell(li, np.append(0.0, r), np.concatenate([start, table[:, column]])))
    return symbol, shells


def _abacus(path: Path) -> tuple[str, list[Shell]]:
    """ABACUS keeps R(r) on a uniform grid in bohr, orbitals by l, then zeta."""
    text = path.read_text()
    symbol = re.search(r"Element\s+([A-Za-z]+)", text)
    mesh, step = re.search(r"Mesh\s+(\d+)", text), re.search(r"dr\s+(\S+)", text)
    if not symbol or not mesh or not step:
        raise ValueError("no Element, Mesh and dr")
    r = np.arange(int(mesh[1])) * float(step[1]) * _BOHR
    shells: list[Shell] = []
    for part in re.split(r"Type\s+L\s+N\s*\n", text)[1:]:
        words = part.split()
        values = np.array(words[3 : 3 + len(r)], dtype=float)
        shells.append(NumericShell(int(words[1]), r, values))
    shells.sort(key=lambda shell: shell.l)
    return symbol[1], shells
