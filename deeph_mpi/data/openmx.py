"""OpenMX's `.scfout` (`HS.fileout on`), of versions 3.7 to 3.9, as a DeepH system.

The layout follows OpenMX's own reader, `read_scfout.c`: a header; the translations and neighbours; cell and positions in
bohr; H in hartree, a block for every neighbour, once per spin; for non-collinear runs its imaginary parts; S; matrices not
read here; the chemical potential; at the end the lines of the input.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.blockorder import BlockReader, system_of_blocks
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.hermitian import image_reach
from deeph_mpi.data.mapped import release
from deeph_mpi.data.ragged import by_shape, find, pair_keys, reversed_pairs, spread
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.structure.structure import Structure

__all__ = ["read_openmx"]

BOHR = 0.529177249  # Å and
HARTREE = 27.2113845  # eV, both OpenMX's own

_DEGREES = {"s": 0, "p": 1, "d": 2, "f": 3}


@dataclass(frozen=True)
class _File:
    """Positions of what is needed in an open file.

    Attributes:
        spin: 0 unpolarized, 1 collinear, 3 non-collinear.
        orbitals: (N,) per atom.
        pairs: (n, 5) in the order of the file.
        cell, positions: Å.
        start: first byte of H.
        count: numbers of one matrix.
        tail: first byte after all matrices.
    """

    spin: int
    orbitals: np.ndarray
    pairs: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    start: int
    count: int
    tail: int


def read_openmx(
    path: str | os.PathLike[str], *, cutoff: float | None = None, scratch: Path | None = None
) -> DeephSystem:
    """Read one run: unpolarized, collinear (spinors without ↑↓ parts) or non-collinear. Not collective.

    Args:
        path: the file, or a folder with one.
        cutoff: keep pairs up to this distance, Å; all by default.
        scratch: folder for unnamed files that hold the matrices; memory by default.

    Raises:
        DataError: no such file, truncated, of another layout, or with a basis that is not understood.
    """
    path = _find(Path(path))
    with reading(path, "truncated, or not an .scfout of OpenMX 3.7-3.9"):
        header = _header(path)
        lines = _input_lines(path, header.tail)
        fermi, electrons = _end(path, header.tail)
    orbital_map, numbers = _species(lines, header.orbitals, path)
    values = np.memmap(path, np.float64, "r", header.start, (_matrices(header.spin), header.count))
    offsets = np.concatenate([[0], np.cumsum(header.orbitals[header.pairs[:, 3:]].prod(axis=1))]).astype(np.int64)

    def plain(row: int, unit: float) -> BlockReader:
        return BlockReader(values.dtype, lambda chosen: _taken(values, row, offsets, chosen) * unit)

    overlap = plain(-1, 1.0)
    hamiltonian = plain(0, HARTREE) if header.spin == 0 else _spinors(header, values, offsets)
    info = DeephInfo(orbital_map, header.spin != 0, fermi_energy_eV=fermi, occupation=electrons)
    structure = Structure(numbers, header.positions, header.cell, np.ones(3, dtype=bool))
    return system_of_blocks(
        structure,
        info,
        header.pairs,
        overlap,
        hamiltonian,
        convention="openmx",
        name=str(path),
        cutoff=cutoff,
        scratch=scratch,
    )


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"'{path}' does not exist")
    found = sorted(path.glob("*.scfout"))
    if len(found) != 1:
        raise DataError(f"'{path}' must hold one .scfout file, found {len(found)}; run OpenMX with HS.fileout on")
    return found[0]


def _matrices(spin: int) -> int:
    """Matrices up to S: H, its imaginary parts, S."""
    return spin + 1 + (3 if spin == 3 else 0) + 1


def _header(path: Path) -> _File:
    size = path.stat().st_size
    with path.open("rb") as file:

        def numbers(count: int, kind: type) -> np.ndarray:
            if not 0 <= count * np.dtype(kind).itemsize <= size - file.tell():
                raise ValueError(f"{count} numbers where {size - file.tell()} bytes are left")
            return np.fromfile(file, kind, count)

        def integers(count: int) -> np.ndarray:
            return numbers(count, np.int32).astype(np.int64)

        def reals(*shape: int) -> np.ndarray:
            return numbers(int(np.prod(shape)), np.float64).reshape(shape)

        atoms, packed, _, _, _, translations = integers(6).tolist()
        spin, version = packed % 4, packed // 4
        if not (0 < atoms < 10**7 and spin in (0, 1, 3) and 0 <= version <= 3 and 0 <= translations < 10**6):
            raise ValueError(f"its first numbers are {atoms}, {packed}, …, {translations}")
        order = integers(1)[0] if version == 3 else 1  # 3.9: powers of the position operator
        reals(translations + 1, 4)
        images = integers(4 * (translations + 1)).reshape(-1, 4)[:, 1:]
        orbitals = integers(atoms)
        neighbours = integers(atoms) + 1
        partner = integers(int(neighbours.sum())) - 1
        image = integers(int(neighbours.sum()))
        cell = reals(3, 4)[:, 1:] * BOHR
        reals(3, 4)
        positions = reals(atoms, 4)[:, 1:] * BOHR
        start = file.tell()
    if partner.min() < 0 or partner.max() >= atoms or image.min() < 0 or image.max() > translations:
        raise ValueError("neighbours outside the atoms")
    atom = np.repeat(np.arange(atoms), neighbours)
    pairs = np.concatenate([images[image], atom[:, None], partner[:, None]], axis=1)
    count = int((orbitals[atom] * orbitals[partner]).sum())
    extra = 3 if version < 3 else 3 * order + 3 + 2  # position operators; in 3.9 momenta and imaginary density matrices
    tail = start + 8 * count * (_matrices(spin) + int(extra) + spin + 1)
    if start + 8 * count * _matrices(spin) > size:
        raise ValueError(f"{size} bytes where H and S end at {start + 8 * count * _matrices(spin)}")
    return _File(spin, orbitals, pairs, cell, positions, start, count, tail)


def _taken(values: np.ndarray, row: int, offsets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Entries of the chosen blocks of one matrix."""
    taken: np.ndarray = np.array(values[row, spread(offsets[chosen], np.diff(offsets)[chosen])])
    release(values)
    return taken


def _spinors(header: _File, values: np.ndarray, offsets: np.ndarray) -> BlockReader:
    """Blocks [[↑↑, ↑↓], [↓↑, ↓↓]] in eV; OpenMX keeps ↑↓, and ↓↑ follows from Hermiticity.

    Rows of `values`: Re ↑↑, Re ↓↓, and of non-collinear runs Re ↑↓, Im ↑↓, then from spin-orbit coupling Im ↑↑, Im ↓↓,
    Im ↑↓.
    """
    pairs, orbitals = header.pairs, header.orbitals
    reach = image_reach(pairs)
    keys = pair_keys(pairs, len(orbitals), reach)
    order = np.argsort(keys)
    partner = order[find(keys[order], pair_keys(reversed_pairs(pairs), len(orbitals), reach))]

    def part(row: int, members: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return _taken(values, row, offsets, members).reshape(-1, *shape)

    def up_down(members: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return part(2, members, shape) + 1j * (part(3, members, shape) + part(6, members, shape))

    def read(chosen: np.ndarray) -> np.ndarray:
        made = BlockSet.allocate(pairs[chosen], orbitals * 2, np.complex128)
        for shape, where in by_shape(pairs[chosen], orbitals):
            members = chosen[where]
            spinor = np.zeros((len(members), 2, shape[0], 2, shape[1]), dtype=np.complex128)
            spinor[:, 0, :, 0] = part(0, members, shape)
            spinor[:, 1, :, 1] = part(1, members, shape)
            if header.spin == 3:
                spinor[:, 0, :, 0] += 1j * part(4, members, shape)
                spinor[:, 1, :, 1] += 1j * part(5, members, shape)
                spinor[:, 0, :, 1] = up_down(members, shape)
                spinor[:, 1, :, 0] = up_down(partner[members], shape[::-1]).conj().transpose(0, 2, 1)
            there = made.offsets[where, None] + np.arange(4 * shape[0] * shape[1])
            made.entries[there] = spinor.reshape(len(members), -1) * HARTREE
        return made.entries

    return BlockReader(np.dtype(np.complex128), read)


def _input_lines(path: Path, tail: int) -> list[str]:
    """The lines of the input, kept after solver (int32), 10 reals and their number."""
    with path.open("rb") as file:
        file.seek(tail + 4 + 80)
        count = int(np.fromfile(file, np.int32, 1)[0])
        text = file.read()
    if not 0 < count < 10**7 or len(text) < count:
        raise ValueError("no input lines at its end")
    width = len(text) // count
    return [text[n * width : (n + 1) * width].split(b"\0")[0].decode(errors="replace").strip() for n in range(count)]


def _end(path: Path, tail: int) -> tuple[float, float]:
    """Chemical potential (eV) and number of electrons."""
    with path.open("rb") as file:
        file.seek(tail + 4)
        values = np.fromfile(file, np.float64, 10)
    return float(values[0] * HARTREE), float(values[8])


def _species(lines: list[str], orbitals: np.ndarray, path: Path) -> tuple[OrbitalMap, np.ndarray]:
    """Shells of the elements and the atoms' numbers, from the input."""
    kinds: dict[str, tuple[int, list[int]]] = {}
    for line in _section(lines, "Definition.of.Atomic.Species", path):
        label, basis, potential, *_ = line.split()
        element = atomic_numbers.get(potential.split("_")[0], 0)
        shells = re.findall(r"([spdf])(\d)(?:>(\d))?", basis.rsplit("-", 1)[-1])
        if not element or not shells:
            raise DataError(f"'{path}': species '{line}' of its input is not understood")
        kinds[label] = element, [_DEGREES[letter] for letter, all_, kept in shells for _ in range(int(kept or all_))]
    atoms = [line.split()[1] for line in _section(lines, "Atoms.SpeciesAndCoordinates", path)]
    if len(atoms) != len(orbitals) or not set(atoms) <= set(kinds):
        raise DataError(f"'{path}': the input at its end has other atoms than its matrices")
    table: dict[int, tuple[int, ...]] = {}
    for label, count in zip(atoms, orbitals.tolist(), strict=True):
        number, degrees = kinds[label]
        if sum(2 * li + 1 for li in degrees) != count:
            raise DataError(f"'{path}': species {label} has {count} orbitals, its basis in the input another number")
        if table.setdefault(number, tuple(degrees)) != tuple(degrees):
            raise DataError(f"'{path}': one element has two bases (species {label}); it must have one orbital map")
    return OrbitalMap(dict(sorted(table.items()))), np.array([kinds[label][0] for label in atoms], dtype=np.int64)


def _section(lines: list[str], name: str, path: Path) -> list[str]:
    starts = [n for n, line in enumerate(lines) if line.lower().startswith(f"<{name}".lower())]
    ends = [n for n, line in enumerate(lines) if line.lower().startswith(f"{name}>".lower())]
    if not starts or not ends:
        raise DataError(f"'{path}': the input at its end has no <{name}")
    return [line for line in (raw.split("#")[0].strip() for raw in lines[starts[0] + 1 : ends[0]]) if line]
