"""H and S do not depend on the number of ranks, and H − Hᵀ is exactly zero over all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import ModelError
from deeph_mpi.model.predict import allocate_rows, predict, predict_alone
from deeph_mpi.model.ranges import check_ranges
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure
from tests.models import ORBITALS, random_model, small_crystal


def slab() -> Structure:
    """Two species in a wavy sheet with vacuum: 48 atoms."""
    rng = np.random.default_rng(0)
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(8), np.arange(6), indexing="ij"))
    positions = np.stack([1.7 * x, 1.8 * y, 6.0 + np.sin(x)], axis=1) + rng.uniform(-0.2, 0.2, (48, 3))
    return Structure(rng.choice([6, 7], 48), positions, np.diag([13.6, 10.8, 15.0]), np.ones(3, bool))


def bulk() -> Structure:
    """Two species in three dimensions: every one of four domains touches the three others. 80 atoms."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*map(np.arange, (5, 4, 4)), indexing="ij"), axis=-1).reshape(-1, 3)
    cell = np.array([[9.5, 0.0, 0.4], [1.0, 7.8, 0.0], [0.0, 0.5, 8.0]])
    positions = (grid / [5, 4, 4]) @ cell + rng.uniform(-0.2, 0.2, (80, 3))
    return Structure(rng.choice([6, 7], 80), positions, cell, np.ones(3, bool))


STRUCTURES = {"slab": slab(), "bulk": bulk(), "two atoms, many images": small_crystal()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", list(STRUCTURES))
def test_same_blocks_as_one_rank(world: World, name: str, dtype: torch.dtype, tolerance: float) -> None:
    structure, model = STRUCTURES[name], random_model(dtype)
    orbitals = ORBITALS.orbitals(structure.numbers)
    weights = pair_weights(world, structure, orbitals, model.radii)
    partition = partition_atoms(structure, weights, world.size)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    if name == "bulk" and world.size == 4:
        assert world.comm.allreduce(len(domain.pair_halo.neighbours) >= 3) == 4
    if name.startswith("two") and world.size > 2:
        assert world.comm.allreduce(domain.n_owned == 0) == world.size - 2
    plan = PairPlan.build(world, partition, domain)
    found = allocate_rows(domain, orbitals)
    predict(world, model, domain, plan, orbitals, found)
    for blocks in found:
        assert (partition.owner[blocks.pairs[:, 3]] == world.rank).all()
    merged = [world.comm.gather(blocks.as_dict(orbitals)) for blocks in found]
    if not world.is_root:
        return
    references = [blocks.as_dict(orbitals) for blocks in predict_alone(model, structure)]
    for parts, reference in zip(merged, references, strict=True):
        assert sum(map(len, parts)) == len(reference)  # no block twice
        whole = {key: block for part in parts for key, block in part.items()}
        assert whole.keys() == reference.keys()
        size = max(np.abs(block).max() for block in reference.values())
        assert size > 0.1
        assert max(np.abs(whole[key] - reference[key]).max() for key in whole) < tolerance
        for (a, b, c, i, j), block in whole.items():
            assert np.array_equal(block.T, whole[-a, -b, -c, j, i])


def test_small_groups_and_chunks_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bonds between groups of atoms are evaluated from both sides: each atom must still get every message once."""
    structure, model = STRUCTURES["bulk"], random_model()
    orbitals = ORBITALS.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    found = []
    for group, atoms in ((8_000, 2048), (7, 3)):
        monkeypatch.setattr("deeph_mpi.domain.domain.GROUP", group)
        monkeypatch.setattr("deeph_mpi.model.chunks.ATOMS", atoms)
        domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
        assert len(domain.groups) == -(-domain.n_owned // group)
        rows = allocate_rows(domain, orbitals)
        predict(world, model, domain, PairPlan.build(world, partition, domain), orbitals, rows, 1e-4)
        found.append(rows)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.pairs, other.pairs)
        assert np.abs(one.entries - other.entries).max() < 1e-10
        assert np.abs(one.entries).max() > 0.1


def test_short_bonds_and_unknown_pairs(world: World) -> None:
    structure, model = slab(), random_model()
    partition = partition_atoms(structure, np.ones(48), world.size)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    nn = structure.numbers == 7
    short = 2 * int(np.count_nonzero(np.triu(_distances(structure)[np.ix_(nn, nn)] < 2.0, 1)))
    model.facts = replace(model.facts, shortest={"6-6": 0.8, "7-7": 2.0}, margin=1.5)
    warnings = check_ranges(world, model, domain)
    assert any(line.startswith(f"{short} distances N-N below the shortest") for line in warnings)
    assert any("pairs C-N, which the training data do not contain" in line for line in warnings)
    model.facts = replace(model.facts, margin=0.05)
    with pytest.raises(ModelError, match=r"a distance N-N of 1\.\d+ Å is shorter than any in the training data"):
        check_ranges(world, model, domain)


def _distances(structure: Structure) -> np.ndarray:
    """Shortest image distances by brute force."""
    shifts = np.array([[a, b, 0] for a in (-1, 0, 1) for b in (-1, 0, 1)]) @ structure.cell
    vectors = structure.positions[None, :, None] + shifts - structure.positions[:, None, None]
    return np.linalg.norm(vectors, axis=-1).min(axis=-1)
