"""Real matrices at any k against dense diagonalization, with every kind of atom and operation, and without symmetry."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import scipy.linalg
from scipy.special import lpmv

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.domain.reversal import find_reversals
from deeph_mpi.parallel import World
from deeph_mpi.solvers.options import SolveOptions
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.spectrum import Spectrum, spectrum
from deeph_mpi.structure.structure import Structure
from tests.parallel.test_assembly import bloch, owners, part

ORBITALS = OrbitalMap.from_symbols({"B": [0, 1], "C": [0, 2, 1], "N": [1, 3]})
CARBON = OrbitalMap.from_symbols({"C": [0, 1, 2]})
RANGE = 4.2  # Å that an orbital reaches
BOX = np.array([[6.2, 0.0, 0.0], [1.1, 5.7, 0.0], [0.0, 0.0, 6.9]])


def crystal(name: str) -> tuple[Structure, OrbitalMap, np.ndarray]:
    """Pairs of atoms, and atoms that are their own partners, at the center and half a lattice vector from it; points, Å."""
    rng = np.random.default_rng(7)
    cell, orbitals = BOX.copy(), ORBITALS
    pairs, numbers = rng.uniform(-0.45, 0.45, (3, 3)), [6, 7, 5]
    others = rng.uniform(-0.5, 0.5, (15, 3))
    single, kinds = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), [6, 5]
    if name == "inversion":
        image, mirrored = -pairs, -others
        single = np.append(single, [[0.5, 0.5, 0.5]], axis=0)
        kinds = [6, 5, 7]
    else:
        if name == "C2z centred":  # W a₃ = a₃ − a₁
            cell[2, :2] = cell[0, :2] / 2
        elif name == "C2z pairs":
            single, kinds, numbers, orbitals = single[:0], [], [6, 6, 6], CARBON
        image, mirrored = ((x @ cell * [-1, -1, 1]) @ np.linalg.inv(cell) for x in (pairs, others))
        single[:, 2] = 0.0
    center = [0.31, 0.17, 0.23] if name == "inversion" else [0.31, 0.17, 0.0]
    fractional = np.concatenate([pairs, single, image]) + center + rng.integers(0, 2, (6 + len(single), 3))
    if name == "none":
        fractional[0] += 0.05
    order = rng.permutation(len(fractional))
    z = np.array([*numbers, *kinds, *numbers], dtype=np.int64)
    points = (np.concatenate([others, mirrored]) + center) @ cell
    return Structure(z[order], (fractional @ cell)[order], cell, np.ones(3, dtype=bool)), orbitals, points


def functions(shells: tuple[int, ...], vectors: np.ndarray) -> np.ndarray:
    """Orbitals (n, orbitals) at `vectors` (n, 3) from their atom: Gaussians times r^l and textbooks' real harmonics."""
    r = np.linalg.norm(vectors, axis=1)
    cosine = np.where(r > 0, vectors[:, 2] / np.maximum(r, 1e-12), 1.0)
    phi = np.arctan2(vectors[:, 1], vectors[:, 0])
    columns = []
    for n, l in enumerate(shells):  # noqa: E741
        radial = np.where(r < RANGE, r**l * np.exp(-(0.5 + 0.15 * n) * r**2), 0.0)
        for m in range(-l, l + 1):
            angular = np.sin(-m * phi) if m < 0 else np.cos(m * phi)
            columns.append(radial * (-1) ** m * lpmv(abs(m), l, cosine) * angular)
    return np.stack(columns, axis=1)


@cache
def system(name: str) -> tuple[Structure, OrbitalMap, BlockSet, BlockSet]:
    """Structure, orbitals, H and S = Σ_p w_p φ(p) φ(p)ᵀ over points p: with all the symmetry that these have."""
    structure, orbitals, grid = crystal(name)
    sizes = orbitals.orbitals(structure.numbers)
    span = 4  # cells to each side that orbitals of the atoms reach
    cells = np.array(list(itertools.product(range(-span, span + 1), repeat=3)))
    points = grid + (cells @ structure.cell)[:, None]  # (cells, points, 3)
    weights = np.cos(np.arange(len(grid)) % (len(grid) // 2))
    values = []  # of every atom in cell 0: orbitals at the points of the cells that it reaches
    for z, position in zip(structure.numbers, structure.positions, strict=True):
        near = np.flatnonzero((np.linalg.norm(points - position, axis=2) < RANGE).any(axis=1))
        at = functions(orbitals.shells[int(z)], (points[near] - position).reshape(-1, 3))
        values.append((near, at.reshape(len(near), len(grid), -1)))
        assert np.abs(cells[near]).max() < span
    found: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    for (i, (near, left)), (j, (others, right)) in itertools.product(enumerate(values), repeat=2):
        for image in np.unique((cells[near][:, None] - cells[others]).reshape(-1, 3), axis=0):
            shifted = {tuple(c): n for n, c in enumerate((cells[others] + image).tolist())}
            both = [(n, shifted[c]) for n, c in enumerate(map(tuple, cells[near].tolist())) if c in shifted]
            here, there = (np.array(side) for side in zip(*both, strict=True))
            h = np.einsum("cax,a,cay->xy", left[here], weights, right[there])
            s = 0.3 * np.einsum("cax,cay->xy", left[here], right[there])
            if np.abs(s).max() > 1e-9:
                found[(*image.tolist(), i, j)] = (h, s)
    table = np.array(sorted(k for k in found if (-k[0], -k[1], -k[2], k[4], k[3]) in found))
    made = tuple(BlockSet.allocate(table, sizes, np.float64) for _ in range(2))
    for n, key in enumerate(table.tolist()):
        back = (-key[0], -key[1], -key[2], key[4], key[3])
        for blocks, a, b in zip(made, found[tuple(key)], found[back], strict=True):
            blocks.block(n, sizes)[:] = (a + b.T) / 2
        if back == tuple(key):
            shells = orbitals.shells[int(structure.numbers[key[3]])]
            levels = np.repeat(np.arange(len(shells)) - 0.6, 2 * np.array(shells) + 1)
            made[0].block(n, sizes)[:] += np.diag(levels)
            made[1].block(n, sizes)[:] += np.eye(len(levels))
    return structure, orbitals, *made


def assembler(world: World, name: str, kpoints: np.ndarray, gauge: bool = True, noise: float = 0.0) -> PencilAssembler:
    structure, orbitals, h, s = system(name)
    sizes = orbitals.orbitals(structure.numbers)
    partition = owners(world, len(structure), "random")
    mine = partition.atoms(world.rank)
    if noise:
        h = BlockSet(h.pairs, h.offsets, h.entries.copy())
        h.block(int(np.flatnonzero((h.pairs == [0, 0, 0, 0, 0]).all(axis=1))[0]), sizes)[0, 0] += noise
    found = [r for r in find_reversals(structure) if all(r.keeps(k) for k in kpoints)]
    made = RealGauge.of(found[0], structure, orbitals, kpoints) if gauge and found else None
    return PencilAssembler(world, RowMap(partition, sizes), part(h, sizes, mine), part(s, sizes, mine), gauge=made)


PLANE = np.array([[0.21, -0.13, 0.0], [1 / 3, 1 / 3, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.4, 0.11, 0.5]])
SPACE = np.append(PLANE, [[0.37, 0.05, 0.29]], axis=0)
CENTRED = np.array([[0.2, 0.3, 0.1], [0.5, 0.07, 0.25], [0.0, 0.0, 0.0]])  # 2 k₃ = k₁: in the plane normal to the axis
CASES = {"inversion": SPACE, "C2z": PLANE, "C2z pairs": PLANE, "C2z centred": CENTRED}


@pytest.mark.parametrize("name", CASES)
def test_levels_are_those_of_the_complex_matrices(world: World, name: str) -> None:
    structure, orbitals, h, s = system(name)
    sizes = orbitals.orbitals(structure.numbers)
    kpoints = CASES[name]
    found = assembler(world, name, kpoints)
    pencil, rows = None, found.rows
    for k in kpoints:
        former = pencil
        pencil = found.pencil(k, former)
        assert former is None or pencil is former
        assert pencil.multiplicity == 1
        assert pencil.dimension == rows.dimension
        assert pencil.gauge is not None
        low, high = pencil.h.getOwnershipRange()
        basis = pencil.orbitals(np.eye(rows.dimension)[low:high])  # rows of the functions by orbitals
        to_atoms = np.concatenate([rows.atom_order(rank) for rank in range(world.size)])
        change = np.empty((rows.dimension, rows.dimension), dtype=complex)
        change[to_atoms] = np.concatenate(world.comm.allgather(basis))
        np.testing.assert_allclose(change.conj().T @ change, np.eye(len(change)), atol=1e-13)
        made = []
        for matrix, blocks in ((pencil.h, h), (pencil.s, s)):
            expected = change.conj().T @ bloch(blocks, sizes, tuple(k)) @ change
            assert np.abs(expected.imag).max() < 1e-11
            made.append(np.concatenate(world.comm.allgather(pencil.multiply(matrix, np.eye(len(change))[low:high]))))
            np.testing.assert_allclose(made[-1], expected.real, atol=1e-11)
        dense = scipy.linalg.eigh(bloch(h, sizes, tuple(k)), bloch(s, sizes, tuple(k)), eigvals_only=True)
        np.testing.assert_allclose(scipy.linalg.eigh(*made, eigvals_only=True), dense, atol=1e-9)
    assert pencil is not None
    pencil.destroy()


def states(world: World, name: str, kpoints: np.ndarray, *, gauge: bool, **options: object) -> Spectrum:
    structure, orbitals, _, _ = system(name)
    mine = assembler(world, name, kpoints, gauge)
    shells = ShellTable.build(structure.numbers, orbitals)
    groups = shells.groups(mine.rows.partition.atoms(world.rank), spins=1)
    return spectrum(mine, kpoints, SolveOptions(groups=groups, eigenvectors=True, electrons=20, **options))


@pytest.mark.parametrize("options", [{"states": 6, "prove": False}, {"window": (-0.4, 0.4)}], ids=str)
def test_states_are_those_of_the_doubled_matrices(world: World, options: dict[str, object]) -> None:
    name, kpoints = "C2z", PLANE[[0, 3]]
    structure, orbitals, h, s = system(name)
    sizes = orbitals.orbitals(structure.numbers)
    ours, doubled = (states(world, name, kpoints, gauge=gauge, **options) for gauge in (True, False))
    assert ours.fermi is not None
    assert doubled.fermi is not None
    assert ours.fermi.energy == pytest.approx(doubled.fermi.energy, abs=1e-9)
    assert ours.vectors is not None
    assert ours.populations is not None
    assert doubled.populations is not None
    rows = RowMap(owners(world, len(structure), "random"), sizes)
    to_atoms = np.concatenate([rows.atom_order(rank) for rank in range(world.size)])
    for n, k in enumerate(kpoints):
        assert ours.verified[n] or "prove" in options
        energies = ours.energies[n][np.isfinite(ours.energies[n])]
        dense = scipy.linalg.eigh(bloch(h, sizes, tuple(k)), bloch(s, sizes, tuple(k)), eigvals_only=True)
        first = int(ours.first[n])
        np.testing.assert_allclose(energies, dense[first : first + len(energies)], atol=1e-9)
        vectors = np.empty((len(to_atoms), len(energies)), dtype=complex)
        vectors[to_atoms] = np.concatenate(world.comm.allgather(ours.vectors[n]))
        overlap = bloch(s, sizes, tuple(k)) @ vectors
        assert np.abs(bloch(h, sizes, tuple(k)) @ vectors - overlap * energies).max() < 1e-6
        np.testing.assert_allclose(vectors.conj().T @ overlap, np.eye(len(energies)), atol=1e-9)
        assert int(doubled.first[n]) == first
        np.testing.assert_allclose(ours.populations[n], doubled.populations[n], atol=1e-5)


def test_pools_of_ranks_share_kpoints(world: World) -> None:
    name, kpoints = "C2z", PLANE
    structure, orbitals, h, s = system(name)
    sizes = orbitals.orbitals(structure.numbers)
    pools = Pools.divide(world, 2 if world.size % 2 == 0 else world.size)
    found = spectrum(assembler(pools.pool, name, kpoints), kpoints, SolveOptions(target=0.0, states=6), pools=pools)
    assert found.verified.all()
    for n, k in enumerate(kpoints):
        energies = found.energies[n][np.isfinite(found.energies[n])]
        dense = scipy.linalg.eigh(bloch(h, sizes, tuple(k)), bloch(s, sizes, tuple(k)), eigvals_only=True)
        first = int(found.first[n])
        assert len(energies) >= 6
        np.testing.assert_allclose(energies, dense[first : first + len(energies)], atol=1e-9)


def test_matrices_without_the_symmetry_are_doubled(world: World) -> None:
    kpoints = PLANE[:1]
    assert not find_reversals(system("none")[0])
    for made, multiplicity in (
        (assembler(world, "none", kpoints), 2),
        (assembler(world, "C2z", kpoints, noise=1e-4), 2),
        (assembler(world, "C2z", kpoints, noise=1e-6), 1),
    ):
        pencil = made.pencil(kpoints[0])
        assert pencil.multiplicity == multiplicity
        pencil.destroy()


def test_points_off_the_plane_are_not_kept() -> None:
    rotation, inversion = find_reversals(system("C2z")[0])[0], find_reversals(system("inversion")[0])[0]
    assert rotation.name == "C2z"
    assert inversion.name == "inversion"
    assert all(rotation.keeps(k) for k in PLANE)
    assert not rotation.keeps(SPACE[-1])
    assert all(inversion.keeps(k) for k in SPACE)


def test_few_couplings_where_bonds_have_no_phase(world: World) -> None:
    """Between the sheets χ₊ and χ₋ there are blocks only across sides of the cell along which k has phases."""
    elements = []
    for kpoints in (PLANE[:1], np.array([[0.21, 0.0, 0.0]]), PLANE[3:4]):
        pencil = assembler(world, "C2z pairs", kpoints).pencil(kpoints[0])
        elements.append(pencil.h.getInfo(pencil.h.InfoType.GLOBAL_SUM)["nz_used"])
        pencil.destroy()
    assert elements[0] >= elements[1] > elements[2]
