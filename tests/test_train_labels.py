"""Labels, tables and scales against the matrices they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.data.deeph import read_system
from deeph_mpi.errors import DataError, ModelError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel, packed_to_lab
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.train.fit import align_zeros, electrons_per_element, fit_tables, pair_radii
from deeph_mpi.train.labels import make_labels
from deeph_mpi.train.sampler import epoch_batches, share
from tests.mpi import DATA, ROOT

EXAMPLE = ROOT / "examples" / "bilayer_graphene"


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return load_checkpoint(EXAMPLE / "bilayer_graphene.pt", torch.float64)


def test_labels_hold_the_matrix() -> None:
    """Rotating the labels back gives the file's blocks minus V_vac S."""
    system = read_system(DATA / "hbn_c")
    template = ShellTemplate(system.info.orbital_map)
    labels = make_labels("hbn_c", system, template)
    blocks = packed_to_lab(labels.hamiltonian, template.wigner(labels.vectors, torch.float64), template).numpy()
    orbitals = template.orbitals.orbitals(system.structure.numbers)
    h, s = system.hamiltonian, system.overlap
    assert h is not None
    assert system.info.vacuum_level_eV is not None
    where = {tuple(pair): index for index, pair in enumerate(h.pairs.tolist())}
    cell, positions = system.structure.cell, system.structure.positions
    seen = 0
    for i, j, vector, block in zip(labels.i.tolist(), labels.j.tolist(), labels.vectors.numpy(), blocks, strict=True):
        R = np.rint(np.linalg.solve(cell.T, vector + positions[i] - positions[j])).astype(int)
        index = where[(*R.tolist(), i, j)]
        expected = h.block(index, orbitals) - system.info.vacuum_level_eV * s.block(index, orbitals)
        assert np.abs(block - expected).max() < 2e-6  # float32 in the file
        seen += 1
    assert 2 * seen + len(system.structure) == len(h)


def test_overlap_from_the_table_equals_the_file(model: HamiltonianModel) -> None:
    """S of a training and a test structure, from the checkpoint alone: mean ≤ 1e-6, worst ≤ 1e-5."""
    for name in ("000", "035"):
        system = read_system(EXAMPLE / "structures" / name)
        h, s = predict_alone(model, system.structure)
        found = {tuple(pair): index for index, pair in enumerate(s.pairs.tolist())}
        rows = [found[tuple(pair)] for pair in system.overlap.pairs.tolist()]  # the model reaches a little further
        deviation = np.abs(s.entries.reshape(-1, 169)[rows] - system.overlap.entries.reshape(-1, 169))
        assert deviation.mean() < 1e-6
        assert deviation.max() < 1e-5
        assert system.hamiltonian is not None
        assert system.info.vacuum_level_eV is not None
        expected = system.hamiltonian.entries - system.info.vacuum_level_eV * system.overlap.entries
        error = h.entries.reshape(-1, 169)[rows] - expected.reshape(-1, 169)
        overlap = system.overlap.entries.reshape(-1, 169)
        error = error - (error * overlap).sum() / (overlap**2).sum() * overlap
        assert np.abs(error).mean() < 4e-3  # eV


def test_zeros_of_energy_are_recovered() -> None:
    """Without vacuum levels, structures shifted by known energies come back to one zero (up to a common one)."""
    system = read_system(DATA / "hbn_c")
    template = ShellTemplate(system.info.orbital_map)
    labels = [make_labels(str(n), system, template) for n in range(3)]
    for one, energy in zip(labels, (0.0, 1.5, -2.0), strict=True):
        one.shift(energy)
    align_zeros(labels, template, rounds=3)
    for one in labels[1:]:
        assert float((one.hamiltonian - labels[0].hamiltonian).abs().max()) < 0.02


def test_tables_are_exact_for_two_centre_matrices() -> None:
    """S is a two-centre integral: the table reproduces the structure that it was fitted to."""
    system = read_system(DATA / "ab_bilayer")
    template = ShellTemplate(system.info.orbital_map)
    labels = make_labels("ab", system, template)
    table, _ = fit_tables([labels], template)
    distances = torch.linalg.vector_norm(labels.vectors, dim=1)
    even = template.layout.sectors.even
    values = table(distances, torch.zeros(len(distances), dtype=torch.int64))
    assert float((values - labels.overlap[:, :even]).abs().max()) < 1e-5
    assert float(labels.overlap[:, even:].abs().max()) < 1e-6  # nothing off m = m' in the bond frame
    with pytest.raises(ModelError, match=r"shorter than any in the training data"):
        table(torch.tensor([0.5], dtype=torch.float64), torch.tensor([0]))


def test_pairs_of_unlike_ranges() -> None:
    """A pair of elements whose data end early is zero beyond its own radius, not a wild spline."""
    system = read_system(DATA / "hbn_c")
    template = ShellTemplate(system.info.orbital_map)
    labels = make_labels("hbn_c", system, template)
    z = labels.numbers
    bb = (z[labels.i] == 5) & (z[labels.j] == 5)
    distances = torch.linalg.vector_norm(labels.vectors, dim=1)
    keep = torch.tensor(~bb) | (distances < 6.0)
    for name in ("i", "j", "vectors", "hamiltonian", "overlap"):
        setattr(labels, name, getattr(labels, name)[keep])
    elements = list(template.orbitals.shells)
    radii = pair_radii([labels], elements).view(3, 3)
    within = distances[keep][(z[labels.i] == 5) & (z[labels.j] == 5)]
    assert float(radii[0, 0]) == pytest.approx(float(within.max()) + 0.2)
    assert radii[0, 2] == radii[2, 0] > 7.5
    table, _ = fit_tables([labels], template)
    beyond = torch.linspace(float(radii[0, 0]), table.r_max, 200, dtype=torch.float64)
    assert float(table(beyond, torch.zeros(200, dtype=torch.int64)).abs().max()) == 0.0
    values = table(within, torch.zeros(len(within), dtype=torch.int64))
    exact = labels.overlap[(z[labels.i] == 5) & (z[labels.j] == 5)][:, : values.shape[1]]
    assert float((values - exact).abs().max()) < 1e-4


def test_electron_counts() -> None:
    bn, c = np.array([5, 7, 6]), np.array([6, 6])
    assert electrons_per_element([bn, c], [12.0, 8.0], [5, 6, 7]) == {5: 3.0, 6: 4.0, 7: 5.0}
    mo_s2 = [np.array([42, 16, 16])]
    with pytest.raises(DataError, match=r"give the valence electrons of each in data\.electrons"):
        electrons_per_element(mo_s2, [26.0], [16, 42])
    with pytest.raises(DataError, match="do not add up"):
        electrons_per_element([c, np.array([6])], [8.0, 5.0], [6])


def test_spinful_systems_are_refused() -> None:
    system = read_system(DATA / "hbn_c")
    spinful = replace(system, info=replace(system.info, spinful=True))
    with pytest.raises(DataError, match="spin-orbit"):
        make_labels("x", spinful, ShellTemplate(system.info.orbital_map))


@pytest.mark.parametrize("batch", [1, 4, 12.0, 3.0, 1e9])
def test_every_structure_once_per_epoch_on_any_number_of_ranks(batch: float) -> None:
    costs = np.random.default_rng(0).uniform(1, 9, 23)
    for epoch in range(3):
        batches = epoch_batches(costs, batch, seed=1, epoch=epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(23))
        for size in (1, 2, 3, 4):
            for members in batches:
                shares = [share(members, costs, rank, size) for rank in range(size)]
                assert sorted(index for one in shares for index in one) == sorted(members.tolist())
                loads = [sum(costs[one]) for one in shares]
                assert max(loads) - min(loads) <= costs[members].max() + 1e-12
    if batch == 12.0:  # matrix elements per step
        assert np.mean([costs[members].sum() for members in batches]) == pytest.approx(12.0, rel=0.2)
