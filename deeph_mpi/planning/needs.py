"""What a node must hold for `infer`, `solve` or `train` on some layout of ranks, to choose the layout by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deeph_mpi.config import SolveConfig, TrainConfig
from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.members import member_entries
from deeph_mpi.domain.fill import OVER_FACTOR, factor_fill
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import resident_memory
from deeph_mpi.planning.job import LARGEST_FILL, Survey, has_doubled_form, keeps_rows_in_memory
from deeph_mpi.planning.rates import Interconnect, network_seconds

__all__ = ["InferNeeds", "Need", "Needs", "SolveNeeds", "TrainNeeds"]

# Memory of a factorization on disk over the bytes of its factor: magic-angle graphene takes 17.8 GB on two ranks, of which
# programs and matrices are about 3 GB, for 12 GB of factor.
OUT_OF_CORE = 1.25
_LABEL = 15  # bytes of the labels and samples of training for an element of H: 6 MB were measured for 4·10⁵ elements


@dataclass(frozen=True)
class Need:
    """What the fullest node of a job takes.

    Attributes:
        memory: bytes, the factor in memory.
        memory_on_disk: bytes with the factor on disk; the same where nothing is factored.
        factor: bytes of the factor over all ranks.
        seconds: of the network; NaN where none runs or it was not planned.
        solving: seconds of factorizations and eigensolver at least; NaN likewise.
        whole: whether all that takes much memory was counted.
    """

    memory: float
    memory_on_disk: float
    factor: float = 0.0
    seconds: float = math.nan
    whole: bool = True
    solving: float = math.nan


class Needs(Protocol):
    """Of one job, on any layout."""

    @property
    def most_ranks(self) -> int:
        """More cannot take part."""

    @property
    def gpu_for_every_rank(self) -> bool:
        """Whether a rank without a GPU of its own would be of no use."""

    def on(self, ranks: int, per_node: int) -> Need:
        """On `ranks` ranks, `per_node` on each node. Not collective."""


@dataclass(frozen=True)
class InferNeeds:
    """Of `infer`."""

    survey: Survey
    interconnect: Interconnect

    @property
    def most_ranks(self) -> int:
        """An atom each."""
        return len(self.survey.structure)

    @property
    def gpu_for_every_rank(self) -> bool:
        """Ranks without a GPU hold rows and solve."""
        return not (self.survey.config.solve.enabled or self.survey.config.dos.enabled)

    def on(self, ranks: int, per_node: int) -> Need:
        """From the real partition."""
        plan, fill = self.survey.divide(World.alone(), ranks, per_node), self.survey.fill
        seconds = max(
            sum(
                network_seconds(
                    self.survey.model,
                    part,
                    self.survey.rates,
                    self.interconnect,
                    rows=keeps_rows_in_memory(self.survey.config),
                )
            )
            for part in plan.running
        )
        factor = 0.0 if fill is None else 8 * fill[0]
        whole = fill is not None or not self.survey.config.solve.enabled
        solving = math.nan if plan.solving_seconds is None else plan.solving_seconds.total
        return Need(plan.node_memory(OVER_FACTOR), plan.node_memory(OUT_OF_CORE), factor, seconds, whole, solving)


@dataclass(frozen=True)
class SolveNeeds:
    """Of `solve`, from the tables of the matrices.

    Attributes:
        atoms: their number.
        elements: of H and S each.
        factor: elements of the factor; None beyond `LARGEST_FILL` atoms, or where nothing is factored.
        factored: whether something is.
        program: bytes of a rank's program, as large as it is here.
    """

    atoms: int
    elements: int
    factor: float | None
    factored: bool
    program: float
    gpu_for_every_rank = False

    @classmethod
    def make(cls, config: SolveConfig) -> SolveNeeds:
        """Read the tables. Not collective.

        Raises:
            DataError: they are missing or damaged.
        """
        structure, info = read_geometry(config.hamiltonian.directory)
        sizes = info.orbital_map.orbitals(structure.numbers) * (2 if info.spinful else 1)
        elements, longest = 0, 0.0
        with BlockFile.open(config.hamiltonian.directory / "hamiltonian.h5") as file:
            for begin in range(0, file.count, 2**20):
                pairs = file.file["atom_pairs"][begin : begin + 2**20]
                i, j = pairs[:, 3], pairs[:, 4]
                elements += int((sizes[i] * sizes[j]).sum())
                away = structure.positions[j] + pairs[:, :3] @ structure.cell - structure.positions[i]
                longest = max(longest, float(np.linalg.norm(away, axis=1).max(initial=0.0)))
        factored, factor = config.solve.enabled, None
        if factored and len(structure) <= LARGEST_FILL:
            doubled = info.spinful or has_doubled_form(config.solve, structure, info.orbital_map)
            factor, _ = factor_fill(structure, sizes * (1 + doubled), longest + 1e-6)
        return cls(len(structure), elements, factor, factored, float(resident_memory()))

    @property
    def most_ranks(self) -> int:
        """An atom each."""
        return self.atoms

    def on(self, ranks: int, per_node: int) -> Need:
        """Even shares of blocks (as they are read), of matrices with their columns, and of the factor."""
        share = per_node / ranks
        held = per_node * self.program + 2 * (16.0 + 12.0) * self.elements * share
        factor = 8 * (self.factor or 0.0)
        return Need(
            held + OVER_FACTOR * factor * share,
            held + OUT_OF_CORE * factor * share,
            factor,
            whole=self.factor is not None or not self.factored,
        )


@dataclass(frozen=True)
class TrainNeeds:
    """Of `train`: every rank holds all training structures. Activations are not counted.

    Attributes:
        structures: their number.
        elements: of H, over all of them.
        graph: whether ranks share each structure.
        program: bytes of a rank's program, as large as it is here.
    """

    structures: int
    elements: int
    graph: bool
    program: float
    gpu_for_every_rank = True

    @classmethod
    def make(cls, config: TrainConfig) -> TrainNeeds:
        """Read the sizes of the matrices. Not collective.

        Raises:
            DataError: one is missing or damaged.
        """
        elements = 0
        for name in config.data.train:
            elements += member_entries(config.data.directory / name)
        graph = config.train.parallel == "graph"
        return cls(len(config.data.train), elements, graph, float(resident_memory()))

    @property
    def most_ranks(self) -> int:
        """A structure each, unless ranks share structures."""
        return 2**31 if self.graph else self.structures

    def on(self, ranks: int, per_node: int) -> Need:
        """Programs and labels."""
        memory = per_node * (self.program + _LABEL * self.elements / (ranks if self.graph else 1))
        return Need(memory, memory, whole=False)
