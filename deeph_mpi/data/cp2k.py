"""CP2K's real-space matrices (`&KS_CSR_WRITE` and `&S_CSR_WRITE` with `REAL_SPACE T`) as a DeepH system.

One text file per periodic image holds `row column value`, counted from 1, H in hartree; the images are listed in the
output file, and their indices refer to atoms wrapped into [−½, ½). Orbitals of an atom are in our order and signs.
"""

from __future__ import annotations

import os
import warnings
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
    dtype: np.dtype | type = np.float64,
    output: str | None = None,
    shells: OrbitalMap | None = None,
) -> DeephSystem:
    """Read the files of one CP2K run (k-points, no spin polarization). Not collective.

    Args:
        directory: with the input, the output and the CSR files.
        cutoff: keep pairs up to this distance in Å; all by default.
        dtype: of the entries, float32 or float64.
        output: name of the output file; found by its content by default.
        shells: of the elements; read from CP2K's basis-set files by default.

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
    overlap = _read_matrix(directory, "S", found.images["S"], total)
    hamiltonian = _read_matrix(directory, "KS", found.images["KS"], total)
    hamiltonian.values *= HARTREE

    atom_of = np.repeat(np.arange(len(orbitals)), orbitals)
    fractional = _wrap(given, overlap, atom_of)
    structure = Structure(given.numbers, fractional @ given.cell, given.cell, given.periodic)
    check_structure(structure, str(directory))
    pairs = pairs_of(structure, (hamiltonian, overlap), atom_of, cutoff)
    s_blocks, h_blocks = (blocks_of(elements, pairs, orbitals, atom_of) for elements in (overlap, hamiltonian))
    _check_bonds(structure, s_blocks, orbital_map)
    for blocks, name in ((s_blocks, "S"), (h_blocks, "KS")):
        symmetrize(blocks, orbitals, f"{directory}: {name}")
        blocks.entries = blocks.entries.astype(dtype)
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


def _read_matrix(directory: Path, name: str, images: np.ndarray, total: int) -> Elements:
    parts = []
    for number in range(1, len(images) + 1):
        paths = sorted(directory.glob(f"*-{name}_SPIN_1_R_{number}-*.csr"))
        if len(paths) != 1:
            what = (
                f"the {name} file of image {number} is missing"
                if not paths
                else f"several {name} files of image {number}"
            )
            raise DataError(f"'{directory}': {what}; one run with one final matrix is needed")
        parts.append(_read_csr(paths[0], total))
    counts = [len(part) for part in parts]
    table = np.concatenate(parts)
    return Elements(
        np.repeat(images, counts, axis=0),
        table[:, 0].astype(np.int64) - 1,
        table[:, 1].astype(np.int64) - 1,
        table[:, 2],
    )


def _read_csr(path: Path, total: int) -> np.ndarray:
    """(n, 3) row, column (from 1), value."""
    if path.stat().st_size == 0:
        return np.empty((0, 3))
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it holds no lines: said below
        table = np.loadtxt(path, ndmin=2)
    indices = table[:, :2]
    finite = len(table) and table.shape[1] == 3 and np.isfinite(table).all()
    if not finite or indices.min() < 1 or indices.max() > total:
        raise DataError(f"'{path}' must hold lines of row, column, value with indices in 1…{total}")
    return table


def _wrap(given: Cp2kInput, overlap: Elements, atom_of: np.ndarray) -> np.ndarray:
    """(N, 3) fractional positions as CP2K wrapped them.

    Atoms within rounding of a face may be on either side; there the overlaps decide: weighted by |S_ij(R)|², the mean
    of r_j + R − r_i lies within the cell around r_i.
    """
    fractional = np.linalg.solve(given.cell.T, given.positions.T).T
    nearest = np.sign(fractional) * np.floor(np.abs(fractional) + 0.5)  # Fortran's ANINT: halves away from zero
    wrapped = fractional - np.where(given.periodic, nearest, 0)
    doubtful = (np.abs(np.abs(wrapped) - 0.5) < _NEAR_FACE) & given.periodic
    weight, moment = _image_moments(overlap, atom_of, len(wrapped))
    settled = ~doubtful.any(axis=1)
    if not settled.any():
        settled[0] = True
    while not settled.all():
        links = np.where(settled[:, None] & ~settled, weight, 0)
        i, j = np.unravel_index(int(np.argmax(links)), links.shape)
        if links[i, j] == 0:
            break  # no overlap with the rest: nothing refers to where it is
        mean = moment[i, j] / weight[i, j] + wrapped[j] - wrapped[i]
        wrapped[j] -= np.where(doubtful[j], np.round(mean), 0)
        settled[j] = True
    _check_wrapping(wrapped, weight, moment)
    return wrapped


def _image_moments(overlap: Elements, atom_of: np.ndarray, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Σ_R |S_ij(R)|² as (N, N), and Σ_R |S_ij(R)|² R as (N, N, 3)."""
    where = atom_of[overlap.rows] * atoms + atom_of[overlap.columns]
    square = overlap.values**2
    sums = [np.bincount(where, square * part, atoms**2) for part in (np.ones_like(square), *overlap.images.T)]
    return sums[0].reshape(atoms, atoms), np.stack(sums[1:], axis=-1).reshape(atoms, atoms, 3)


def _check_wrapping(wrapped: np.ndarray, weight: np.ndarray, moment: np.ndarray) -> None:
    i, j = np.nonzero(weight > 1e-3)
    mean = moment[i, j] / weight[i, j, None] + wrapped[j] - wrapped[i]
    wrong = (np.abs(mean) > 0.75).any(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"the images of the overlap do not fit the positions of atoms {i[first]} and {j[first]}; are input, output "
            "and CSR files of the same run, and is the geometry of the input the final one (RUN_TYPE ENERGY)?"
        )


def _check_bonds(structure: Structure, overlap: BlockSet, orbital_map: OrbitalMap) -> None:
    """Refuse positions that the overlap contradicts."""
    crooked = crooked_bond(structure, overlap, orbital_map)
    if crooked is not None:
        raise DataError(
            f"the overlap between atoms {crooked[3]} and {crooked[4]} does not point along their bond; are input, output "
            "and CSR files of the same run, and is the geometry of the input the final one (RUN_TYPE ENERGY)?"
        )
