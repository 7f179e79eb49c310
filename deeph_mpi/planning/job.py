"""The plan of a job as numbers: what a structure and its network are, and what each rank would hold on a layout of ranks."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch

from deeph_mpi.assembly.lattice_sum import is_time_reversal_invariant
from deeph_mpi.assembly.real_gauge import choose_gauge
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.config import InferConfig, SolveSection
from deeph_mpi.domain.domain import SEARCH
from deeph_mpi.domain.fill import FactorTree, factor_tree
from deeph_mpi.domain.handover import led_partition
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import SolverError, StructureError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.parallel.nodes import leaders_of
from deeph_mpi.planning.bytes import (
    assembly_bytes,
    halo_bytes,
    list_bytes,
    matrix_bytes,
    network_bytes,
    row_bytes,
    transpose_bytes,
)
from deeph_mpi.planning.counts import PartPlan, plan_parts
from deeph_mpi.planning.rates import Rates, calibrate
from deeph_mpi.planning.solving import SolveSeconds, dense_rate, solve_seconds
from deeph_mpi.results.kpath import asked_kpoints
from deeph_mpi.solvers.petsc import load
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure

__all__ = [
    "LARGEST_FILL",
    "JobPlan",
    "Survey",
    "assembles",
    "has_doubled_form",
    "keeps_rows_in_memory",
    "network_memory",
    "partition_memory",
]

LARGEST_FILL = 60_000  # atoms up to which the fill of a factor is worked out


@dataclass(frozen=True)
class Survey:
    """What a job needs whatever its ranks.

    Attributes:
        config: of the job.
        structure: the atoms.
        model: the network.
        orbitals: (N,) of every atom.
        weights: (N,) of every atom in the partition.
        rates: of one rank, measured here.
        doubled: whether matrices are factored in the real form of twice the size, as at a general k.
        tree: of the factorization; None beyond `LARGEST_FILL` atoms, or where nothing is solved.
        dense: flops per second of one rank in products of matrices; NaN without `tree`.
        kpoints: how many are solved.
        reading: seconds that structure, checkpoint and solvers took to be read here.
        weighing: seconds of one rank that the weights took here.
    """

    config: InferConfig
    structure: Structure
    model: HamiltonianModel
    orbitals: np.ndarray
    weights: np.ndarray
    rates: Rates
    doubled: bool
    tree: FactorTree | None
    dense: float
    kpoints: int
    reading: float
    weighing: float

    @property
    def fill(self) -> tuple[float, float] | None:
        """Elements of the factor and flops."""
        return None if self.tree is None else (self.tree.elements, self.tree.flops)

    @classmethod
    def make(cls, config: InferConfig, world: World) -> Survey:
        """Read, weigh and measure. Collective.

        Raises:
            DeephError: with one message, on all ranks.
        """
        keep_freed_memory()
        world.comm.barrier()  # ranks that start later are no part of what is timed
        begin = time.perf_counter()
        structure = world.on_root(read_structure, config.structure.file)
        with world.together():
            model = load_checkpoint(config.model.checkpoint, getattr(torch, config.model.dtype))
            model.species(structure.numbers)
        orbitals = model.settings.orbitals.orbitals(structure.numbers)
        if config.solve.enabled:
            with suppress(SolverError):  # the job's program has PETSc in it; a plan can do without
                load()
                import_module("deeph_mpi.solve")
        reading, begin = time.perf_counter() - begin, time.perf_counter()
        weights = pair_weights(world, structure, orbitals, model.radii)
        weighing = (time.perf_counter() - begin) * world.size
        with world.together():
            own = calibrate(model, structure, config.model.memory_gb, assemble=assembles(config))
        rates = Rates.slowest(world.comm.allgather(own))
        doubled = world.on_root(has_doubled_form, config.solve, structure, model.settings.orbitals)
        tree, dense, kpoints = None, math.nan, 0
        if config.solve.enabled and len(structure) <= LARGEST_FILL:
            tree = world.on_root(factor_tree, structure, orbitals * (1 + doubled), model.radii)
            world.comm.barrier()
            dense = min(world.comm.allgather(dense_rate()))
            kpoints = world.on_root(lambda: len(asked_kpoints(config.solve, structure.cell, spinful=False)[1]))
        return cls(config, structure, model, orbitals, weights, rates, doubled, tree, dense, kpoints, reading, weighing)

    def divide(self, world: World, ranks: int, per_node: int) -> JobPlan:
        """The job on `ranks` ranks, `per_node` on each node but the last. Collective.

        Raises:
            StructureError: on all ranks, when there are more ranks than atoms.
        """
        count = len(self.structure)
        with world.together():
            if ranks > count:
                raise StructureError(f"{ranks} ranks are more than the {count} atoms of '{self.config.structure.file}'")
        begin = time.perf_counter()
        if self.config.structure.partition == "metis":
            partition = world.on_root(partition_atoms_metis, self.structure, self.weights, ranks, self.model.radii)
        else:
            partition = partition_atoms(self.structure, self.weights, ranks)
        cutting = time.perf_counter() - begin
        nodes = [np.arange(start, min(start + per_node, ranks)) for start in range(0, ranks, per_node)]
        share = self.config.model.ranks_per_node
        leaders = np.concatenate([leaders_of(one, share or len(one)) for one in nodes])
        solving = plan_parts(world, self.model, self.structure, partition, self.orbitals)
        network = solving
        if len(np.unique(leaders)) < ranks:
            network = plan_parts(world, self.model, self.structure, led_partition(partition, leaders), self.orbitals)
        load = np.bincount(partition.owner, weights=self.weights, minlength=ranks)
        return JobPlan(self, per_node, leaders, network, solving, float(load.max() / load.mean()), cutting)


@dataclass(frozen=True)
class JobPlan:
    """A job on a layout of ranks.

    Attributes:
        survey: what the layout is of.
        per_node: ranks on each node but the last.
        leaders: (ranks,) that run the network for every rank's atoms.
        network: by rank, share of the network; empty for those that follow another.
        solving: by rank, share of the matrices.
        balance: largest over mean weight.
        cutting: seconds that the cuts, which every rank makes, took here.
    """

    survey: Survey
    per_node: int
    leaders: np.ndarray
    network: list[PartPlan]
    solving: list[PartPlan]
    balance: float
    cutting: float

    @property
    def running(self) -> list[PartPlan]:
        """Shares of the ranks that run the network."""
        return [self.network[rank] for rank in np.unique(self.leaders)]

    def partition_seconds(self, part: PartPlan) -> float:
        """Of one rank: a share of the weights, all cuts, its own pairs."""
        shared = self.survey.weighing / len(self.leaders)
        return shared + self.cutting + part.pairs * self.survey.rates.search

    @property
    def solving_seconds(self) -> SolveSeconds | None:
        """Seconds until all ranks are done; None without the size of the factor."""
        survey = self.survey
        if survey.tree is None:
            return None
        nonzeros = float(sum(part.nonzeros for part in self.solving)) * (4 if survey.doubled else 1)
        return solve_seconds(
            survey.config.solve,
            survey.tree,
            nonzeros,
            survey.dense,
            survey.rates.fresh,
            survey.kpoints,
            len(self.leaders),
        )

    def node_memory(self, over_factor: float) -> float:
        """Bytes of the fullest node in the stage that needs the most: the network, or the factorization.

        Args:
            over_factor: memory that a factorization takes over its elements; 0: without the factor (it lies on disk).
        """
        survey, ranks = self.survey, len(self.leaders)
        program = survey.rates.program
        runs = np.bincount(self.leaders, minlength=ranks) > 0
        network = [
            program + (network_memory(survey.config, survey.model, part, survey.rates) if runs[rank] else 0.0)
            for rank, part in enumerate(self.network)
        ]
        factor = 0.0 if survey.fill is None else over_factor * 8 * survey.fill[0] / ranks
        solved = assembles(survey.config)
        solving = [
            program + (max(assembly_bytes(part), matrix_bytes(part) + factor) if solved else 0.0)
            for part in self.solving
        ]
        fullest = 0.0
        for stage in (network, solving):
            sums = np.add.reduceat(np.array(stage), np.arange(0, ranks, self.per_node))
            fullest = max(fullest, float(sums.max()))
        return fullest


def has_doubled_form(solve: SolveSection, structure: Structure, orbitals: OrbitalMap) -> bool:
    """Whether some k-point asked for has matrices that are not real, nor in a real gauge. Not collective."""
    if not solve.enabled:
        return False
    _, kpoints, _ = asked_kpoints(solve, structure.cell, spinful=False)
    if all(is_time_reversal_invariant(k) for k in kpoints):
        return False
    return solve.real_gauge == "never" or choose_gauge(structure, orbitals, kpoints) is None


def assembles(config: InferConfig) -> bool:
    """Whether matrices are made of H and S."""
    return config.solve.enabled or config.output.hamiltonian == "petsc"


def keeps_rows_in_memory(config: InferConfig) -> bool:
    """Whether rows of H and S are held in memory while the network runs: neither let go nor mapped from their file."""
    on_disk = config.output.hamiltonian == "deeph" and config.model.overlap is None
    return not on_disk and (config.solve.enabled or config.output.hamiltonian != "none")


def network_memory(config: InferConfig, model: HamiltonianModel, part: PartPlan, rates: Rates) -> float:
    """Bytes of one rank while it runs the network, beside the program."""
    kept = keeps_rows_in_memory(config)
    passing = network_bytes(model, part) + halo_bytes(model, part) + rates.temporaries
    after = transpose_bytes(part) if kept or config.output.hamiltonian == "deeph" else 0.0
    return list_bytes(part) + (row_bytes(part) if kept else 0.0) + max(passing, after)


def partition_memory(part: PartPlan, rates: Rates) -> float:
    """Bytes of one rank while it looks for its pairs, beside the program: its lists, the search around some atoms, and,
    where these are not all, what sorts the pairs of all (a permutation, and i, j, R once more)."""
    searched = rates.searched * part.pairs * min(SEARCH / max(part.atoms, 1), 1.0)
    return list_bytes(part) + (searched if part.atoms <= SEARCH else searched + (8.0 + 11.0) * part.pairs)
