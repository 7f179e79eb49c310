"""PySCF's mean-field objects, of molecules and crystals, as DeepH systems. PySCF is imported on use."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.kmesh import farthest, to_real_space
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = ["from_pyscf"]

log = logging.getLogger(__name__)

_MARGIN = 10.0  # Å around a molecule: its cell is not periodic
_PRINTED = 1e-4  # eV; below this H has decayed within the supercell of the k mesh


def from_pyscf(mean_field: Any, *, cutoff: float | None = None, threshold: float = 1e-10) -> DeephSystem:
    """H and S of a finished calculation.

    Molecules: RHF, RKS, UHF, UKS (as spinors without ↑↓ parts), GHF, GKS. Crystals: the same at Γ or on a complete
    k mesh (`KRKS(cell, cell.make_kpts([4, 4, 4]))`, no symmetry). S is summed over the lattice element by element; H(k) is
    brought to real space on the mesh and is exact at its points: take a mesh within whose supercell H decays.

    Args:
        mean_field: PySCF's object after `kernel()`.
        cutoff: keep pairs up to this distance, Å; all by default.
        threshold: elements of S below it are left out, for crystals.

    Raises:
        DataError: not converged, Cartesian functions, ghost atoms, elements with two bases, or reduced k-points.
    """
    if not getattr(mean_field, "converged", False):
        raise DataError("PySCF's calculation has not converged (or not run)")
    mol = mean_field.mol
    if mol.cart:
        raise DataError("Cartesian Gaussians (mol.cart = True) cannot be converted")
    numbers = np.array([atomic_numbers.get(mol.atom_pure_symbol(atom), 0) for atom in range(mol.natm)], dtype=np.int64)
    if (numbers == 0).any():
        raise DataError("ghost atoms cannot be converted")
    periodic = hasattr(mol, "lattice_vectors")
    orbital_map = _shells(mol, numbers)
    structure = _structure(mol, numbers, periodic)
    orbitals = orbital_map.orbitals(numbers)
    if periodic:
        kpoints = np.atleast_2d(mean_field.kpts if hasattr(mean_field, "kpts") else mean_field.kpt)
        if kpoints.ndim != 2 or kpoints.shape[1] != 3:
            raise DataError("k-points reduced by symmetry cannot be converted; pass cell.make_kpts(…)")
        fractional = mol.get_scaled_kpts(kpoints)
        overlap = _lattice_overlap(mol, structure, threshold)
    else:
        fractional = np.zeros((1, 3))
        overlap = _whole(mean_field.get_ovlp()[: mol.nao, : mol.nao])
    hamiltonian = _hamiltonian(mean_field.get_fock(), fractional, structure, orbitals, mol.nao)
    if periodic and (far := farthest(hamiltonian, structure, orbitals)) > _PRINTED:
        log.warning("H at the edge of the k mesh's supercell is %.2g eV: bands between its points suffer", far)
    info = DeephInfo(
        orbital_map,
        hamiltonian.spins is not None,
        fermi_energy_eV=_fermi(mean_field),
        occupation=float(mol.nelectron),
        pbc=(periodic,) * 3,
    )
    name = f"PySCF's {type(mean_field).__name__}"
    return system_of(structure, info, overlap, hamiltonian, convention="pyscf", name=name, cutoff=cutoff)


def _shells(mol: Any, numbers: np.ndarray) -> OrbitalMap:
    table: dict[int, tuple[int, ...]] = {}
    for atom, number in enumerate(numbers.tolist()):
        shells = tuple(
            int(mol.bas_angular(shell)) for shell in mol.atom_shell_ids(atom) for _ in range(mol.bas_nctr(shell))
        )
        if table.setdefault(number, shells) != shells:
            raise DataError(f"atoms of element {number} have different bases; one element must have one orbital map")
    return OrbitalMap(dict(sorted(table.items())))


def _structure(mol: Any, numbers: np.ndarray, periodic: bool) -> Structure:
    positions = np.array(mol.atom_coords(unit="Angstrom"), dtype=np.float64)
    if periodic:
        from pyscf.lib.parameters import BOHR

        return Structure(numbers, positions, np.array(mol.lattice_vectors()) * BOHR, np.ones(3, dtype=bool))
    cell = np.diag(np.ptp(positions, axis=0) + 2 * _MARGIN)
    return Structure(numbers, positions, cell, np.zeros(3, dtype=bool))


def _whole(matrix: np.ndarray) -> Elements:
    rows, columns = np.indices(matrix.shape)
    images = np.zeros((matrix.size, 3), dtype=np.int64)
    return Elements(images, rows.ravel(), columns.ravel(), np.asarray(matrix).ravel())


def _lattice_overlap(cell: Any, structure: Structure, threshold: float) -> Elements:
    """⟨φ_i| φ_j in cell R⟩ for every R within reach, by PySCF's two-centre integrals."""
    from pyscf.gto import intor_cross

    vectors = np.array(cell.get_lattice_Ls())
    images = np.round(np.linalg.solve(np.array(cell.lattice_vectors()).T, vectors.T).T).astype(np.int64)
    home = cell.to_mol()
    parts = []
    for image, vector in zip(images, vectors, strict=True):
        moved = home.copy()
        moved.set_geom_(cell.atom_coords() + vector, unit="Bohr")
        matrix = intor_cross("int1e_ovlp", home, moved)
        rows, columns = np.nonzero(np.abs(matrix) > threshold)
        parts.append(Elements(np.tile(image, (len(rows), 1)), rows, columns, matrix[rows, columns]))
    return Elements.join(parts)


def _hamiltonian(fock: Any, kpoints: np.ndarray, structure: Structure, orbitals: np.ndarray, size: int) -> Elements:
    """H in eV from any shape that `get_fock` returns: [2 spins,] [k,] n × n, or 2n × 2n of generalized spins."""
    from pyscf.data.nist import HARTREE2EV

    matrices = np.asarray(fock) * HARTREE2EV
    if matrices.shape[-1] == 2 * size:
        if len(kpoints) > 1 or structure.pbc.any():
            raise DataError("generalized spins of crystals cannot be converted")
        parts = []
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = _whole(matrices[row * size :, column * size :][:size, :size].astype(np.complex128))
            part.spins = np.tile([row, column], (len(part.rows), 1))
            parts.append(part)
        return Elements.join(parts)
    collinear = matrices.size == 2 * len(kpoints) * size**2
    parts = [
        to_real_space(kpoints, part, structure, orbitals) if structure.pbc.any() else _whole(part[0])
        for part in matrices.reshape(-1, len(kpoints), size, size)
    ]
    if not collinear:
        return parts[0]
    for spin, part in enumerate(parts):
        part.values = part.values.astype(np.complex128)
        part.spins = np.full((len(part.rows), 2), spin, dtype=np.int64)
    return Elements.join(parts)


def _fermi(mean_field: Any) -> float | None:
    """Middle between the highest occupied and the lowest empty level, eV."""
    from pyscf.data.nist import HARTREE2EV

    energies = np.concatenate([np.ravel(part) for part in _flat(mean_field.mo_energy)])
    occupied = np.concatenate([np.ravel(part) for part in _flat(mean_field.mo_occ)]) > 0
    if not occupied.any() or occupied.all():
        return None
    return float((energies[occupied].max() + energies[~occupied].min()) / 2 * HARTREE2EV)


def _flat(values: Any) -> list[np.ndarray]:
    """Arrays of lists, tuples and arrays of any depth."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return [values]
    return [array for part in values for array in _flat(part)]
