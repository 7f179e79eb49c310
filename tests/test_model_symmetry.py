"""What any Hamiltonian must obey, whatever the weights: O(3), permutations, translations, Hermiticity, smoothness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3

from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure
from tests.models import chiral_cluster, predict_alone, random_model, small_crystal
from tests.mpi import ROOT

Blocks = dict[tuple[int, ...], np.ndarray]


def representation(matrix: np.ndarray, shells: tuple[int, ...]) -> np.ndarray:
    """Matrix by which an element's orbitals transform under an orthogonal 3×3 matrix; from e3nn, not from our code."""
    yzx = torch.tensor(matrix)[[1, 2, 0]][:, [1, 2, 0]]
    torch.set_default_dtype(torch.float64)  # e3nn's matrices are of single precision otherwise, whatever their dtype
    blocks = [o3.Irrep(degree, (-1) ** degree).D_from_matrix(yzx).numpy() for degree in shells]
    torch.set_default_dtype(torch.float32)
    size = sum(len(block) for block in blocks)
    whole, start = np.zeros((size, size)), 0
    for block in blocks:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return whole


def moved(structure: Structure, matrix: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T)


def largest_difference(a: Blocks, b: Blocks) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[key] - b[key]).max()) for key in a)


def random_rotation() -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


OPERATIONS = {
    "rotation": random_rotation(),
    "inversion": -np.eye(3),
    "mirror": np.diag([1.0, -1.0, 1.0]) @ random_rotation(),
}


@pytest.mark.parametrize("structure", [chiral_cluster(), small_crystal()], ids=["chiral cluster", "small crystal"])
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_o3_equivariance(structure: Structure, operation: str) -> None:
    check_equivariance(random_model(), structure, OPERATIONS[operation], 1e-11)


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_trained_network_is_o3_equivariant(operation: str) -> None:
    """What training adds to the weights (scales, tables, constants) must respect O(3) as well."""
    example = ROOT / "examples" / "bilayer_graphene"
    model = load_checkpoint(example / "bilayer_graphene.pt", torch.float64)
    check_equivariance(model, read_structure(example / "structures" / "035" / "POSCAR"), OPERATIONS[operation], 1e-10)


def check_equivariance(model: HamiltonianModel, structure: Structure, matrix: np.ndarray, tolerance: float) -> None:
    """H and S of the moved structure are the moved H and S."""
    after = predict_alone(model, moved(structure, matrix))
    for before, found in zip(predict_alone(model, structure), after, strict=True):
        representations = {z: representation(matrix, shells) for z, shells in model.settings.orbitals.shells.items()}
        expected = {}
        for key, block in before.items():
            left, right = (representations[int(structure.numbers[atom])] for atom in key[3:])
            expected[key] = left @ block @ right.T
        size = max(np.abs(block).max() for block in before.values())
        assert size > 0.05
        assert largest_difference(expected, found) < tolerance * max(size, 1.0)


def test_antisymmetric_and_odd_parts_are_there() -> None:
    """Without features of both parities the antisymmetric part of a p-p block (1e) would be exactly zero."""
    h, _ = predict_alone(random_model(), chiral_cluster())
    p = slice(1, 4)  # the first p shell of C: [0, 1, 0, 1, 2]
    parts = [h[0, 0, 0, i, j][p, p] for i, j in ((0, 2), (2, 3), (3, 6))]
    assert min(float(np.abs(part - part.T).max()) for part in parts) > 1e-4


def test_hermitian_to_the_bit() -> None:
    for structure in (chiral_cluster(), small_crystal()):
        for blocks in predict_alone(random_model(torch.float32), structure):
            for (a, b, c, i, j), block in blocks.items():
                assert np.array_equal(block.T, blocks[-a, -b, -c, j, i])


def test_permutation_and_translation() -> None:
    structure, model = chiral_cluster(), random_model()
    order = np.random.default_rng(1).permutation(7)
    shifted = replace(
        structure, numbers=structure.numbers[order], positions=structure.positions[order] + [3.0, -7.0, 0.123]
    )
    for before, after in zip(predict_alone(model, structure), predict_alone(model, shifted), strict=True):
        expected = {(a, b, c, i, j): before[a, b, c, order[i], order[j]] for a, b, c, i, j in after}
        assert largest_difference(expected, after) < 1e-11


def test_atoms_moved_by_lattice_vectors_carry_their_cells() -> None:
    structure, model = small_crystal(), random_model()
    cells = np.array([[0, 0, 0], [2, -1, 1]])
    shifted = replace(structure, positions=structure.positions + cells @ structure.cell)
    for before, after in zip(predict_alone(model, structure), predict_alone(model, shifted), strict=True):
        expected = {}
        for (*cell, i, j), block in before.items():
            expected[(*(np.array(cell) - cells[j] + cells[i]).tolist(), i, j)] = block
        assert largest_difference(expected, after) < 1e-11


def test_bond_along_the_polar_axis_is_an_ordinary_bond() -> None:
    model = random_model()
    straight = Structure(
        np.array([6, 7, 6]), np.array([[0, 0, 0], [0, 0, 1.5], [0, 0, 3.0]]), 20 * np.eye(3), np.zeros(3, bool)
    )
    tilt = np.array([[0, 0, 0], [1e-9, 0, 0], [0, -1e-9, 0]])
    tilted = replace(straight, positions=straight.positions + tilt)
    assert largest_difference(predict_alone(model, straight)[0], predict_alone(model, tilted)[0]) < 1e-7


@pytest.mark.parametrize("radius", ["r_message", "r_pair"])
def test_smooth_through_the_radii(radius: str) -> None:
    """An atom passes through a radius: values and slopes of all blocks between the others stay continuous."""
    model = random_model()
    centre = getattr(model.settings, radius)
    fixed = np.array([[0.0, 0.0, 0.0], [1.2, 0.3, 0.1], [0.3, 1.4, -0.2]])
    direction = np.array([-0.8, -0.36, 0.48])

    def blocks(distance: float) -> np.ndarray:
        positions = np.concatenate([fixed, [distance * direction]])
        structure = Structure(np.array([6, 7, 6, 6]), positions, 40 * np.eye(3), np.zeros(3, bool))
        h, _ = predict_alone(model, structure)
        inner = [h[0, 0, 0, i, j].ravel() for i in range(3) for j in range(3)]
        outer = h.get((0, 0, 0, 0, 3), np.zeros((len(h[0, 0, 0, 0, 0]), len(h[0, 0, 0, 3, 3])))).ravel()
        return np.concatenate([*inner, outer])

    step = 1e-4
    below, before, at, after, beyond = (blocks(centre + n * step) for n in (-2, -1, 0, 1, 2))
    slopes = [(before - below) / step, (at - before) / step, (after - at) / step, (beyond - after) / step]
    assert np.abs(slopes[0]).max() < 10  # eV/Å: no wall
    jumps = [np.abs(slopes[n + 1] - slopes[n]).max() for n in range(3)]
    assert (
        max(jumps) < 1e-2
    )  # a kink would leave a jump of the order of the slopes; curvature leaves step × 2nd derivative
    assert np.abs(at - before).max() < 1e-2


def test_chunks_do_not_change_the_result() -> None:
    model, structure = random_model(), small_crystal()
    whole = predict_alone(model, structure)
    pieces = predict_alone(model, structure, memory_gb=1e-9)
    for a, b in zip(whole, pieces, strict=True):
        assert largest_difference(a, b) < 1e-12
