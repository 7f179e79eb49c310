"""What any Hamiltonian must obey, whatever the weights: random and trained networks pass, broken ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deeph_mpi.basis.wigner import Directions
from deeph_mpi.errors import ConformanceError, ModelError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.conformance import (
    OPERATIONS,
    check_chunks,
    check_conformance,
    check_equivariance,
    check_hermiticity,
    check_lattice_vectors,
    check_permutation,
    check_polar_axis,
    check_smoothness,
    check_translation,
)
from deeph_mpi.model.geometry import Bonds
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.subject import Matrices, Subject, difference, predicted_blocks, representation
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure
from tests.models import chiral_cluster, random_model, small_crystal
from tests.mpi import ROOT

EXAMPLES = ROOT / "examples"
CHECKPOINTS = sorted({EXAMPLES / "bilayer_graphene" / "bilayer_graphene.pt", *EXAMPLES.glob("*/*.pt")})
STRUCTURES = {"chiral cluster": chiral_cluster(), "small crystal": small_crystal()}


def passing_atom(distance: float) -> Structure:
    """Three atoms, and a fourth at a distance (Å) from the first and farther from the others."""
    fixed = np.array([[0.0, 0.0, 0.0], [1.2, 0.3, 0.1], [0.3, 1.4, -0.2]])
    positions = np.concatenate([fixed, [distance * np.array([-0.8, -0.36, 0.48])]])
    return Structure(np.array([6, 7, 6, 6]), positions, 40 * np.eye(3), np.zeros(3, bool))


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_random_network_conforms(name: str) -> None:
    rows = check_conformance(random_model(), STRUCTURES[name])
    assert all(row.measured <= row.tolerance for row in rows)
    names = {row.name for row in rows}
    assert names >= {
        *OPERATIONS,
        "permutation",
        "translation",
        "lattice vectors",
        "Hermiticity",
        "chunks",
        "polar axis",
    }
    for radius in ("3.200", "4.500"):
        assert names >= {f"{what} at {radius} Å" for what in ("slope", "curvature", "jump of the slope")}


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_trained_network_conforms(path: Path) -> None:
    """What training adds to the weights (scales, tables, constants) must obey the same laws."""
    structures = sorted(path.parent.glob("structures/*/POSCAR"))
    rows = check_conformance(load_checkpoint(path, torch.float64), read_structure(structures[-1]))
    assert len(rows) >= 9 + 2 * 3


def test_antisymmetric_and_odd_parts_are_there() -> None:
    """Without features of both parities the antisymmetric part of a p-p block (1e) would be exactly zero."""
    h, _ = predicted_blocks(random_model(), chiral_cluster())
    p = slice(1, 4)  # the first p shell of C: [0, 1, 0, 1, 2]
    parts = [h[0, 0, 0, i, j][p, p] for i, j in ((0, 2), (2, 3), (3, 6))]
    assert min(float(np.abs(part - part.T).max()) for part in parts) > 1e-4


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_hermitian_to_the_bit_in_single_precision(name: str) -> None:
    check_hermiticity(Subject(random_model(torch.float32)), STRUCTURES[name])


@pytest.mark.parametrize("radius", ["r_message", "r_pair"])
def test_smooth_through_the_radii(radius: str) -> None:
    """Only one bond passes through the radius, so that nothing else hides what it does."""
    model = random_model()
    distance = getattr(model.settings, radius)
    subject = Subject(model)
    check_smoothness(subject, passing_atom(distance), distance, steepest=3.0)  # of the largest element, 3.1 eV
    assert len(subject.rows) == 3


# --- each check can fail ----------------------------------------------------------------------------------------------


def intact(model: HamiltonianModel) -> None:
    """Nothing broken."""


def scale_per_component(model: HamiltonianModel) -> None:
    network = model.network
    count = len(network.onsite_channel)
    network.onsite_channel = torch.arange(count)
    network.onsite_scale = torch.linspace(0.9, 1.1, 2 * count, dtype=torch.float64).view(2, count)


def overlap_per_component(model: HamiltonianModel) -> None:
    model.overlap.onsite += torch.diag(torch.linspace(0.0, 1e-8, len(model.overlap.onsite[0]), dtype=torch.float64))


def parity_ignored(model: HamiltonianModel) -> None:
    """Axial vectors (1e) are read as polar ones (1o): right under rotations only."""

    def mix(_: object, __: object, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        natural, pseudo = features[0].clone(), features[1]
        natural[:, 1:4, : pseudo.shape[2]] += pseudo[:, :3]
        return natural, pseudo

    model.network.onsite_norm.register_forward_hook(mix)


def no_fade(model: HamiltonianModel) -> None:
    fade(model, lambda r: torch.ones_like(r))


def fade_with_a_kink(model: HamiltonianModel) -> None:
    fade(model, lambda r: 1.0 - r / model.settings.r_message)


def wall(model: HamiltonianModel) -> None:
    """Smooth, but all within some 1e-4 Å."""
    fade(model, lambda r: torch.sigmoid((3.18 - r) / 1e-4))


def ripple(model: HamiltonianModel) -> None:
    """Small and not steep, but far too short."""
    fade(model, lambda r: 0.5 + 1e-3 * torch.sin(3000.0 * r))


def fade(model: HamiltonianModel, function: Callable[[Tensor], Tensor]) -> None:
    """Replace the envelope of messages."""

    def exchange(_: object, __: object, bonds: Bonds) -> Bonds:
        return replace(bonds, envelope=function(bonds.distances)[:, None])

    for layer in model.network.layers:
        layer.geometry.register_forward_hook(exchange)


def pairs_cut_off(model: HamiltonianModel) -> None:
    """Pairs end where the tables have not."""
    model.network.pair_radius[:] = 4.0


def frame_with_a_pole(model: HamiltonianModel) -> None:
    """No frame for bonds along z, as with Euler angles or a cross product with z."""

    def lose(_: object, arguments: tuple[Tensor, Tensor, Tensor, Directions, torch.dtype], bonds: Bonds) -> Bonds:
        off_axis = arguments[3].polar[:, 2] != 0.0  # the sine of the polar angle
        return replace(bonds, natural=bonds.natural * off_axis[:, None, None])

    model.network.corrections.near.geometry.register_forward_hook(lose)


def statistics_of_a_batch(model: HamiltonianModel) -> None:
    for decoder in model.network.corrections.decoders:
        decoder.factors.register_forward_hook(lambda _, __, factors: factors - 1e-6 * factors.mean(dim=0))


Predict = Callable[[HamiltonianModel, Structure, float], Matrices]


def spoilt(change: Callable[[Matrices, Structure], None]) -> Predict:
    """Predictions that are changed in place afterwards."""

    def predict(model: HamiltonianModel, structure: Structure, memory_gb: float) -> Matrices:
        matrices = predicted_blocks(model, structure, memory_gb)
        change(matrices, structure)
        return matrices

    return predict


def count_atoms(matrices: Matrices, structure: Structure) -> None:
    for atom in range(len(structure)):
        np.einsum("ii->i", matrices[0][0, 0, 0, atom, atom])[:] += 1e-9 * atom


def feel_the_place(matrices: Matrices, structure: Structure) -> None:
    for atom, x in enumerate(structure.positions[:, 0].tolist()):
        matrices[1][0, 0, 0, atom, atom] += 1e-9 * x


def wrap_atoms(model: HamiltonianModel, structure: Structure, memory_gb: float) -> Matrices:
    """Cells R count from wrapped atoms instead of from where they are."""
    fractional = np.linalg.solve(structure.cell.T, structure.positions.T).T
    return predicted_blocks(model, replace(structure, positions=(fractional % 1.0) @ structure.cell), memory_gb)


def last_bit(matrices: Matrices, _: Structure) -> None:
    block = matrices[0][0, 0, 0, 0, 1]
    block[0, 0] = np.nextafter(block[0, 0], np.inf)


def not_symmetric(matrices: Matrices, _: Structure) -> None:
    matrices[1][0, 0, 0, 0, 0][0, 1] += 1e-15


def one_way(matrices: Matrices, _: Structure) -> None:
    del matrices[0][0, 0, 0, 0, 1]


def nothing(matrices: Matrices, _: Structure) -> None:
    for block in matrices[0].values():
        block[:] = 0.0


def not_a_number(matrices: Matrices, structure: Structure) -> None:
    if structure.positions[0, 0] < 0:  # only after the inversion
        matrices[1][0, 0, 0, 0, 1][:] = np.nan


def equivariance(operation: str) -> Callable[[Subject, Structure], None]:
    return lambda subject, structure: check_equivariance(subject, structure, operation)


def smoothness(radius: float, **limits: float) -> Callable[[Subject, Structure], None]:
    return lambda subject, _: check_smoothness(subject, passing_atom(radius), radius, **limits)


BROKEN = {
    "scale per m": (scale_per_component, predicted_blocks, equivariance("rotation"), "rotation: measured"),
    "overlap per m": (overlap_per_component, predicted_blocks, equivariance("rotation"), "rotation: measured"),
    "parity, inversion": (parity_ignored, predicted_blocks, equivariance("inversion"), "inversion: measured"),
    "parity, mirror": (parity_ignored, predicted_blocks, equivariance("rotated mirror"), "rotated mirror: measured"),
    "zero": (intact, spoilt(nothing), equivariance("rotation"), "largest element is 0.0"),
    "not a number": (intact, spoilt(not_a_number), equivariance("inversion"), "inversion: measured nan"),
    "order": (intact, spoilt(count_atoms), check_permutation, "permutation: measured"),
    "pair dropped": (intact, spoilt(one_way), check_permutation, "permutation: measured inf"),
    "place": (intact, spoilt(feel_the_place), check_translation, "translation: measured"),
    "wrapped": (intact, wrap_atoms, check_lattice_vectors, "lattice vectors: measured inf"),
    "last bit": (intact, spoilt(last_bit), check_hermiticity, "Hermiticity: measured"),
    "onsite not symmetric": (intact, spoilt(not_symmetric), check_hermiticity, "Hermiticity: measured"),
    "transpose missing": (intact, spoilt(one_way), check_hermiticity, "Hermiticity: measured inf"),
    "chunk statistics": (statistics_of_a_batch, predicted_blocks, check_chunks, "chunks: measured"),
    "pole": (frame_with_a_pole, predicted_blocks, check_polar_axis, "polar axis: measured"),
    "no fade": (no_fade, predicted_blocks, smoothness(3.2), "jump of the slope at 3.200"),
    "kink": (fade_with_a_kink, predicted_blocks, smoothness(3.2), "jump of the slope at 3.200"),
    "cut off": (pairs_cut_off, predicted_blocks, smoothness(4.0), "jump of the slope at 4.000"),
    "wall": (wall, predicted_blocks, smoothness(3.18, tolerance=np.inf), r"^slope at 3.180 Å"),
    "ripple": (ripple, predicted_blocks, smoothness(3.0, tolerance=np.inf), "curvature at 3.000 Å"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_each_check_can_fail(name: str) -> None:
    break_it, predict, check, message = BROKEN[name]
    structure = small_crystal() if name in ("wrapped", "chunk statistics") else chiral_cluster()
    model = random_model()
    check(Subject(model), structure)
    break_it(model)
    with pytest.raises(ConformanceError, match=message):
        check(Subject(model, predict), structure)


def test_parity_is_seen_by_improper_operations_only() -> None:
    """Which is why a rotation alone is not enough."""
    model = random_model()
    parity_ignored(model)
    check_equivariance(Subject(model), chiral_cluster(), "rotation")


def test_driver_names_all_that_failed() -> None:
    model = random_model()
    no_fade(model)
    with pytest.raises(ConformanceError, match=r"2 of 25 checks failed: permutation.*; jump of the slope at 3\.200 Å"):
        check_conformance(model, chiral_cluster(), spoilt(count_atoms))


def test_driver_refuses_single_precision() -> None:
    with pytest.raises(ModelError, match=r"in float64, not torch\.float32"):
        check_conformance(random_model(torch.float32), chiral_cluster())


def test_pairs_at_the_radius_may_be_in_or_out() -> None:
    """Rounding decides whether a pair exactly at the radius is listed; its block has vanished there."""
    block = {(0, 0, 0, 0, 0): np.ones((1, 1))}
    for size, expected in ((1e-25, 0.0), (1e-15, np.inf)):
        more = {**block, (0, 0, 0, 0, 1): np.full((1, 1), size)}
        assert difference((block, block), (more, block)) == expected
        assert difference((block, more), (block, block)) == expected


def test_representation_leaves_the_default_type_alone() -> None:
    former = torch.get_default_dtype()
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            matrix = representation(OPERATIONS["rotation"], (0, 1, 2))
            assert torch.get_default_dtype() == dtype
        finally:
            torch.set_default_dtype(former)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(9), atol=1e-14)
        np.testing.assert_allclose(matrix[1:4, 1:4], OPERATIONS["rotation"][[1, 2, 0]][:, [1, 2, 0]], atol=1e-14)
