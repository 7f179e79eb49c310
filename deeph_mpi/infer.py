"""The pipeline: structure → partition → domain → network → rows of H and S → states."""

from __future__ import annotations

import contextlib
import logging
from functools import partial

import numpy as np
import torch

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import InferConfig
from deeph_mpi.data.geometry import write_geometry
from deeph_mpi.data.info import DeephInfo
from deeph_mpi.data.overlap import on_common_pairs, read_matrix
from deeph_mpi.data.rowfile import RowFile, check_overwritable, has_rows, write_rows
from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.handover import hand_over, led_partition
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.pairs import PairPlan, pairs_global
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.report import report_partition
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.dos import DosRun
from deeph_mpi.errors import StopRequested
from deeph_mpi.identity import job_identity, rows_identity
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.predict import allocate_rows, predict
from deeph_mpi.model.ranges import check_ranges
from deeph_mpi.parallel import World
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.memory import keep_freed_memory, return_freed_memory
from deeph_mpi.parallel.nodes import network_leaders, rank_device
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.stopping import finishing_units, stop_agreed
from deeph_mpi.restart import Restart
from deeph_mpi.results.environments import report_environments
from deeph_mpi.structure.read import read_structure

__all__ = ["infer"]

log = logging.getLogger(__name__)


def infer(config: InferConfig, world: World, *, resume: bool = False) -> None:
    """Predict H and S of a structure, keep them if asked to, and compute states. Collective.

    Args:
        config: what is asked.
        world: the ranks.
        resume: whether what an earlier run has finished is taken over: rows of H and S that lie in the output directory,
            k-points, slices and random vectors.

    Raises:
        StopRequested: on all ranks, when the job was asked to stop; what is finished is in restart.h5.
        DeephError: with one message, on all ranks.
    """
    with contextlib.ExitStack() as scope:
        _infer(config, world, resume, scope)


def _infer(config: InferConfig, world: World, resume: bool, scope: contextlib.ExitStack) -> None:
    """See `infer`; while the network's results are not yet on disk, `scope` lets a request to stop wait for that."""
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
        origin = world.on_root(rows_identity, config.model, config.output.dtype, structure)
        kept = (
            resume and config.output.hamiltonian == "deeph" and world.on_root(has_rows, config.output.directory, origin)
        )
        identity = world.on_root(job_identity, config, structure, [])
        restart = Restart(world, config.output.directory, identity, resume=resume, seconds=config.run.restart_seconds)
        if config.solve.enabled:
            from deeph_mpi.solve import plan_spectrum, run_spectrum  # PETSc: not needed to predict alone

            spectrum_plan = plan_spectrum(
                world,
                config.solve,
                config.factorization,
                structure,
                model.settings.orbitals,
                electrons,
                guess=model.facts.fermi_energy,
            )
        dos = DosRun(world, config.dos, config.solve, structure, guess=model.facts.fermi_energy)
        leaders = network_leaders(world, config.model.ranks_per_node)
        device = rank_device(world, leaders, share=config.model.share_gpus)
        model.to(device)

    with stages("partition"):
        weights = pair_weights(world, structure, orbitals, model.radii)
        if config.structure.partition == "metis":
            partition = world.on_root(partition_atoms_metis, structure, weights, world.size, model.radii)
        else:
            partition = partition_atoms(structure, weights, world.size)
        led = led_partition(partition, leaders)
        aware = config.model.cuda_aware_mpi
        if not kept:
            domain = build_domain(world, structure, led, model.settings.r_message, model.radii, aware)
            plan = PairPlan.build(world, led, domain)
            log.info("%s", report_partition(world, led, weights, domain))
            warnings = check_ranges(world, model, domain)
            for warning in warnings if world.is_root else ():
                log.warning("extrapolating: %s", warning)
        return_freed_memory()

    keep, directory = config.output.hamiltonian, config.output.directory
    assemble = config.solve.enabled or config.dos.enabled or keep == "petsc"
    files: list[RowFile] = []
    rows: tuple[BlockSet, BlockSet] | None = None
    if keep == "deeph" and not kept:
        scope.enter_context(finishing_units())
        info = DeephInfo(model.settings.orbitals, occupation=electrons, vacuum_level_eV=model.vacuum_level)
        world.on_root(write_geometry, directory, structure, model.settings.orbitals, info)
        if config.model.overlap is None:
            count, dtype = domain.n_owned + len(domain.pairs), np.dtype(config.output.dtype)
            for name in ("hamiltonian", "overlap"):
                files.append(RowFile(world, directory, name, count, partial(pairs_global, domain), orbitals, dtype))
            rows = files[0].blocks, files[1].blocks
    held: list[BlockSet] = []
    if kept:
        log.info("H and S in %s are those of this structure and checkpoint: they are not predicted again", directory)
        with stages("read rows"):
            for name in ("hamiltonian", "overlap") if assemble else ():
                shells = model.settings.orbitals
                held.append(read_matrix(world, directory / f"{name}.h5", structure, shells, partition.owner))
    else:
        if rows is None and (assemble or keep == "deeph"):
            rows = allocate_rows(domain, orbitals)
        with stages("network"):
            h, s, novelty = predict(world, model, domain, plan, orbitals, rows, config.model.memory_gb, device)
            report_environments(world, model, structure, led, novelty, directory)
            if config.model.overlap is not None and h is not None:
                s = read_matrix(world, config.model.overlap, structure, model.settings.orbitals, led.owner)
                h, s = on_common_pairs(h, s, orbitals)
        held = [h, s] if h is not None and s is not None else []
        del rows, domain, plan, h, s
    return_freed_memory()

    if assemble:
        from deeph_mpi.assembly.export import write_petsc
        from deeph_mpi.assembly.pencil import PencilAssembler
        from deeph_mpi.assembly.rows import RowMap
        from deeph_mpi.parallel.team import Team
        from deeph_mpi.pools import divide_ranks, spread_rows

        own = []
        if (leaders != np.arange(world.size)).any() and not kept:
            with stages("hand over"):
                for index in (0, 1):
                    blocks = held[index] if keep == "deeph" else held.pop(0)
                    own.append(hand_over(world, blocks, partition, leaders, orbitals))
                    del blocks
        with stages("assemble"):
            row_map = RowMap(partition, orbitals)
            dos.prepare(row_map, *(own or held))
            solves = config.solve.enabled and not dos.counts and keep != "petsc"
            team = Team(world, config.factorization.ranks_per_node if solves else None)
            pools = divide_ranks(team, spectrum_plan if solves else None, structure, orbitals, (own or held)[0])
            if pools.count > 1 or not team.is_whole:
                given = own or (list(held) if keep == "deeph" else held)
                row_map, own = spread_rows(team, pools, structure, weights, (orbitals, orbitals), given)
            if config.solve.enabled or dos.counts or keep == "petsc":
                backend = config.factorization.backend
                gauge = spectrum_plan.gauge if config.solve.enabled and keep != "petsc" else None
                make = partial(PencilAssembler, backend=backend, gauge=gauge)
                assembler = team.run(partial(make, pools.pool, row_map, *(own or held)))
        del own
    if keep == "deeph" and not kept:
        with stages("write"):
            for name, blocks in zip(("hamiltonian", "overlap"), held if not files else (), strict=False):
                write_rows(world, directory, name, blocks, orbitals, origin=origin)
            held.clear()
            for file in files:
                file.finish(origin)
        if stop := stop_agreed(world):
            raise StopRequested(
                f"stopped by {stop}; H and S are in {directory}: the same command with --resume goes on"
            )
    scope.close()
    held.clear()  # before the factorization needs the memory
    if keep == "petsc":
        with stages("write"):
            assert assembler is not None  # all ranks have assembled
            write_petsc(assembler, directory)
    if keep != "none" and world.is_root:
        emit("result", what="hamiltonian", form=keep, directory=directory)
    text, result = config.model_dump_json(), None
    if dos.counts:
        from deeph_mpi.solve import factor_options

        assert assembler is not None
        dos.count(assembler, world.on_root(factor_options, config.factorization, world.size), stages, restart)
    if config.solve.enabled:
        shells = model.settings.orbitals
        output = config.output
        result = run_spectrum(assembler, structure, shells, spectrum_plan, output, stages, text, team, pools, restart)
    if config.dos.enabled:
        dos.finish(result, config.output, stages, text, restart)
    elif not config.solve.enabled:
        log.info("\n%s", stages.summary())
    restart.finish()
