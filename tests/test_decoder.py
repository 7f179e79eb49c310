"""Blocks by distance: two-centre blocks, the zones of the decoders, and checkpoints from before there were zones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeph_mpi.basis.constant import SparseConstant
from deeph_mpi.basis.sectors import PairBlockLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.basis.two_centre import TwoCentreBlocks
from deeph_mpi.basis.wigner import Directions
from deeph_mpi.model.checkpoint import load_checkpoint, to_plain
from deeph_mpi.model.conformance import check_conformance, check_equivariance
from deeph_mpi.model.decoder import BOTH, FAR, NEAR, NONE
from deeph_mpi.model.model import HamiltonianModel, ModelFacts
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.model.settings import NetworkSettings
from deeph_mpi.model.subject import Subject
from deeph_mpi.model.tables import TwoCentreTable, spline_knots
from deeph_mpi.train.fit import tolerance_radii
from deeph_mpi.train.labels import Labels
from tests.models import ORBITALS, chiral_cluster, random_model, small_crystal


@pytest.mark.parametrize("shells", [(0,), (0, 0, 1, 1, 2), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_centre_blocks_are_rotated_ones(shells: tuple[int, ...], dtype: torch.dtype) -> None:
    """Against the block in the frame of its bond, turned as a whole."""
    torch.manual_seed(0)
    orbitals = type(ORBITALS)({6: shells})
    template, layout = ShellTemplate(orbitals), PairBlockLayout(shells)
    vectors = torch.randn(40, 3, dtype=torch.float64)
    vectors[:2] = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0]])
    integrals = torch.randn(40, layout.sectors.even, dtype=torch.float64)
    packed = torch.zeros(40, layout.sectors.dimension, dtype=torch.float64)
    packed[:, : layout.sectors.even] = integrals
    turn = template.wigner(vectors, torch.float64)
    expected = turn.transpose(1, 2) @ layout.unpack(packed) @ turn
    two_centre = TwoCentreBlocks(layout)
    harmonics = two_centre.harmonics(Directions.of(vectors, two_centre.order + 2), dtype)
    found = two_centre.blocks(integrals, harmonics)
    assert found.dtype == dtype
    assert found.is_contiguous()
    np.testing.assert_allclose(found, expected, atol=1e-13 if dtype == torch.float64 else 2e-5)


def test_sparse_products() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, 5)) * (rng.random((7, 5)) < 0.3)
    columns = torch.tensor(rng.normal(size=(5, 11)))
    constant = SparseConstant(matrix)
    np.testing.assert_allclose(constant.times(columns), matrix @ columns.numpy(), atol=1e-14)
    assert constant.times(columns.float()).dtype == torch.float32


def test_every_zone_is_there() -> None:
    """What other tests of random models rest on; zones follow the elements."""
    corrections = random_model().network.corrections
    r = torch.linspace(0.5, 4.5, 401, dtype=torch.float64)
    for kind in range(4):
        zones = corrections.zones(r, torch.full((401,), kind))
        assert (zones.diff() >= 0).all()
        np.testing.assert_array_equal(zones.unique(), [NEAR, BOTH, FAR, NONE])
        assert float(r[zones == NONE].min()) >= float(corrections.radius[kind])
        assert float(r[zones == NEAR].max()) <= float(corrections.near_radius[kind]) - corrections.fade
    assert (
        random_model(lean=False).network.corrections.zones(r[:-1], torch.zeros(400, dtype=torch.int64)) == NEAR
    ).all()


@pytest.mark.parametrize("zone", [NEAR, BOTH, FAR])
def test_pairs_of_one_zone_are_those_of_a_mixture(zone: int) -> None:
    """Inference sorts pairs by zones, training does not."""
    model = random_model()
    corrections = model.network.corrections
    torch.manual_seed(1)
    vectors = torch.randn(60, 3, dtype=torch.float64)
    vectors *= torch.linspace(0.9, 4.4, 60, dtype=torch.float64)[:, None] / vectors.norm(dim=1, keepdim=True)
    i, j = torch.randint(7, (2, 60))
    species = torch.randint(4, (60,))
    state = model.network.start(torch.randint(2, (7,)))
    state = tuple(torch.randn_like(each) for each in state)
    distances, directions = vectors.norm(dim=1), model.directions(vectors)
    mixed = model.network.pairs(state, corrections.bonds(i, j, distances, directions, species, torch.float64))
    rows = (corrections.zones(distances, species) == zone).nonzero()[:, 0]
    assert len(rows) > 3
    chosen = (i[rows], j[rows], distances[rows], directions.rows(rows), species[rows])
    alone = model.network.pairs(state, corrections.bonds(*chosen, torch.float64, zone))
    np.testing.assert_allclose(alone.detach(), mixed[rows].detach(), atol=1e-12)
    assert float(alone.detach().abs().max()) > 0.01


@pytest.mark.parametrize("operation", ["rotation", "inversion", "rotated mirror"])
@pytest.mark.parametrize("layers", [1, 3])
def test_any_number_of_layers_is_equivariant(layers: int, operation: str) -> None:
    """The first two have messages of their own."""
    check_equivariance(Subject(random_model(layers=layers)), chiral_cluster(), operation)


def test_checkpoints_of_the_version_before(tmp_path: Path) -> None:
    """All pairs had one decoder, and the first two layers had weights for features that are zero there."""
    model = random_model(lean=False)
    content = to_plain(model)
    settings, weights = content["settings"], content["network"]
    for name in ("far_hidden", "far_degree", "fade"):
        del settings[name]
    # that version had 64 factors: fewer cannot be told from a file of it
    assert settings.pop("factors") == 32
    names = {"corrections.scale": "pair_scale"} | {
        f"corrections.near.{x}.": f"pair_{x}." for x in ("convolution", "factors")
    }
    names |= {f"corrections.near.{x}.": f"pair_{x}." for x in ("hidden", "out")}
    old = {}
    for name, value in weights.items():
        if name in ("corrections.radius", "corrections.near_radius"):
            continue
        key = next((key for key in names if name == key or (key.endswith(".") and name.startswith(key))), "")
        old[names.get(key, "") + name.removeprefix(key)] = value
    for name, value in list(old.items()):  # networks of 64 factors of which 32 are nothing
        if ".factors." in name or name.startswith("pair_factors."):
            old[name] = _wider(value, name)
    for name, value in list(old.items()):
        if name.startswith(("layers.0.convolution", "layers.0.readout", "layers.1.convolution")) and value.ndim == 2:
            old[name] = torch.nn.functional.pad(value, (0, 3, 0, 4), value=7.0)
    old["layers.0.readout.weights.3"] = torch.ones(4, 5, dtype=torch.float64)
    path = tmp_path / "old.pt"
    torch.save({**content, "format": "deeph-mpi checkpoint 2", "network": old}, path)
    again = load_checkpoint(path)
    for found, expected in zip(
        predict_alone(again, small_crystal()), predict_alone(model, small_crystal()), strict=True
    ):
        np.testing.assert_allclose(found.entries, expected.entries, atol=1e-12)


def _wider(value: torch.Tensor, name: str) -> torch.Tensor:
    more = (0, 32) if value.ndim == 1 else (0, 32 if ".hidden." in name or ".out." in name else 0, 0, 32)
    if ".out." in name:
        more = (0, 0) if value.ndim == 1 else (0, 32)
    return torch.nn.functional.pad(value, more)


def test_elements_with_s_orbitals_alone() -> None:
    """Their blocks have no sector 0-, and those of one orbital one element."""
    for shells in ([0], [0, 0]):
        orbitals = type(ORBITALS).from_symbols({"H": shells})
        torch.manual_seed(0)
        settings = NetworkSettings(
            orbitals,
            3.2,
            4.5,
            layers=2,
            channels=6,
            pseudo_channels=4,
            hidden=6,
            decoder_hidden=6,
            far_hidden=5,
            fade=1.2,
        )
        network = HamiltonianNetwork(settings).double()
        network.corrections.near_radius[:], network.corrections.radius[:] = 2.8, 4.1
        knots, size = spline_knots(0.6, 4.5, 0.3), len(shells)
        coefficients = np.exp(-0.1 * np.arange(len(knots) - 6))[None, :, None] * np.ones((1, 1, size**2))
        coefficients[:, -3:] = 0.0
        table = TwoCentreTable(knots, coefficients, np.eye(size)[None])
        facts = ModelFacts({1: 1.0}, "vacuum level", {"1-1": 0.8}, {"1": [0, 99]})
        structure = replace(chiral_cluster(), numbers=np.full(7, 1))
        check_conformance(HamiltonianModel(network, table, table, facts).eval(), structure)


def test_radii_of_tolerances() -> None:
    """Blocks that fall exponentially, twice as slowly between unlike elements, and fill what their elements have of 3 × 3."""
    rng = np.random.default_rng(0)
    numbers = np.array([6, 6, 7, 7])
    i, j = rng.integers(4, size=(2, 4000))
    r = torch.tensor(rng.uniform(1.0, 8.0, 4000))
    slow = torch.tensor(numbers[i] != numbers[j])
    size = torch.where(slow, torch.exp(-0.5 * r), torch.exp(-r))
    template = ShellTemplate(type(ORBITALS).from_symbols({"C": [0, 0, 0], "N": [0], "O": [0]}))
    filled = torch.tensor(np.array([[9, 3], [3, 1]])[(numbers[i] == 7).astype(int), (numbers[j] == 7).astype(int)])
    pair = size[:, None] * torch.tensor(rng.choice([-1.0, 1.0], (4000, 9))) * (torch.arange(9) < filled[:, None])
    vectors = torch.stack([r, 0 * r, 0 * r], dim=1)
    none = torch.zeros(0, dtype=torch.float64)
    labels = Labels("x", numbers, torch.tensor(i), torch.tensor(j), vectors, pair, pair, none, none)
    found = tolerance_radii([labels], [(pair, none)], template, 0.03)
    expected = -np.log(0.03)
    np.testing.assert_allclose(found[[0, 4]], expected, atol=0.26)
    np.testing.assert_allclose(found[[1, 3]], 2 * expected, atol=0.26)
    assert (found[[0, 1, 3, 4]] >= torch.tensor([1.0, 2.0, 2.0, 1.0]) * expected - 0.13).all()
    assert found[[2, 5, 6, 7, 8]].isinf().all()
    assert (tolerance_radii([labels], [(pair, none)], template, 10.0)[[0, 1, 3, 4]] == 0.0).all()
