"""From a directory in the DeepH layout to other files by all ranks together: none holds, gathers or sees the whole.

Folders to write to should be `unfinished`.

Every rank reads and writes the rows of a contiguous range of atoms, in the order of the POSCAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.deeph import DeephInfo, check_same_pairs
from deeph_mpi.data.geometry import read_geometry, users_structure, write_geometry
from deeph_mpi.data.mapped import scratch_for
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.data.petscfile import RankRows, write_matrices
from deeph_mpi.data.rowfile import write_rows
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure

__all__ = ["write_petsc", "write_shards"]


@dataclass(frozen=True)
class _Rows:
    """A directory, its matrices divided among ranks.

    Attributes:
        structure: replicated, atoms in the order of the POSCAR.
        info: of the directory.
        order: (N,) the user's index of every atom.
        owner: (N,) rank of every atom, ascending.
        matrices: name → rows of every atom (N,), and this rank's blocks in the order (i, j, R).
    """

    structure: Structure
    info: DeephInfo
    order: np.ndarray
    owner: np.ndarray
    matrices: dict[str, tuple[np.ndarray, BlockSet]]

    @property
    def pairs(self) -> int:
        """Blocks of this rank."""
        return len(self.matrices["overlap"][1])


def write_shards(world: World, source: Path, target: Path) -> tuple[Structure, DeephInfo, int]:
    """Write the DeepH layout again, a shard of every rank joined by an HDF5 virtual dataset, as `infer` does. Collective.

    Returns:
        Structure, metadata, number of pairs.

    Raises:
        DataError: on all ranks, for anything that `read_system` refuses.
    """
    rows = _read(world, source, scratch_for(target))
    structure = users_structure(rows.structure, rows.order)
    world.on_root(write_geometry, target, structure, rows.info.orbital_map, rows.info)
    orbitals = rows.info.orbital_map.orbitals(structure.numbers)
    for name, (_, blocks) in rows.matrices.items():
        pairs = blocks.pairs.copy()
        pairs[:, 3:] = rows.order[pairs[:, 3:]]
        spinful = name == "hamiltonian" and rows.info.spinful
        write_rows(world, target, name, BlockSet(pairs, blocks.offsets, blocks.entries), orbitals, spinful)
    return structure, rows.info, int(world.sum(rows.pairs))


def write_petsc(
    world: World, source: Path, target: Path, kpoint: Sequence[Sequence[float]] = ()
) -> tuple[Structure, DeephInfo, int]:
    """Write H and S in PETSc's binary format, several matrices in each file (`deeph_mpi.data.petscfile`). Collective.

    Without k-points: H(R) and S(R) of all images, in the order of `images.txt`; real, H complex for spinors. With k-points:
    H(k) and S(k) = Σ_R e^{2πi k·R} S(R) of all, in the order of `kpoints.txt`, complex, on one pattern; for a complex build of
    PETSc. Rows as in `deeph_mpi.data.supercell`; at k-points S of spinors has both spins.

    Args:
        world: all ranks; each writes its rows where they belong in the file, which all must be able to open.
        source: in the DeepH layout.
        target: folder.
        kpoint: fractional.

    Returns:
        Structure, metadata, number of pairs.

    Raises:
        DataError: on all ranks: more elements than 32-bit indices count, or anything that `read_system` refuses.
    """
    rows = _read(world, source, scratch_for(target))
    structure = users_structure(rows.structure, rows.order)
    world.on_root(write_geometry, target, structure, rows.info.orbital_map, rows.info)
    pairs = rows.matrices["overlap"][1].pairs
    images = np.unique(np.concatenate(world.comm.allgather(np.unique(pairs[:, :3], axis=0))), axis=0)
    for name, (sizes, blocks) in rows.matrices.items():
        spins = 2 if kpoint and rows.info.spinful and name == "overlap" else 1
        mine = RankRows(blocks, sizes, np.flatnonzero(rows.owner == world.rank), spins)
        kind = ">c16" if kpoint or blocks.entries.dtype.kind == "c" else ">f8"
        if kpoint:
            every = np.arange(len(blocks))
            parts = [(every, np.exp(2j * np.pi * (pairs[:, :3] @ np.array(k)))) for k in kpoint]
        else:
            parts = [(np.flatnonzero((pairs[:, :3] == image).all(axis=1)), None) for image in images]
        write_matrices(world, target / f"{name}.petsc", mine, parts, kind)
    table, listed = ("kpoints.txt", np.array(kpoint)) if kpoint else ("images.txt", images)
    world.on_root(lambda: np.savetxt(target / table, listed, fmt="%.17g" if kpoint else "%d"))
    return structure, rows.info, int(world.sum(rows.pairs))


def _read(world: World, source: Path, scratch: Path) -> _Rows:
    structure, info = world.on_root(read_geometry, source)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    owner = np.arange(len(orbitals)) * world.size // len(orbitals)
    matrices = {}
    for name, spinful in (("overlap", False), ("hamiltonian", info.spinful)):
        blocks = read_rows(world, source / f"{name}.h5", owner, orbitals, spinful, scratch)
        matrices[name] = orbitals * (2 if spinful else 1), blocks
    with world.together():
        check_same_pairs(matrices["hamiltonian"][1], matrices["overlap"][1], str(source))
    order = np.arange(len(orbitals)) if info.atom_order is None else info.atom_order
    return _Rows(structure, info, order, owner, matrices)
