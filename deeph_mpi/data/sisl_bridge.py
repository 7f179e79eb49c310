"""sisl's Hamiltonians: from what its readers return, and back for its tools. sisl is imported on use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.basis.conventions import orbital_change
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephSystem, in_users_order
from deeph_mpi.data.elements import PIECE, Elements
from deeph_mpi.data.ragged import spread
from deeph_mpi.data.spool import Spool
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

if TYPE_CHECKING:
    from deeph_mpi.basis.blocks import BlockSet

__all__ = ["SislParts", "shells_of", "split_sisl", "to_sisl"]

_UP_UP, _DOWN_DOWN, _UP_DOWN, _DOWN_UP = (0, 0), (1, 1), (0, 1), (1, 0)


@dataclass
class SislParts:
    """What a sisl Hamiltonian holds, orbitals in its own order.

    Attributes:
        structure: atoms and cell.
        spinful: whether `hamiltonian` has spins.
        overlap: S, without spin.
        hamiltonian: H in eV.
    """

    structure: Structure
    spinful: bool
    overlap: Spool
    hamiltonian: Spool


def split_sisl(
    hamiltonian: Any, scratch: Path | None = None, shift: float = 0.0, name: str = "sisl's Hamiltonian"
) -> SislParts:
    """Take a non-orthogonal `sisl.Hamiltonian` apart. Spin-polarized ones become spinors without ↑↓ parts.

    Args:
        hamiltonian: of sisl.
        scratch: folder for unnamed files that hold the elements; memory by default.
        shift: H + shift · S is returned, eV.
        name: of where it comes from, for messages.

    Raises:
        DataError: an orthogonal basis, ghost atoms, or a spin that sisl knows and we do not (Nambu).
    """
    geometry, spin = hamiltonian.geometry, hamiltonian.spin
    if hamiltonian.orthogonal:
        raise DataError(f"{name} has an orthogonal basis: there is no overlap to convert")
    numbers = np.array(geometry.atoms.Z, dtype=np.int64)
    if ((numbers < 1) | (numbers >= len(chemical_symbols))).any():
        raise DataError(f"{name}: ghost atoms and unknown species cannot be converted")
    structure = Structure(
        numbers,
        np.array(geometry.xyz, dtype=np.float64),
        np.array(geometry.cell, dtype=np.float64),
        np.ones(3, dtype=bool),
    )
    csr = hamiltonian._csr
    csr.finalize()
    spinful = not spin.is_unpolarized
    overlap = Spool(scratch)
    matrix = Spool(scratch, np.complex128 if spinful else np.float64, spinful=spinful)
    offsets = np.array(geometry.lattice.sc_off, dtype=np.int64)
    for start in range(0, csr.nnz, PIECE):
        part = slice(start, min(start + PIECE, csr.nnz))
        rows = np.searchsorted(csr.ptr, np.arange(part.start, part.stop), side="right") - 1
        image, columns = np.divmod(csr.col[part].astype(np.int64), geometry.no)
        data = csr._D[part]
        s_values = np.real(data[:, hamiltonian.S_idx]).astype(np.float64)
        overlap.add(Elements(offsets[image], rows, columns, s_values))
        for spins, values in _spin_parts(data, spin, name).items():
            shifted = values + (shift * s_values if spins[0] == spins[1] else 0.0)
            table = np.broadcast_to(np.array(spins), (len(rows), 2)) if spinful else None
            matrix.add(Elements(offsets[image], rows, columns, shifted, table))
    return SislParts(structure, spinful, overlap, matrix)


def _spin_parts(data: np.ndarray, spin: Any, name: str) -> dict[tuple[int, int], np.ndarray]:
    """(spin of row, of column) → values, from sisl's columns."""
    complex_kind = np.dtype(data.dtype).kind == "c"
    if spin.is_unpolarized:
        return {_UP_UP: np.real(data[:, 0])}
    if spin.is_polarized:
        return {_UP_UP: data[:, 0], _DOWN_DOWN: data[:, 1]}
    if spin.is_noncolinear:
        mixed = data[:, 2] if complex_kind else data[:, 2] + 1j * data[:, 3]
        return {_UP_UP: data[:, 0], _DOWN_DOWN: data[:, 1], _UP_DOWN: mixed, _DOWN_UP: mixed.conj()}
    if spin.is_spinorbit:
        columns_of = dict(zip((_UP_UP, _DOWN_DOWN, _UP_DOWN, _DOWN_UP), ((0, 4), (1, 5), (2, 3), (6, 7)), strict=True))
        return {
            spins: data[:, number] if complex_kind else data[:, real] + 1j * data[:, imaginary]
            for number, (spins, (real, imaginary)) in enumerate(columns_of.items())
        }
    raise DataError(f"{name}: sisl's spin '{spin}' cannot be converted")


def shells_of(atoms: Any, name: str = "sisl's atoms") -> OrbitalMap | None:
    """Shells of every element from sisl's `Atoms`, in their order; None when they carry no quantum numbers.

    Args:
        atoms: of sisl.
        name: of where they come from, for messages.

    Raises:
        DataError: shells that are not runs of m = −l…l, or that differ between atoms of an element.
    """
    table: dict[int, list[int]] = {}
    for atom in atoms.atom:
        orbitals = atom.orbitals
        if not all(hasattr(orbital, "l") and hasattr(orbital, "m") for orbital in orbitals):
            return None
        shells: list[int] = []
        expected: list[int] = []
        for orbital in orbitals:
            if not expected:
                shells.append(int(orbital.l))
                expected = list(range(-orbital.l, orbital.l + 1))
            if orbital.l != shells[-1] or orbital.m != expected.pop(0):
                raise DataError(f"{name}: orbitals of {atom.symbol} are not in shells of m = −l…l")
        if table.setdefault(int(atom.Z), shells) != shells:
            raise DataError(
                f"{name}: atoms of {atom.symbol} have different shells; one element must have one orbital map"
            )
    return OrbitalMap(dict(sorted((z, tuple(ls)) for z, ls in table.items())))


def to_sisl(system: DeephSystem) -> Any:
    """A `sisl.Hamiltonian` with S, atoms in the user's order, orbitals in SIESTA's order and signs, as sisl expects.

    Energies keep the zero of H; spinors become sisl's spin-orbit kind.

    Raises:
        DataError: when the system has no Hamiltonian.
        ModuleNotFoundError: without sisl.
    """
    import sisl
    from scipy.sparse import csr_matrix

    system = in_users_order(system)
    if system.hamiltonian is None:
        raise DataError("there is no Hamiltonian to hand to sisl")
    structure, shells = system.structure, system.info.orbital_map.shells
    atoms = {z: sisl.Atom(z, [_orbital(sisl, *key) for key in _quantum_numbers(shells[z])]) for z in shells}
    pairs = system.overlap.pairs
    reach = np.abs(pairs[:, :3]).max(axis=0)
    geometry = sisl.Geometry(
        structure.positions,
        [atoms[z] for z in structure.numbers.tolist()],
        lattice=sisl.Lattice(structure.cell, nsc=2 * reach + 1),
    )
    spinful = system.info.spinful
    matrix = sisl.Hamiltonian(
        geometry, spin=sisl.Spin("spin-orbit" if spinful else "unpolarized"), orthogonal=False, dtype=np.float64
    )
    orbitals = system.info.orbital_map.orbitals(structure.numbers)
    offsets = geometry.lattice.sc_index(pairs[:, :3])
    _, rows, columns, s_values = _coordinates(system, system.overlap, orbitals, 1)
    spins, h_rows, h_columns, h_values = _coordinates(system, system.hamiltonian, orbitals, 2 if spinful else 1)
    image = np.repeat(offsets, np.diff(system.overlap.offsets))
    h_image = np.repeat(offsets, np.diff(system.hamiltonian.offsets))
    shape = (geometry.no, geometry.no * geometry.n_s)

    def sparse(values: np.ndarray, chosen: np.ndarray) -> Any:
        where = (h_rows[chosen], h_columns[chosen] + h_image[chosen] * geometry.no)
        return csr_matrix((values[chosen], where), shape=shape)

    overlap = csr_matrix((s_values, (rows, columns + image * geometry.no)), shape=shape)
    if not spinful:
        parts = [sparse(h_values, np.ones(len(h_values), dtype=bool))]
    else:
        kinds = {key: (spins == key).all(axis=1) for key in (_UP_UP, _DOWN_DOWN, _UP_DOWN, _DOWN_UP)}
        real, imaginary = h_values.real, h_values.imag
        order = [(real, _UP_UP), (real, _DOWN_DOWN), (real, _UP_DOWN), (imaginary, _UP_DOWN)]
        order += [(imaginary, _UP_UP), (imaginary, _DOWN_DOWN), (real, _DOWN_UP), (imaginary, _DOWN_UP)]
        parts = [sparse(values, kinds[key]) for values, key in order]
    return matrix.fromsp(geometry, parts, overlap, spin=matrix.spin)


def _quantum_numbers(shells: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(l, m, zeta) of every orbital."""
    seen: dict[int, int] = {}
    numbers = []
    for li in shells:
        seen[li] = seen.get(li, 0) + 1
        numbers += [(li, m, seen[li]) for m in range(-li, li + 1)]
    return numbers


def _orbital(sisl: Any, li: int, m: int, zeta: int) -> Any:
    return sisl.AtomicOrbital(n=li + 1, l=li, m=m, zeta=zeta)


def _coordinates(
    system: DeephSystem, blocks: BlockSet, orbitals: np.ndarray, spins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spins (n, 2), rows, columns, values of every entry, in SIESTA's order and signs."""
    orbital_map, numbers = system.info.orbital_map, system.structure.numbers
    first = np.concatenate([[0], np.cumsum(orbitals)])
    place = np.empty(first[-1], dtype=np.int64)
    sign = np.empty(first[-1])
    for number in np.unique(numbers).tolist():
        order, signs = orbital_change("siesta", orbital_map, number)
        place[first[:-1][numbers == number, None] + np.arange(len(order))] = first[:-1][numbers == number, None] + order
        sign[first[:-1][numbers == number, None] + np.arange(len(order))] = signs
    i, j = blocks.pairs[:, 3], blocks.pairs[:, 4]
    sizes = np.diff(blocks.offsets)
    within = spread(np.zeros(len(i), dtype=np.int64), sizes)
    width = np.repeat(orbitals[j] * spins, sizes)
    (row_spin, row), (column_spin, column) = (
        np.divmod(part, np.repeat(orbitals[atom], sizes)) for part, atom in ((within // width, i), (within % width, j))
    )
    row, column = row + np.repeat(first[i], sizes), column + np.repeat(first[j], sizes)
    values = blocks.entries * (sign[row] * sign[column])
    return np.stack([row_spin, column_spin], axis=1), place[row], place[column], values
