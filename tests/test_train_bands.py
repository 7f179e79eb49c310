"""Eigenstates in the loss, against the independent dense matrices of tests/dense.py and finite differences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.data.deeph import read_system
from deeph_mpi.errors import DataError
from deeph_mpi.train.bands import band_reference, sample_kpoints
from deeph_mpi.train.labels import Labels, make_labels
from tests.dense import read_crystal
from tests.mpi import DATA


def labels_of(name: str) -> tuple[Labels, ShellTemplate, np.ndarray, float]:
    system = read_system(DATA / name)
    template = ShellTemplate(system.info.orbital_map)
    vacuum = system.info.vacuum_level_eV or 0.0
    return make_labels(name, system, template), template, system.structure.cell, vacuum


@pytest.mark.parametrize("name", ["ab_bilayer", "hbn_c"])
def test_eigenvalues_are_those_of_the_files(name: str) -> None:
    labels, template, cell, vacuum = labels_of(name)
    fractional = np.array([[0.0, 0.0, 0.0], [1 / 3, 2 / 3, 0.0], [0.21, -0.13, 0.0]])
    reference = band_reference(labels, template, 2 * np.pi * fractional @ np.linalg.inv(cell).T, torch.float64)
    crystal = read_crystal(DATA / name)
    for k, energies in zip(fractional, reference.energies, strict=True):
        assert np.abs(energies - (crystal.energies(tuple(k)) - vacuum)).max() < 1e-5  # float32 in the file
    info = json.loads((DATA / name / "info.json").read_text())
    assert reference.fermi_energy == pytest.approx(info["fermi_energy_eV"] - vacuum)


def test_error_is_that_of_eigenvalues_to_first_order() -> None:
    labels, template, cell, _ = labels_of("hbn_c")
    kpoints = sample_kpoints(cell, np.array([True, True, False]), 3)
    assert kpoints.shape == (3, 3)
    assert not kpoints[0].any()
    assert abs(kpoints[1] @ cell[2]) < 1e-12
    reference = band_reference(labels, template, kpoints, torch.float64, overlaps=True)
    rng = np.random.default_rng(0)
    pair = torch.tensor(rng.normal(size=labels.hamiltonian.shape)) * 1e-9
    onsite = torch.tensor(rng.normal(size=labels.onsite.shape)) * 1e-9
    assert np.abs(reference.energy_errors(labels.hamiltonian, labels.onsite)).max() < 1e-11
    moved = reference.energy_errors(labels.hamiltonian + pair, labels.onsite + onsite)
    first = []
    for k in range(3):
        states = reference.states[k]
        matrix = states.mH @ reference.sums(pair, onsite, k) @ states
        assert float((matrix - matrix.mH).abs().max()) < 1e-15
        near = np.abs(reference.energies[k] - reference.fermi_energy) < 2.0
        first.append(torch.diagonal(matrix).real.numpy()[near])
        weighted = (matrix * reference.weights[k] * reference.weights[k].mT).abs().square().mean().sqrt()
        assert float(reference.error(pair, onsite, k + 3)) == pytest.approx(float(weighted), rel=1e-6)
    assert len(moved) > 5
    np.testing.assert_allclose(moved, np.concatenate(first), atol=3e-10)


def test_overlap_in_the_basis_of_its_states_is_the_identity() -> None:
    labels, template, cell, _ = labels_of("ab_bilayer")
    reference = band_reference(labels, template, sample_kpoints(cell, np.ones(3, dtype=bool), 2), torch.float64)
    for k, states in enumerate(reference.states):
        metric = states.mH @ reference.sums(labels.overlap, labels.onsite_overlap, k) @ states
        assert float((metric - torch.eye(len(metric))).abs().max()) < 1e-9


def test_without_fermi_energy_or_positive_overlap() -> None:
    labels, template, _, _ = labels_of("hbn_primitive")
    labels.onsite_overlap *= -1.0
    with pytest.raises(DataError, match="hbn_primitive: the overlap matrix is not positive definite"):
        band_reference(labels, template, np.zeros((1, 3)), torch.float64)
    labels.fermi_energy = None
    with pytest.raises(DataError, match="no fermi_energy_eV"):
        band_reference(labels, template, np.zeros((1, 3)), torch.float64)
