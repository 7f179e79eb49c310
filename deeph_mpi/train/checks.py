"""Errors on structures that are held out: a rank's share of them, and the sums over ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.train.bands import BandReference, band_reference, sample_kpoints
from deeph_mpi.train.batch import Sample, make_sample
from deeph_mpi.train.errors import ErrorSums, atom_errors, hamiltonian_errors
from deeph_mpi.train.labels import Labels
from deeph_mpi.train.objective import features, predict

__all__ = ["BAND_KPOINTS", "LARGEST_DENSE", "Checks"]

BAND_KPOINTS = 4
LARGEST_DENSE = 1500  # orbitals; the eigenstates of larger structures are not computed, which costs their cube


class Checks:
    """This rank's share of the validation and test structures.

    Args:
        model: to be checked, with whatever weights it has at the time.
        systems, labels: of this rank's structures.
        validation: names of those that are for validation; the others are for the test.
        device: of the network.
    """

    def __init__(
        self,
        model: HamiltonianModel,
        systems: list[DeephSystem],
        labels: list[Labels],
        validation: set[str],
        device: torch.device,
    ) -> None:
        self.model, self.labels, self.validation = model, labels, validation
        self.samples = [
            make_sample(model, one, system.structure).to(device) for system, one in zip(systems, labels, strict=True)
        ]
        self.bands = [self._bands(system, one) for system, one in zip(systems, labels, strict=True)]

    def _bands(self, system: DeephSystem, labels: Labels) -> BandReference | None:
        orbitals = self.model.settings.orbitals.orbitals(labels.numbers).sum()
        if labels.fermi_energy is None or orbitals > LARGEST_DENSE:
            return None
        kpoints = sample_kpoints(system.structure.cell, system.structure.pbc, BAND_KPOINTS)
        return band_reference(labels, self.model.template, kpoints, torch.float64, overlaps=True)

    def errors(self, world: World, *, validation: bool, bands: bool = False) -> ErrorSums:
        """Sums of errors over all validation (or else test) structures, also of eigenvalues where asked. Collective."""
        sums = ErrorSums.zero(len(self.model.template.shells))
        for one, sample, reference in zip(self.labels, self.samples, self.bands, strict=True):
            if (one.name in self.validation) != validation:
                continue
            pair_error, onsite_error = self._differences(sample)
            sums = sums + hamiltonian_errors(self.model, one, pair_error, onsite_error)
            if bands and reference is not None:
                found = reference.energy_errors(one.hamiltonian + pair_error, one.onsite + onsite_error)
                sums.energy += np.abs(found).sum()
                sums.n_energy += len(found)
        return world.comm.allreduce(sums)

    def novelty_and_errors(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        """Novelty and mean absolute error in meV of the rows of every validation atom. Collective."""
        assert self.model.novelty is not None
        own: list[tuple[np.ndarray, np.ndarray]] = []
        for one, sample in zip(self.labels, self.samples, strict=True):
            if one.name in self.validation:
                with torch.no_grad():
                    state = features(self.model.network, sample)
                errors = atom_errors(self.model, one, *self._differences(sample))
                own.append((self.model.novelty(*state, sample.species), errors))
        found = [pair for rank in world.comm.allgather(own) for pair in rank]
        return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])

    def _differences(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Predicted minus true pair blocks and onsite components, float64 on the CPU."""
        with torch.no_grad():
            pair, onsite = predict(self.model.network, sample)
        return (pair - sample.pair_target).cpu().double(), (onsite - sample.onsite_target).cpu().double()
