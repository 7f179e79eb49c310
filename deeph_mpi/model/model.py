"""A complete model: network, two-centre tables and what they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.basis.wigner import Directions
from deeph_mpi.errors import ModelError
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.novelty import Novelty
from deeph_mpi.model.settings import NetworkSettings
from deeph_mpi.model.tables import TwoCentreTable

__all__ = ["HamiltonianModel", "ModelFacts", "lab_to_packed", "packed_to_lab"]


@dataclass
class ModelFacts:
    """What a model knows beside its numbers; all of it is plain data and saved in the checkpoint.

    Attributes:
        electrons: atomic number → valence electrons of a neutral atom, as the DFT code counted them.
        energy_reference: what the zero of energy of the predicted H is ("vacuum level", or "fitted per structure").
        shortest: {"z1-z2": Å} shortest distance in the training data for every element pair that occurs there.
        neighbours: {"z": [least, most]} number of neighbours within `r_message` in the training data.
        margin: Å below `shortest` to which tables still serve; shorter distances are refused.
        fermi_energy: mean of the training structures' Fermi energies in the zero of energy of H, eV: where a search starts.
        units: of energies and lengths.
        provenance: version, date, dataset, training configuration and errors.
    """

    electrons: dict[int, float]
    energy_reference: str
    shortest: dict[str, float]
    neighbours: dict[str, list[int]]
    margin: float = 0.0
    fermi_energy: float | None = None
    units: dict[str, str] = field(default_factory=lambda: {"energy": "eV", "length": "angstrom"})
    provenance: dict[str, Any] = field(default_factory=dict)


class HamiltonianModel(nn.Module):
    """Structure → H and S.

    Args:
        network: the equivariant network; its dtype is that of its parameters.
        overlap: two-centre table of S.
        baseline: two-centre table of H, to which the network's outputs are added.
        facts: training ranges, electron counts and so on.
        novelty: statistics of the training atoms; None before training has ended.
    """

    def __init__(
        self,
        network: HamiltonianNetwork,
        overlap: TwoCentreTable,
        baseline: TwoCentreTable,
        facts: ModelFacts,
        novelty: Novelty | None = None,
    ) -> None:
        super().__init__()
        self.network, self.overlap, self.baseline, self.facts = network, overlap, baseline, facts
        self.novelty = novelty

    @property
    def settings(self) -> NetworkSettings:
        """Hyperparameters of the network."""
        return self.network.settings

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network (the tables are always float64)."""
        return self.network.embedding.weight.dtype

    @cached_property
    def template(self) -> ShellTemplate:
        """Shells that hold those of every element."""
        return ShellTemplate(self.settings.orbitals)

    @cached_property
    def onsite_basis(self) -> Tensor:
        """(components, n, n) float64, see `OnsiteLayout`."""
        return torch.tensor(OnsiteLayout(self.template.shells).basis)

    @cached_property
    def elements(self) -> np.ndarray:
        """Atomic numbers in the order of the species."""
        return np.array(list(self.settings.orbitals.shells))

    def species(self, numbers: np.ndarray) -> Tensor:
        """Species (n,) int64 of atomic numbers (n,).

        Raises:
            ModelError: naming the elements that the model does not know.
        """
        unknown = np.setdiff1d(numbers, self.elements)
        if len(unknown):
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in unknown)
            known = ", ".join(self.settings.orbitals.to_symbols())
            raise ModelError(f"the checkpoint does not know the element(s) {names}; it was trained on {known}")
        return torch.tensor(np.searchsorted(self.elements, numbers))

    @property
    def radii(self) -> dict[tuple[int, int], float]:
        """Radius of the Hamiltonian's pairs for every pair of atomic numbers, Å."""
        elements, radii = self.elements.tolist(), self.network.pair_radius.tolist()
        return {(zi, zj): radii[row] for row, (zi, zj) in enumerate(product(elements, elements))}

    def pair_radii(self, first: int, second: int) -> list[float]:
        """Distances of two atomic numbers, Å, at which blocks change from one way to be made to another, ascending: where the
        wide decoder begins to give way to the lean one and where it has, where both begin to end and have, where S ends."""
        at = int(np.searchsorted(self.elements, first)) * len(self.elements) + int(
            np.searchsorted(self.elements, second)
        )
        corrections, last = self.network.corrections, self.radii[first, second]
        if corrections.far is None:
            return [last]
        ends = [float(radius[at]) for radius in (corrections.near_radius, corrections.radius)]
        return sorted({*(end - corrections.fade for end in ends), *ends, last})

    def electrons(self, numbers: np.ndarray) -> float | None:
        """Electrons of a neutral cell with atomic numbers (N,); None when the training data did not tell."""
        known = self.facts.electrons
        if not known:
            return None
        return float(sum(known[z] * np.count_nonzero(numbers == z) for z in np.unique(numbers).tolist()))

    @property
    def vacuum_level(self) -> float | None:
        """Vacuum level of the predicted H, eV; None when its zero of energy is another."""
        return 0.0 if self.facts.energy_reference == "vacuum level" else None

    def directions(self, vectors: Tensor) -> Directions:
        """Directions of bonds (n, 3) float64 Å, as all that is made for them needs."""
        return Directions.of(vectors, self.settings.l_max)

    def pair_blocks(
        self, correction: Tensor | None, distances: Tensor, directions: Directions, pair_species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """H and S blocks in the lab frame and template order, (n, size, size) each: H in the network's dtype, S in float64.

        Args:
            correction: (n, dimension) output of `HamiltonianNetwork.pairs`; None for the baseline alone.
            distances: (n,) float64, Å.
            directions: from i to j.
            pair_species: (n,) species_i · n_species + species_j.
        """
        two_centre = self.template.two_centre
        harmonics = two_centre.harmonics(directions, distances.dtype)
        overlap = two_centre.blocks(self.overlap(distances, pair_species), harmonics)
        blocks = two_centre.blocks(self.baseline(distances, pair_species, self.dtype), harmonics.to(self.dtype))
        if correction is not None:
            turn = self.template.wigner.of(directions, self.dtype)
            blocks += packed_to_lab(correction, turn, self.template)
        return blocks, overlap

    def pair_overlaps(self, vectors: Tensor, pair_species: Tensor) -> Tensor:
        """The S of `pair_blocks` alone: it needs no network."""
        two_centre = self.template.two_centre
        harmonics = two_centre.harmonics(self.directions(vectors), vectors.dtype)
        return two_centre.blocks(self.overlap(torch.linalg.vector_norm(vectors, dim=1), pair_species), harmonics)

    def onsite_blocks(self, correction: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Onsite blocks of H and S, (n, size, size) float64, from `HamiltonianNetwork.onsite` and the species (n,)."""
        basis = self.onsite_basis.to(correction.device)
        network = (correction.double() @ basis.flatten(1)).view(-1, self.template.size, self.template.size)
        return network + self.baseline.onsite[species], self.overlap.onsite[species]

    def by_elements(self, pair_species: Tensor) -> Iterator[tuple[int, int, Tensor | None]]:
        """(atomic number of i, of j, rows or None for all) for each pair of elements among `pair_species`."""
        count, kinds = len(self.elements), pair_species.unique().tolist()
        for kind in kinds:
            rows = (pair_species == kind).nonzero()[:, 0] if len(kinds) > 1 else None
            yield int(self.elements[kind // count]), int(self.elements[kind % count]), rows


def packed_to_lab(packed: Tensor, rotation: Tensor, template: ShellTemplate) -> Tensor:
    """Blocks packed by sectors in the bond frame → lab frame (n, size, size), by the template's `wigner` (n, size, size)."""
    return rotation.transpose(1, 2) @ template.layout.unpack(packed) @ rotation


def lab_to_packed(blocks: Tensor, rotation: Tensor, template: ShellTemplate) -> Tensor:
    """The inverse of `packed_to_lab`: (n, size, size) → (n, size²)."""
    return template.layout.pack(rotation @ blocks @ rotation.transpose(1, 2))
