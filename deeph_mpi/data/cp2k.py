"""CP2K's real-space matrices (`&KS_CSR_WRITE` and `&S_CSR_WRITE` with `REAL_SPACE T`) as a DeepH system.

One text file per periodic image holds `row column value`, counted from 1, H in hartree; the images are listed in the
output file, and their indices refer to atoms wrapped into [−½, ½). Orbitals of an atom are in our order and signs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.bonds import crooked_bond
from deeph_mpi.data.cp2k_files import (
    HARTREE,
    Cp2kInput,
    Cp2kOutput,
    basis_paths,
    basis_shells,
    parse_input,
    parse_output,
    vacuum_level,
)
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, blocks_of, pairs_of
from deeph_mpi.data.hermitian import symmetrize
from deeph_mpi.data.spool import Spool
from deeph_mpi.data.textnumbers import tables
from deeph_mpi.errors import DataError
from deeph_mpi.reading import reading
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure

__all__ = ["read_cp2k"]

_NEAR_FACE = 1e-7  # fractional; closer to ±½ than this, rounding decides to which side CP2K wrapped an atom


def read_cp2k(
    directory: str | os.PathLike[str],
    *,
    cutoff: float | None = None,
    output: str | None = None,
    shells: OrbitalMap | None = None,
    scratch: Path | None = None,
) -> DeephSystem:
    """Read the files of one CP2K run (k-points, no spin polarization). Not collective.

    Args:
        directory: with the input, the output and the CSR files.
        cutoff: keep pairs up to this distance in Å; all by default.
        output: name of the output file; found by its content by default.
        shells: of the elements; read from CP2K's basis-set files by default.
        scratch: folder for unnamed files that hold the matrices; memory by default.

    Returns:
        The system with atoms in CP2K's order, wrapped into [−½, ½); H and S on the same pairs, symmetrized.
        `vacuum_level_eV` is set when the run wrote `*v_hartree*.cube` and the cell has vacuum along its third vector.

    Raises:
        DataError: anything missing, inconsistent or not supported, by name.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"directory '{directory}' does not exist")
    printed = directory / output if output else _find_output(directory)
    found = parse_output(printed)
    given = parse_input(_find_input(directory))
    orbital_map = shells or _shells(given, found, directory)
    orbitals = orbital_map.orbitals(given.numbers)
    total = int(orbitals.sum())
    if found.orbitals not in (None, total):
        raise DataError(f"'{printed}' has {found.orbitals} orbitals, but the shells of the elements give {total}")
    if list(directory.glob("*-KS_SPIN_2_R_*.csr")):
        raise DataError(f"'{directory}' is spin-polarized (KS_SPIN_2 files); only unpolarized runs can be converted")
    overlap = _read_matrix(directory, "S", found.images["S"], total, 1.0, scratch)
    hamiltonian = _read_matrix(directory, "KS", found.images["KS"], total, HARTREE, scratch)
    fractional = _wrap(given, overlap, np.repeat(np.arange(len(orbitals)), orbitals), str(directory))
    structure = Structure(given.numbers, fractional @ given.cell, given.cell, given.periodic)
    check_structure(structure, str(directory))
    pairs = pairs_of(structure, orbitals, (hamiltonian, overlap), cutoff, str(directory))
    s_blocks, h_blocks = (blocks_of(part, pairs, orbitals, scratch=scratch) for part in (overlap, hamiltonian))
    _check_bonds(structure, s_blocks, orbital_map, str(directory))
    for blocks, name in ((s_blocks, "S"), (h_blocks, "KS")):
        symmetrize(blocks, orbitals, f"{directory}: {name}")
    cubes = sorted(directory.glob("*v_hartree*.cube"))
    info = DeephInfo(
        orbital_map=orbital_map,
        fermi_energy_eV=found.fermi_energy_eV,
        occupation=found.electrons,
        vacuum_level_eV=vacuum_level(cubes[-1], fractional) if cubes else None,
    )
    return DeephSystem(structure, info, s_blocks, h_blocks)


def _find_output(directory: Path) -> Path:
    for path in sorted(directory.iterdir()):
        if path.suffix in (".out", ".txt", ".log") and "KS CSR write|" in path.read_text(errors="replace"):
            return path
    raise DataError(
        f"no output file (.out, .txt, .log) in '{directory}' lists the images of H; name it with --output, or run CP2K "
        "with k-points and &KS_CSR_WRITE REAL_SPACE T in &DFT/&PRINT"
    )


def _find_input(directory: Path) -> Path:
    inputs = sorted(directory.glob("*.inp"))
    if len(inputs) != 1:
        raise DataError(f"'{directory}' must hold exactly one .inp file; found {len(inputs)}")
    return inputs[0]


def _shells(given: Cp2kInput, found: Cp2kOutput, directory: Path) -> OrbitalMap:
    symbols = sorted({chemical_symbols[number] for number in given.numbers})
    without = [symbol for symbol in symbols if symbol not in given.basis]
    if without:
        raise DataError(f"the input in '{directory}' names no BASIS_SET for {', '.join(without)}")
    files = basis_paths(given.basis_files, directory, found.data_directory)
    return OrbitalMap.from_symbols({symbol: basis_shells(symbol, given.basis[symbol], files) for symbol in symbols})


def _read_matrix(
    directory: Path, name: str, images: np.ndarray, total: int, unit: float, scratch: Path | None
) -> Spool:
    spool = Spool(scratch)
    for number, image in enumerate(images, start=1):
        paths = sorted(directory.glob(f"*-{name}_SPIN_1_R_{number}-*.csr"))
        if len(paths) != 1:
            what = (
                f"the {name} file of image {number} is missing"
                if not paths
                else f"several {name} files of image {number}"
            )
            raise DataError(f"'{directory}': {what}; one run with one final matrix is needed")
        with reading(paths[0], "not lines of row, column, value"), paths[0].open() as file:
            for table in tables(file, 3):
                indices = table[:, :2].astype(np.int64) - 1
                if not np.isfinite(table).all() or indices.min() < 0 or indices.max() >= total:
                    raise DataError(
                        f"'{paths[0]}' must hold lines of row, column, value with indices in 1…{total}, finite"
                    )
                where = np.broadcast_to(image, (len(table), 3))
                spool.add(Elements(where, indices[:, 0], indices[:, 1], table[:, 2] * unit))
    return spool


def _wrap(given: Cp2kInput, overlap: Spool, atom_of: np.ndarray, name: str) -> np.ndarray:
    """(N, 3) fractional positions as CP2K wrapped them.

    Atoms within rounding of a face may be on either side; there the overlaps decide: weighted by |S_ij(R)|², the mean
    of r_j + R − r_i lies within the cell around r_i.
    """
    fractional = np.linalg.solve(given.cell.T, given.positions.T).T
    nearest = np.sign(fractional) * np.floor(np.abs(fractional) + 0.5)  # Fortran's ANINT: halves away from zero
    wrapped = fractional - np.where(given.periodic, nearest, 0)
    doubtful = (np.abs(np.abs(wrapped) - 0.5) < _NEAR_FACE) & given.periodic
    moments = _image_moments(overlap, atom_of, len(wrapped))
    settled = ~doubtful.any(axis=1)
    if not settled.any():
        settled[0] = True
    while not settled.all():
        links = np.where(settled[moments.i] & ~settled[moments.j], moments.weight, 0)
        strongest = int(np.argmax(links))
        if links[strongest] == 0:
            break  # no overlap with the rest: nothing refers to where it is
        j = moments.j[strongest]
        wrapped[j] -= np.where(doubtful[j], np.round(moments.centres(wrapped)[strongest]), 0)
        settled[j] = True
    _check_wrapping(wrapped, moments, name)
    return wrapped


@dataclass(frozen=True)
class _Moments:
    """Of pairs of atoms i, j (n,) that overlap: weight Σ_R |S_ij(R)|² (n,), and Σ_R |S_ij(R)|² R as (n, 3)."""

    i: np.ndarray
    j: np.ndarray
    weight: np.ndarray
    moment: np.ndarray

    def centres(self, fractional: np.ndarray) -> np.ndarray:
        """(n, 3) weighted means of r_j + R − r_i."""
        mean: np.ndarray = self.moment / self.weight[:, None] + fractional[self.j] - fractional[self.i]
        return mean


def _image_moments(overlap: Spool, atom_of: np.ndarray, atoms: int) -> _Moments:
    keys, sums = np.zeros(0, dtype=np.int64), np.zeros((0, 4))
    for part in overlap.pieces():
        square = part.values**2
        where = np.concatenate([keys, atom_of[part.rows] * atoms + atom_of[part.columns]])
        added = np.concatenate([sums, np.column_stack([square, square[:, None] * part.images])])
        keys, index = np.unique(where, return_inverse=True)
        sums = np.stack([np.bincount(index.ravel(), column, len(keys)) for column in added.T], axis=1)
    kept = sums[:, 0] > 0
    i, j = np.divmod(keys[kept], atoms)
    return _Moments(i, j, sums[kept, 0], sums[kept, 1:])


def _check_wrapping(wrapped: np.ndarray, moments: _Moments, name: str) -> None:
    wrong = (moments.weight > 1e-3) & (np.abs(moments.centres(wrapped)) > 0.75).any(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"'{name}': the images of the overlap do not fit the positions of atoms {moments.i[first]} and {moments.j[first]}; "
            "are input, output and CSR files of the same run, and is the geometry of the input the final one (RUN_TYPE ENERGY)?"
        )


def _check_bonds(structure: Structure, overlap: BlockSet, orbital_map: OrbitalMap, name: str) -> None:
    """Refuse positions that the overlap contradicts."""
    crooked = crooked_bond(structure, overlap, orbital_map)
    if crooked is not None:
        raise DataError(
            f"'{name}': the overlap between atoms {crooked[3]} and {crooked[4]} does not point along their bond; are input, "
            "output and CSR files of the same run, and is the geometry of the input the final one (RUN_TYPE ENERGY)?"
        )
