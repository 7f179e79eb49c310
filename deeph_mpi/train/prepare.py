"""From directories of DFT data to an untrained model with its tables, and to samples."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.config import TrainConfig
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.data.members import member_geometry, read_member
from deeph_mpi.errors import DataError
from deeph_mpi.model.model import HamiltonianModel, ModelFacts
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.settings import NetworkSettings
from deeph_mpi.train.batch import baseline_residuals, message_bonds
from deeph_mpi.train.finetune import extend_model
from deeph_mpi.train.fit import (
    FADE,
    MARGIN,
    align_zeros,
    electrons_per_element,
    fit_scales,
    fit_tables,
    neighbour_counts,
    pair_radii,
    shortest_distances,
    tolerance_radii,
)
from deeph_mpi.train.labels import Labels, make_labels

__all__ = ["common_orbitals", "read_labels", "untrained_model"]

log = logging.getLogger(__name__)


def common_orbitals(directory: Path, names: list[str]) -> OrbitalMap:
    """The orbital map of the elements that occur in some structures.

    Raises:
        DataError: when two structures give an element different shells.
    """
    shells: dict[int, tuple[int, ...]] = {}
    for name in names:
        structure, info = member_geometry(directory / name)
        for number in np.unique(structure.numbers).tolist():
            own = info.orbital_map.shells[number]
            if shells.setdefault(number, own) != own:
                raise DataError(f"{directory / name}: the orbital map contradicts that of the other structures")
    return OrbitalMap(dict(sorted(shells.items())))


def read_labels(directory: Path, names: list[str], template: ShellTemplate) -> tuple[list[DeephSystem], list[Labels]]:
    """Read structures and turn their matrices into labels; the systems come back without the matrices."""
    systems, labels = [], []
    for name in names:
        system = read_member(directory / name)
        labels.append(make_labels(name, system, template))
        systems.append(replace(system, hamiltonian=None))
    return systems, labels


def untrained_model(
    config: TrainConfig,
    template: ShellTemplate,
    systems: list[DeephSystem],
    labels: list[Labels],
    start: HamiltonianModel | None = None,
) -> tuple[HamiltonianModel, list[float]]:
    """Fit tables and scales to the training structures and put an untrained network (seeded) on top.

    Without vacuum levels the labels' zeros of energy are aligned to each other in place. With `start`, a checkpoint to be
    refined, what it has learnt is kept.

    Returns:
        The model, and by how much each structure's zero of energy was moved, eV.
    """
    referenced = all(system.info.vacuum_level_eV is not None for system in systems)
    shifts = [0.0] * len(labels)
    if not referenced:
        shifts = align_zeros(labels, template)
        log.warning(
            "not every structure gives `vacuum_level_eV`: one zero of energy per structure is fitted, so that "
            "offsets between unlike regions of a large structure are not learnt"
        )
    overlap, baseline = fit_tables(labels, template)
    elements = list(template.orbitals.shells)
    net = config.network
    neighbours = [2 * len(message_bonds(s.structure, net.r_message)[0]) / len(s.structure) for s in systems]
    settings = NetworkSettings(
        template.orbitals,
        net.r_message,
        overlap.r_max,
        layers=net.layers,
        channels=net.channels,
        pseudo_channels=net.pseudo_channels,
        hidden=net.hidden,
        decoder_hidden=net.decoder_hidden,
        m_max=net.m_max,
        radial=net.radial,
        neighbours=max(float(np.mean(neighbours)), 1.0),
        far_hidden=net.far_hidden,
        far_degree=net.far_degree,
        factors=net.factors,
        fade=FADE if net.far_hidden else 0.0,
    )
    if start is not None:
        settings = replace(start.settings, orbitals=template.orbitals)
    present = np.unique(np.concatenate([one.numbers for one in labels])).tolist()
    if config.data.electrons is not None:
        electrons = {z: float(config.data.electrons[s]) for s, z in _symbols(config.data.electrons, present)}
    else:
        occupations = [system.info.occupation for system in systems]
        electrons = electrons_per_element([one.numbers for one in labels], occupations, present)
    facts = ModelFacts(
        electrons=electrons,
        energy_reference="vacuum level" if referenced else "fitted per structure",
        shortest=shortest_distances(labels),
        neighbours=neighbour_counts([s.structure for s in systems], settings.r_message),
        margin=MARGIN,
        fermi_energy=_fermi_energy(systems) if referenced else None,
    )
    torch.manual_seed(config.train.seed)
    model = HamiltonianModel(HamiltonianNetwork(settings), overlap, baseline, facts)
    residuals = [baseline_residuals(model, one) for one in labels]
    pair_scale, onsite_scale = fit_scales(labels, residuals, template)
    model.network.pair_radius.copy_(pair_radii(labels, elements))
    corrections = model.network.corrections
    corrections.scale.copy_(pair_scale)
    corrections.radius.copy_(model.network.pair_radius)
    corrections.near_radius.copy_(model.network.pair_radius)
    if corrections.far is not None:
        radii = [
            tolerance_radii(labels, residuals, template, 1e-3 * each)
            for each in (net.near_tolerance, net.far_tolerance)
        ]
        corrections.near_radius.copy_(radii[0].clamp(max=settings.r_pair))
        corrections.radius.copy_(torch.minimum(radii[1], corrections.radius))
    model.network.onsite_scale.copy_(onsite_scale)
    return (model if start is None else extend_model(start, model)), shifts


def _fermi_energy(systems: list[DeephSystem]) -> float | None:
    """Mean Fermi energy below the vacuum level, eV."""
    found = [
        system.info.fermi_energy_eV - system.info.vacuum_level_eV
        for system in systems
        if system.info.fermi_energy_eV is not None and system.info.vacuum_level_eV is not None
    ]
    return float(np.mean(found)) if found else None


def _symbols(electrons: dict[str, float], elements: list[int]) -> list[tuple[str, int]]:
    from ase.data import atomic_numbers

    found = [(symbol, atomic_numbers.get(symbol, 0)) for symbol in electrons]
    if {z for _, z in found} != set(elements):
        raise DataError("data.electrons must give the valence electrons of every element of the training structures")
    return found
