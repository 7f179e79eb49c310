"""GPAW's LCAO calculations, through its Python objects, as DeepH systems. GPAW is imported on use."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem
from deeph_mpi.data.elements import Elements, system_of
from deeph_mpi.data.kmesh import farthest, to_real_space
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = ["from_gpaw"]

log = logging.getLogger(__name__)

_PRINTED = 1e-4  # eV; below this H has decayed within the supercell of the k mesh


def from_gpaw(calculator: Any, *, cutoff: float | None = None) -> DeephSystem:
    """H and S of a finished `GPAW(mode="lcao", symmetry="off", …)` on a complete k mesh, on one process.

    Both are brought to real space on the mesh and exact at its points: take one within whose supercell they decay. PAW's S
    is not a two-centre matrix (projectors of third atoms enter), so a two-centre table reproduces it only so far.

    Args:
        calculator: after `atoms.get_potential_energy()`.
        cutoff: keep pairs up to this distance, Å; all by default.

    Returns:
        The system; spin-polarized runs become spinors without ↑↓ parts. Energies count from GPAW's zero.

    Raises:
        DataError: another mode, reduced k-points, or elements with two bases.
    """
    wfs = calculator.wfs
    if getattr(wfs, "mode", "") != "lcao":
        raise DataError(f"GPAW's mode is '{getattr(wfs, 'mode', '?')}'; only mode='lcao' has localized orbitals")
    kpoints = np.array(wfs.kd.bzk_kc, dtype=np.float64)
    if len(kpoints) != len(wfs.kd.ibzk_kc):
        raise DataError("GPAW's k-points are reduced by symmetry; run with symmetry='off'")
    from gpaw.lcao.tools import get_lcao_hamiltonian

    h_matrices, s_matrices = get_lcao_hamiltonian(calculator)
    atoms = calculator.get_atoms()
    numbers = np.array(atoms.numbers, dtype=np.int64)
    pbc = np.array(atoms.pbc, dtype=bool)
    structure = Structure(numbers, np.array(atoms.positions), np.array(atoms.cell), pbc)
    orbital_map = _shells(wfs.setups, numbers)
    orbitals = orbital_map.orbitals(numbers)
    overlap = to_real_space(kpoints, s_matrices, structure, orbitals)
    parts = [to_real_space(kpoints, matrices, structure, orbitals) for matrices in h_matrices]
    if pbc.any() and (far := max(farthest(part, structure, orbitals) for part in parts)) > _PRINTED:
        log.warning("H at the edge of the k mesh's supercell is %.2g eV: bands between its points suffer", far)
    if len(parts) == 2:
        for spin, part in enumerate(parts):
            part.values = part.values.astype(np.complex128)
            part.spins = np.full((len(part.rows), 2), spin, dtype=np.int64)
    info = DeephInfo(
        orbital_map,
        len(parts) == 2,
        fermi_energy_eV=float(calculator.get_fermi_level()),
        occupation=float(calculator.get_number_of_electrons()),
        pbc=(bool(pbc[0]), bool(pbc[1]), bool(pbc[2])),
    )
    return system_of(
        structure, info, overlap, Elements.join(parts), convention="gpaw", name="GPAW's calculation", cutoff=cutoff
    )


def _shells(setups: Any, numbers: np.ndarray) -> OrbitalMap:
    table: dict[int, tuple[int, ...]] = {}
    for setup, number in zip(setups, numbers.tolist(), strict=True):
        functions = getattr(setup, "basis_functions_J", None) or setup.phit_j
        shells = tuple(int(function.get_angular_momentum_number()) for function in functions)
        if table.setdefault(number, shells) != shells:
            raise DataError(f"atoms of element {number} have different bases; one element must have one orbital map")
    return OrbitalMap(dict(sorted(table.items())))
