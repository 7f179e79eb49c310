"""H(k) and S(k) assembled by any number of ranks against plain loops over the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from deeph_mpi.assembly.export import write_petsc
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import DeephError, SolverError
from deeph_mpi.parallel import World
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil
from tests.systems import ORBITALS, carbon_system, random_system

KPOINTS = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.21, -0.13, 0.37), (1 / 3, 1 / 3, 0.0)]


def owners(world: World, atoms: int, layout: str) -> Partition:
    """Rows dealt to ranks at random, or all to the last rank, the others empty."""
    owner = (
        np.full(atoms, world.size - 1) if layout == "last" else np.random.default_rng(5).integers(0, world.size, atoms)
    )
    return Partition(owner.astype(np.int32), world.size)


def part(blocks: BlockSet, sizes: np.ndarray, mine: np.ndarray) -> BlockSet:
    """Blocks (R, i, j) with i among `mine`, in a shuffled order."""
    chosen = np.flatnonzero(np.isin(blocks.pairs[:, 3], mine))
    np.random.default_rng(1).shuffle(chosen)
    result = BlockSet.allocate(blocks.pairs[chosen], sizes, blocks.entries.dtype)
    for n, index in enumerate(chosen):
        result.block(n, sizes)[:] = blocks.block(int(index), sizes)
    return result


def bloch(blocks: BlockSet, sizes: np.ndarray, k: tuple[float, ...]) -> np.ndarray:
    """Σ_R e^{2πi k·R} A(R) in atom order, one block at a time."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    matrix = np.zeros((first[-1], first[-1]), dtype=complex)
    for n, (r1, r2, r3, i, j) in enumerate(blocks.pairs):
        phase = np.exp(2j * np.pi * (k[0] * r1 + k[1] * r2 + k[2] * r3))
        matrix[first[i] : first[i + 1], first[j] : first[j + 1]] += phase * blocks.block(n, sizes)
    return matrix


def dense(world: World, pencil: Pencil, matrix: object, rows: RowMap) -> np.ndarray:
    """All rows of a distributed matrix, undone from the doubled form, in atom order."""
    low, high = matrix.getOwnershipRange()
    unit, column = matrix.createVecs()
    local = np.empty((high - low, matrix.getSize()[0]))
    for n in range(local.shape[1]):
        unit.set(0.0)
        if low <= n < high:
            unit.getArray()[n - low] = 1.0
        matrix.mult(unit, column)
        local[:, n] = column.getArray()
    unit.destroy()
    column.destroy()
    whole = np.concatenate(world.comm.allgather(local))
    assert np.array_equal(whole, whole.T), "not symmetric to the bit"
    if pencil.multiplicity == 2:
        re, im = (
            np.concatenate(world.comm.allgather(part + low)) for part in (pencil.real_part, pencil.imaginary_part)
        )
        assert np.array_equal(whole[np.ix_(re, re)], whole[np.ix_(im, im)])
        assert np.array_equal(whole[np.ix_(re, im)], -whole[np.ix_(im, re)])
        whole = whole[np.ix_(re, re)] + 1j * whole[np.ix_(im, re)]
    to_atoms = np.concatenate([rows.atom_order(rank) for rank in range(world.size)])
    result = np.empty_like(whole)
    result[np.ix_(to_atoms, to_atoms)] = whole
    return result


@pytest.mark.parametrize("layout", ["random", "last"])
@pytest.mark.parametrize("spinful", [False, True])
def test_pencil_is_the_bloch_sum(world: World, spinful: bool, layout: str) -> None:
    system = random_system(3, spinful=spinful)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    sizes = orbitals * (2 if spinful else 1)
    partition = owners(world, len(orbitals), layout)
    rows = RowMap(partition, sizes)
    mine = partition.atoms(world.rank)
    h, s = part(system.hamiltonian, sizes, mine), part(system.overlap, orbitals, mine)
    assembler = PencilAssembler(world, rows, h, s, spinful=spinful)
    up_and_down = np.concatenate([np.concatenate([np.tile(np.arange(n), 2) for n in orbitals])])
    for k in KPOINTS:
        pencil = assembler.pencil(np.array(k))
        assert pencil.multiplicity == (2 if spinful or k in KPOINTS[2:] else 1)
        expected = bloch(system.hamiltonian, sizes, k)
        np.testing.assert_allclose(dense(world, pencil, pencil.h, rows), expected, atol=1e-12)
        overlap = bloch(system.overlap, orbitals, k)
        if spinful:  # S times the unit matrix of spin, spin outside the orbitals of an atom
            atom = np.repeat(np.arange(len(sizes)), sizes)
            spin = np.concatenate([np.repeat([0, 1], n) for n in orbitals])
            scalar = (np.cumsum(orbitals) - orbitals)[atom] + up_and_down
            overlap = overlap[np.ix_(scalar, scalar)] * (spin[:, None] == spin)
        np.testing.assert_allclose(dense(world, pencil, pencil.s, rows), overlap, atol=1e-12)
        pencil.destroy()


def test_pencil_is_filled_anew(world: World) -> None:
    system = random_system(3)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    partition = owners(world, len(orbitals), "random")
    rows = RowMap(partition, orbitals)
    mine = partition.atoms(world.rank)
    assembler = PencilAssembler(
        world, rows, part(system.hamiltonian, orbitals, mine), part(system.overlap, orbitals, mine)
    )
    first = assembler.pencil(np.array(KPOINTS[2]))
    second = assembler.pencil(np.array(KPOINTS[3]), first)
    assert second is first
    np.testing.assert_allclose(
        dense(world, second, second.h, rows), bloch(system.hamiltonian, orbitals, KPOINTS[3]), atol=1e-12
    )
    gamma = assembler.pencil(np.array(KPOINTS[0]), second)
    assert gamma is not second, "real and doubled matrices have different patterns"
    second.destroy()
    gamma.destroy()


@pytest.mark.parametrize("layout", ["random", "last"])
def test_atoms_of_one_size_are_held_by_blocks(world: World, layout: str) -> None:
    system = carbon_system()
    orbitals = np.full(len(system.structure), 13)
    partition = owners(world, len(orbitals), layout)
    rows = RowMap(partition, orbitals)
    mine = partition.atoms(world.rank)
    assert system.hamiltonian is not None
    assembler = PencilAssembler(
        world, rows, part(system.hamiltonian, orbitals, mine), part(system.overlap, orbitals, mine)
    )
    for k in KPOINTS:
        pencil = assembler.pencil(np.array(k))
        assert pencil.block == 13 * pencil.multiplicity
        for matrix, blocks in ((pencil.h, system.hamiltonian), (pencil.s, system.overlap)):
            np.testing.assert_allclose(dense(world, pencil, matrix, rows), bloch(blocks, orbitals, k), atol=1e-12)
        pencil.destroy()


@pytest.mark.parametrize("layout", ["random", "last"])
def test_blocks_of_vectors_are_multiplied_as_single_ones(world: World, layout: str) -> None:
    """Whatever holds the matrices, and when they were filled anew."""
    system = random_system(4)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    partition = owners(world, len(orbitals), layout)
    rows = RowMap(partition, orbitals)
    mine = partition.atoms(world.rank)
    assembler = PencilAssembler(
        world, rows, part(system.hamiltonian, orbitals, mine), part(system.overlap, orbitals, mine)
    )
    pencil, found = None, []
    for k in KPOINTS[2:]:
        pencil = assembler.pencil(np.array(k), pencil)
        rng = np.random.default_rng([1, world.rank])
        x = rng.standard_normal((2, pencil.local_dimension, 5))
        x = x[0] + 1j * x[1]
        for matrix in (pencil.h, pencil.s):
            single = np.concatenate([pencil.multiply(matrix, x[:, n : n + 1]) for n in range(5)], axis=1)
            np.testing.assert_allclose(pencil.multiply(matrix, x), single, rtol=0, atol=1e-12)
        found.append(world.max(float(np.abs(single).max(initial=0.0))))
    assert found[0] != found[1]
    assert pencil is not None
    pencil.destroy()


def test_different_lists_of_pairs_share_one_pattern(world: World) -> None:
    system = random_system(4)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    partition = owners(world, len(orbitals), "random")
    rows = RowMap(partition, orbitals)
    mine = partition.atoms(world.rank)
    short = system.overlap.pairs
    near = np.flatnonzero(np.abs(short[:, :3]).sum(axis=1) == 0)
    onsite_and_home = BlockSet.allocate(short[near], orbitals, np.float64)
    for n, index in enumerate(near):
        onsite_and_home.block(n, orbitals)[:] = system.overlap.block(int(index), orbitals)
    assembler = PencilAssembler(
        world, rows, part(system.hamiltonian, orbitals, mine), part(onsite_and_home, orbitals, mine)
    )
    pencil = assembler.pencil(np.array(KPOINTS[2]))
    np.testing.assert_allclose(
        dense(world, pencil, pencil.h, rows), bloch(system.hamiltonian, orbitals, KPOINTS[2]), atol=1e-12
    )
    np.testing.assert_allclose(
        dense(world, pencil, pencil.s, rows), bloch(onsite_and_home, orbitals, KPOINTS[2]), atol=1e-12
    )
    pencil.destroy()


def test_bad_blocks_are_refused_by_all_ranks(world: World) -> None:
    system = random_system(5)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    partition = owners(world, len(orbitals), "random")
    rows = RowMap(partition, orbitals)
    mine = partition.atoms(world.rank)

    def refused(h: BlockSet, s: BlockSet, message: str) -> None:
        with pytest.raises(DeephError, match=message) as caught:
            PencilAssembler(world, rows, h, s)
        assert caught.value.everywhere

    good_h, good_s = part(system.hamiltonian, orbitals, mine), part(system.overlap, orbitals, mine)
    owner_of_first = int(partition.owner[0])
    twice = good_h
    if world.rank == owner_of_first:
        pairs = np.concatenate([good_h.pairs, good_h.pairs[:1]])
        twice = BlockSet.allocate(pairs, orbitals, np.float64)
    refused(twice, good_s, "given twice|not Hermitian")  # the latter: a block below the diagonal
    onsite = (good_s.pairs[:, 3] == 0) & (good_s.pairs[:, 4] == 0) & ~good_s.pairs[:, :3].any(axis=1)
    refused(good_h, BlockSet.allocate(good_s.pairs[~onsite], orbitals, np.float64), "lacks 1 onsite block")
    wrong = BlockSet(good_h.pairs, good_h.offsets[: len(good_h) + 1] * 2, np.zeros(2 * len(good_h.entries)))
    refused(wrong, good_s, "orbital map does not fit")
    if world.size > 1 and len(np.unique(partition.owner)) > 1:
        everything = part(system.hamiltonian, orbitals, np.arange(len(orbitals)))
        refused(everything, good_s, "does not own")


def test_asymmetric_matrix_is_refused(world: World) -> None:
    noisy, good = random_system(6, noise=1e-7), random_system(6)
    orbitals = ORBITALS.orbitals(good.structure.numbers)
    partition = owners(world, len(orbitals), "random")
    mine = partition.atoms(world.rank)
    for bad, name in ((noisy, "Hamiltonian"), (good, "overlap")):
        h, s = (bad.hamiltonian, good.overlap) if name == "Hamiltonian" else (good.hamiltonian, noisy.hamiltonian)
        assert h is not None
        assert s is not None
        with pytest.raises(SolverError, match=f"{name} is not Hermitian") as caught:
            PencilAssembler(world, RowMap(partition, orbitals), part(h, orbitals, mine), part(s, orbitals, mine))
        assert caught.value.everywhere


def test_petsc_files_are_in_atom_order(world: World, shared_path: Path) -> None:
    system = random_system(8)
    assert system.hamiltonian is not None
    orbitals = ORBITALS.orbitals(system.structure.numbers)
    partition = owners(world, len(orbitals), "random")
    mine = partition.atoms(world.rank)
    h, s = part(system.hamiltonian, orbitals, mine), part(system.overlap, orbitals, mine)
    library, _ = petsc.load()
    for path, blocks in zip(
        write_petsc(PencilAssembler(world, RowMap(partition, orbitals), h, s), shared_path / "out"),
        (system.hamiltonian, system.overlap),
        strict=True,
    ):
        viewer = library.Viewer().createBinary(str(path), "r", comm=library.COMM_SELF)
        matrix = library.Mat().load(viewer)
        indptr, indices, data = matrix.getValuesCSR()
        whole = scipy.sparse.csr_matrix((data, indices, indptr)).toarray()
        np.testing.assert_allclose(whole, bloch(blocks, orbitals, KPOINTS[0]), atol=1e-12)
        viewer.destroy()
        matrix.destroy()
