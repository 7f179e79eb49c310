"""Parsers of CP2K's files: input (cell, atoms, basis), output (images, Fermi energy), basis sets, cubes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading

__all__ = ["HARTREE", "Cp2kInput", "Cp2kOutput", "basis_shells", "parse_input", "parse_output", "vacuum_level"]

HARTREE = 27.211386245988  # eV, CODATA 2018, as in CP2K 2023
BOHR = 0.529177210903  # Å, likewise

_CLEARANCE = 4.0  # Å: a plane nearer than this to an atom is not vacuum


@dataclass(frozen=True)
class Cp2kInput:
    """What the input file says.

    Attributes:
        cell: (3, 3) Å, rows are vectors.
        periodic: (3,) bool.
        numbers: (N,) int64.
        positions: (N, 3) Å, as given.
        basis: element → name of its orbital basis.
        basis_files: names of the basis-set files.
    """

    cell: np.ndarray
    periodic: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    basis: dict[str, str]
    basis_files: list[str]


@dataclass(frozen=True)
class Cp2kOutput:
    """What the output file says.

    Attributes:
        images: "KS" and "S" → (n, 3) int64 image indices in the order of the CSR files.
        fermi_energy_eV: or None when it prints none.
        electrons: or None.
        orbitals: number of orbital functions, or None.
        data_directory: where this CP2K looks for basis sets, or None.
    """

    images: dict[str, np.ndarray]
    fermi_energy_eV: float | None
    electrons: float | None
    orbitals: int | None
    data_directory: str | None


@dataclass
class _Section:
    name: str
    parameter: str
    lines: list[str] = field(default_factory=list)
    sections: list[_Section] = field(default_factory=list)

    def find(self, name: str) -> list[_Section]:
        """All sections of that name below this one."""
        return [hit for child in self.sections for hit in ([child] if child.name == name else []) + child.find(name)]

    def keyword(self, name: str) -> list[str] | None:
        """The words after a keyword, or None."""
        for line in self.lines:
            words = line.split()
            if words[0].upper() == name:
                return words[1:]
        return None


def parse_input(path: Path) -> Cp2kInput:
    """Read the geometry and basis names of a CP2K input.

    Raises:
        DataError: when it is unreadable, or its cell or atoms are given in a way that is not understood.
    """
    with reading(path, "not an input of CP2K"):
        return _parse_input(path)


def _parse_input(path: Path) -> Cp2kInput:
    root = _sections(path)
    cells = [section for section in root.find("CELL") if section.lines]
    if not cells:
        raise DataError(f"'{path}' has no &CELL section with vectors")
    cell, periodic = _cell(cells[0], path)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6 * np.linalg.norm(cell, axis=1).prod():
        raise DataError(f"'{path}': the cell is singular, or not finite ({cell.tolist()} Å)")
    elements: dict[str, str] = {}
    basis: dict[str, str] = {}
    for kind in root.find("KIND"):
        element = (kind.keyword("ELEMENT") or kind.keyword("ELEMENT_SYMBOL") or [kind.parameter])[0]
        elements[kind.parameter.upper()] = element.capitalize()
        names = kind.keyword("BASIS_SET")
        if names:
            known = basis.setdefault(element.capitalize(), names[-1])
            if known != names[-1]:
                raise DataError(f"'{path}' gives {element} two basis sets; one element must have one orbital map")
    labels, positions = _atoms(root, cell, path)
    symbols = [elements.get(label.upper(), re.sub(r"\d+$", "", label).capitalize()) for label in labels]
    strange = sorted({symbol for symbol in symbols if symbol not in atomic_numbers})
    if strange:
        raise DataError(f"'{path}' has atoms of unknown elements: {', '.join(strange)}")
    files = [
        line.split()[1]
        for dft in root.find("DFT")
        for line in dft.lines
        if line.upper().startswith("BASIS_SET_FILE_NAME")
    ]
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)
    return Cp2kInput(cell, periodic, numbers, positions, basis, files or ["BASIS_SET"])


def parse_output(path: Path) -> Cp2kOutput:
    """Read the image lists, Fermi energy and electron count of a CP2K output.

    Raises:
        DataError: unreadable, not converged, or without the image lists of H and S.
    """
    with reading(path, "not an output of CP2K"):
        return _parse_output(path)


def _parse_output(path: Path) -> Cp2kOutput:
    lines = _read(path).splitlines()
    images: dict[str, np.ndarray] = {}
    found: dict[str, str] = {}
    patterns = {
        "fermi": r"^\s*Fermi energy(?: \[a\.u\.\])?:\s+(\S+)",
        "electrons": r"^\s*Number of electrons:\s+(\S+)",
        "orbitals": r"^\s*Number of orbital functions:\s+(\d+)",
        "data": r"^\s*CP2K\| Data directory path\s+(\S+)",
    }
    for number, line in enumerate(lines):
        if "SCF run NOT converged" in line:
            raise DataError(f"'{path}': the SCF run did not converge; its matrices mean nothing")
        header = re.match(r"\s*(KS|S) CSR write\|\s+(\d+) periodic images", line)
        if header:
            rows = [row.split() for row in lines[number + 2 : number + 2 + int(header[2])]]
            try:
                table = np.array(rows, dtype=np.int64).reshape(int(header[2]), 4)
            except ValueError:
                raise DataError(f"'{path}': the image list of {header[1]} is cut short") from None
            images[header[1]] = table[:, 1:]
        for key, pattern in patterns.items():
            match = re.match(pattern, line)
            if match:
                found[key] = match[1]
    for name, section in (("KS", "&KS_CSR_WRITE"), ("S", "&S_CSR_WRITE")):
        if name not in images:
            raise DataError(
                f"'{path}' lists no images of {name}; run CP2K with {section} and REAL_SPACE T in &DFT/&PRINT"
            )
    return Cp2kOutput(
        images=images,
        fermi_energy_eV=float(found["fermi"]) * HARTREE if "fermi" in found else None,
        electrons=float(found["electrons"]) if "electrons" in found else None,
        orbitals=int(found["orbitals"]) if "orbitals" in found else None,
        data_directory=found.get("data"),
    )


def basis_shells(element: str, name: str, files: list[Path]) -> list[int]:
    """Shells (l) of a basis set, in the order of CP2K's orbitals: set by set, in each by l, then shell by shell.

    Raises:
        DataError: when none of `files` exists or has it.
    """
    for path in files:
        if not path.is_file():
            continue
        lines = [line.split("#")[0].split() for line in _read(path).splitlines()]
        lines = [words for words in lines if words]
        for number, words in enumerate(lines):
            if words[0].capitalize() == element and name in words[1:]:
                with reading(path, f"the basis set {name} of {element} is not in CP2K's format"):
                    return _shells(lines[number + 1 :])
    raise DataError(
        f"basis set {name} of {element} was not found in {', '.join(map(str, files))}; set CP2K_DATA_DIR, "
        f"or give the shells yourself (--shells {element}=0,0,1,1,2)"
    )


def vacuum_level(path: Path, fractional: np.ndarray, axis: int = 2) -> float | None:
    """Vacuum level from CP2K's Hartree potential: its average over the plane farthest from all atoms.

    Args:
        path: cube file of `&V_HARTREE_CUBE` (STRIDE of any size).
        fractional: (N, 3) positions of the atoms.
        axis: the direction with vacuum.

    Returns:
        eV, in the zero of energy of H; None when no plane is 4 Å away from every atom (no vacuum).

    Raises:
        DataError: when the file is not a complete cube.
    """
    with reading(path, "not a cube file"), path.open() as file:
        lines = [next(file) for _ in range(6)]
        atoms = abs(int(lines[2].split()[0]))
        grid = np.array([line.split() for line in lines[3:6]], dtype=float)
        shape = grid[:, 0].astype(int)
        for _ in range(atoms):
            next(file)
        values = np.array(file.read().split(), dtype=float).reshape(shape)
        if not (shape > 0).all() or not np.isfinite(values).all() or not np.isfinite(grid).all():
            raise ValueError("its numbers are not finite")
    vectors = grid[:, 1:] * shape[:, None] * BOHR
    height = abs(np.linalg.det(vectors)) / np.linalg.norm(np.cross(vectors[axis - 2], vectors[axis - 1]))
    planes = np.arange(shape[axis]) / shape[axis]
    away = planes[:, None] - fractional[None, :, axis]
    nearest = np.abs(away - np.round(away)).min(axis=1)
    farthest = int(np.argmax(nearest))
    if nearest[farthest] * height < _CLEARANCE:
        return None
    return float(np.take(values, farthest, axis=axis).mean() * HARTREE)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from None


def _sections(path: Path) -> _Section:
    root = current = _Section("", "")
    stack: list[_Section] = []
    for raw in _read(path).splitlines():
        line = re.split(r"[!#]", raw)[0].strip()
        if not line:
            continue
        if line.startswith("@") or "$" in line:
            raise DataError(f"'{path}' uses the preprocessor ('{line}'); give the input that CP2K echoes, without it")
        if line.upper().startswith("&END"):
            if not stack:
                raise DataError(f"'{path}': &END without a section")
            current = stack.pop()
        elif line.startswith("&"):
            words = line[1:].split()
            section = _Section(words[0].upper(), words[1] if len(words) > 1 else "")
            current.sections.append(section)
            stack.append(current)
            current = section
        else:
            current.lines.append(line)
    return root


def _cell(section: _Section, path: Path) -> tuple[np.ndarray, np.ndarray]:
    periodic = (section.keyword("PERIODIC") or ["XYZ"])[0].upper()
    flags = np.array([axis in periodic for axis in "XYZ"])
    given = [section.keyword(axis) for axis in "ABC"]
    if all(given):
        return np.array([_lengths(words or [], path) for words in given]), flags
    lengths, angles = section.keyword("ABC"), section.keyword("ALPHA_BETA_GAMMA")
    if lengths is None or (angles is not None and any(abs(float(angle) - 90) > 1e-10 for angle in angles)):
        raise DataError(f"'{path}': give the cell as vectors A, B and C (or ABC with right angles)")
    return np.diag(_lengths(lengths, path)), flags


def _lengths(words: list[str], path: Path) -> list[float]:
    factor = 1.0
    if words[0].startswith("["):
        unit = words[0].strip("[]").lower()
        if unit not in ("angstrom", "bohr"):
            raise DataError(f"'{path}': unit {words[0]} of the cell is not understood")
        factor, words = (BOHR if unit == "bohr" else 1.0), words[1:]
    return [float(word) * factor for word in words[:3]]


def _atoms(root: _Section, cell: np.ndarray, path: Path) -> tuple[list[str], np.ndarray]:
    scaled, factor = False, 1.0
    sections = root.find("COORD")
    if sections:
        unit = (sections[0].keyword("UNIT") or ["angstrom"])[0].lower().strip("[]")
        flag = sections[0].keyword("SCALED")
        scaled = flag is not None and (not flag or flag[0].upper().strip(".") in ("T", "TRUE", "YES", "ON"))
        factor = BOHR if unit == "bohr" else 1.0
        rows = [line.split() for line in sections[0].lines if line.split()[0].upper() not in ("UNIT", "SCALED")]
    else:
        names = [topology.keyword("COORD_FILE_NAME") for topology in root.find("TOPOLOGY")]
        if not names or not names[0]:
            raise DataError(f"'{path}' has neither &COORD nor COORD_FILE_NAME")
        lines = _read(path.parent / names[0][0]).splitlines()
        rows = [line.split() for line in lines[2 : 2 + int(lines[0])]]
    try:
        positions = np.array([row[1:4] for row in rows], dtype=float).reshape(-1, 3) * factor
    except ValueError:
        raise DataError(f"'{path}': the atoms are not lines of 'element x y z'") from None
    return [row[0] for row in rows], positions @ cell if scaled else positions


def _shells(lines: list[list[str]]) -> list[int]:
    shells: list[int] = []
    row = 1
    for _ in range(int(lines[0][0])):
        _, l_min, l_max, exponents, *counts = map(int, lines[row])
        for li, count in zip(range(l_min, l_max + 1), counts, strict=True):
            shells += [li] * count
        row += 1 + exponents
    return shells


def basis_paths(names: list[str], directory: Path, data_directory: str | None) -> list[Path]:
    """Where basis-set files may lie: beside the input, in CP2K_DATA_DIR, in the directory that CP2K printed."""
    places = [directory, *(Path(place) for place in (os.environ.get("CP2K_DATA_DIR"), data_directory) if place)]
    return [place / name for place in places for name in names]
