"""The pipeline: structure → partition → domain → network → rows of H and S → states."""

from __future__ import annotations

import logging

import torch

from deeph_mpi.config import InferConfig
from deeph_mpi.data.geometry import write_geometry
from deeph_mpi.data.info import DeephInfo
from deeph_mpi.data.overlap import on_common_pairs, read_overlap
from deeph_mpi.data.parallel import check_overwritable, write_rows
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.report import report_partition
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.predict import predict
from deeph_mpi.model.ranges import check_ranges
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.torch_group import rank_device
from deeph_mpi.results.environments import report_environments
from deeph_mpi.structure.read import read_structure

__all__ = ["infer"]

log = logging.getLogger(__name__)


def infer(config: InferConfig, world: World) -> None:
    """Predict H and S of a structure, keep them if asked to, and compute states. Collective.

    Raises:
        DeephError: with one message, on all ranks.
    """
    keep_freed_memory()
    stages = Stages(world)
    with stages("read"):
        structure = world.on_root(read_structure, config.structure.file)
        with world.together():
            model = load_checkpoint(config.model.checkpoint, getattr(torch, config.model.dtype))
            model.species(structure.numbers)
        orbitals = model.settings.orbitals.orbitals(structure.numbers)
        electrons = model.electrons(structure.numbers)
        if config.output.hamiltonian == "deeph":
            world.on_root(check_overwritable, config.output.directory)
        if config.solve.enabled:
            from deeph_mpi.solve import plan_spectrum, run_spectrum  # PETSc: not needed to predict alone

            spectrum_plan = plan_spectrum(world, config.solve, structure, electrons, guess=model.facts.fermi_energy)
        device = rank_device(world)
        model.to(device)

    with stages("partition"):
        weights = pair_weights(world, structure, orbitals, model.radii)
        if config.structure.partition == "metis":
            partition = world.on_root(partition_atoms_metis, structure, weights, world.size, model.radii)
        else:
            partition = partition_atoms(structure, weights, world.size)
        domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
        plan = PairPlan.build(world, partition, domain)
        log.info("%s", report_partition(world, partition, weights, domain))
        warnings = check_ranges(world, model, domain)
        for warning in warnings if world.is_root else ():
            log.warning("extrapolating: %s", warning)

    with stages("network"):
        h, s, novelty = predict(world, model, domain, plan, orbitals, config.model.memory_gb, device)
        report_environments(world, model, structure, partition, novelty, config.output.directory)
        if config.model.overlap is not None:
            s = read_overlap(world, config.model.overlap, structure, model.settings.orbitals, partition.owner)
            h, s = on_common_pairs(h, s, orbitals)

    if config.output.hamiltonian == "deeph":
        with stages("write"):
            info = DeephInfo(model.settings.orbitals, occupation=electrons, vacuum_level_eV=model.vacuum_level)
            world.on_root(write_geometry, config.output.directory, structure, model.settings.orbitals, info)
            write_rows(world, config.output.directory, "hamiltonian", h, orbitals)
            write_rows(world, config.output.directory, "overlap", s, orbitals)

    if config.solve.enabled or config.output.hamiltonian == "petsc":
        from deeph_mpi.assembly.export import write_petsc
        from deeph_mpi.assembly.pencil import PencilAssembler
        from deeph_mpi.assembly.rows import RowMap

        with stages("assemble"):
            assembler = PencilAssembler(world, RowMap(partition, orbitals), h, s)
        del h, s  # before the factorization needs the memory
        if config.output.hamiltonian == "petsc":
            with stages("write"):
                write_petsc(assembler, config.output.directory)
    if config.solve.enabled:
        run_spectrum(assembler, structure, spectrum_plan, config.output, stages, config.model_dump_json())
    else:
        log.info("\n%s", stages.summary())
